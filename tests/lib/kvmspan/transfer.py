# SPDX-License-Identifier: GPL-2.0
"""What tests of vCPUs that move have in common: where they begin, what is refused, TSC offsets."""
from .cases import check
from .controller import QMPError
from .handover import (BASE, ENDS, GUEST, TransferError, follow, owners, quiet, seat, start, start_peer,  # noqa: F401
                       state, stop_peer, transfer, wait, wait_peer, where)
from .span import bring, take


def cancel(m, number):
    m.qmp("guest", "span-cancel", {"guest": GUEST, "id": number})


def tsc_offsets(m):
    """Of each vCPU where it is: guest's TSC minus L0's, exact; all the same for ever."""
    vm = m["guest"]
    result = []
    for n, owner in enumerate(owners(m)):
        if owner == BASE:
            result.append(_offset(m["L0"], vm.base.pid, n))
        else:
            # The two add up: L0's for the L1, and the L1's for the guest.
            result.append(m[owner].tsc_offset + _offset(m[owner], vm.peers[owner].pid, n))
    return result


def note_offset(m, on):
    """An L1's own: to be read while it runs no guest, since then L0's KVM shows the sum."""
    if m[on].tsc_offset_pid != m[on].pid:
        m[on].tsc_offset, m[on].tsc_offset_pid = _offset(m["L0"], m[on].pid, 0), m[on].pid


def _offset(level, pid, vcpu):
    return int(level.sh(f"cat /sys/kernel/debug/kvm/{pid}-*/vcpu{vcpu}/tsc-offset"))


def refused(m, to, vcpus=None, words=(), **options):
    """It has to be refused at once, or to fail, with words that say why; nothing has changed. The reason."""
    before = owners(m)
    try:
        transfer(m, to, vcpus, **options)
    except (QMPError, TransferError) as e:
        reason = str(e)
    else:
        raise AssertionError(f"a transfer to {to} of {vcpus} was done")
    for w in words:
        check(w in reason, f"the error does not mention '{w}': {reason}")
    check(owners(m) == before, f"owners were {before} and are {owners(m)}")
    return reason


def clean_up(m, on="L1a"):
    """That L1 is not usable any more, whatever was done to it."""
    if not m[on].lost:
        m["L0"].run(f"kill -9 {m[on].pid}; while kill -0 {m[on].pid} 2>/dev/null; do sleep 0.01; done")
        m[on].disconnect("it was lost")
    m["guest"].peers.pop(on, None)


# Where a test begins.

PLAIN = {"cpus": 2, "kvmclock": "off", "kernel": "trimmed", "memory": 128, "flags": None}


def _guest_as_wanted(m, spec):
    vm = m["guest"]
    if not vm.lost and vm.base.ended:
        vm.lost = "its QEMU has ended"
    if vm.lost or m.policy_used != m.policy() or any(getattr(vm.spec, k) != v for k, v in spec.items()):
        return False
    return vm.base.qmp("query-status")["running"] or owners(m)[0] not in (BASE, None)


def new_guest(m, **spec):
    """The guest starts anew, with other keys of its topology line if there are any."""
    vm = m["guest"]
    for on in list(vm.peers):
        stop_peer(m, on)
    for k, v in spec.items():
        setattr(vm.spec, k, v)
    m.restart_vm("guest")


def clock(m):
    """The guest's clock source."""
    source = m["guest"].sh("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
    # Before it takes the TSC for good, Linux compares it with a clock that must be read fast; with the debug
    # kernel on L0 no device is read fast enough, ever. What it has until then is the TSC all the same.
    return "tsc" if m.kernel == "debug" and source == "tsc-early" else source


def wait_tsc(m):
    """Linux has decided that the TSC is good for a clock."""
    for _ in range(20):
        source = clock(m)
        if source == "tsc":
            return
        m.sleep(0.2)
    raise AssertionError(f"the guest's clock is {source}")


def settle(m, peers=("L1a",), policy=None, **spec):
    """The guest, as in PLAIN but for these keys, runs on L0; in each of these L1s waits a controller, in the others none."""
    vm = m["guest"]
    spec = {**PLAIN, **spec}
    m.policy_extra = policy or {}
    for on in peers:
        if m[on].lost:
            m.restart_vm(on)
    if not _guest_as_wanted(m, spec):
        new_guest(m, **spec)
    elif owners(m) != [BASE] * spec["cpus"]:
        transfer(m, "L0")
    if spec["kvmclock"] == "off":
        wait_tsc(m)
    attached = {x["name"] for x in state(m)["members"] if x["state"] == "attached"}
    for on in [o for o in vm.peers if o not in peers or o not in attached]:
        stop_peer(m, on)
    for on in attached - set(peers):
        take(m, on)
    for on in peers:
        if on not in attached:
            bring(m, on, "rw", rights=[])
        note_offset(m, on)
        if on not in vm.peers:
            start_peer(m, on)
    for on in peers:
        wait_peer(m, on)
