# SPDX-License-Identifier: GPL-2.0
"""The vCPUs of a running guest go from one hypervisor to another, all of them at once."""
from kvmspan.cases import case, check, equal
from kvmspan.torture import KINDS, Torture

TOPOLOGY = {"topology": "transfer"}


@case("vcpu/torture", timeout=200, topology="transfer", vms=("guest",))
def torture_notices(m):
    """What checks the guest in the other tests finds nothing in a guest at rest, and notices each kind of error."""
    t = Torture(m)
    m.sleep(0.2)
    t.check("on L0")
    for kind in KINDS:
        t.spoil(kind)
        for _ in range(50):
            errors = t.look()["errors"]
            if errors[kind]:
                break
            m.sleep(0.02)
        check(errors[kind], f"a spoiled round of '{kind}' was not noticed")
    last = t.stop()
    equal({k for k in KINDS if last["errors"][k]}, set(KINDS), "kinds of errors noticed")
