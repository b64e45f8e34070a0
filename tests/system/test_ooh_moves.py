# SPDX-License-Identifier: GPL-2.0
"""What becomes of tracking when its VM moves to another QEMU while it runs, or is reset.

The oracle (tests/kvm/ooh_oracle.c) runs in the VM all the time: it compares the memory of the process
with what was reported, byte for byte, before, during and after. Nothing that was armed is there on the
other side; what was written meanwhile has to be reported all the same."""
import re

from kvmspan import wire
from kvmspan.cases import case, check
from kvmspan.controller import RUN, Controller

EPOCHS = 150
DONE = re.compile(r"(\d+) epochs, (\d+) pages")


def oracle_start(vm, epochs=EPOCHS):
    vm.run(f"(ooh_oracle spml --epochs {epochs} >/tmp/oracle.log 2>&1; echo $? >/tmp/oracle.rc) &")


def oracle_runs(vm):
    return vm.run("[ ! -e /tmp/oracle.rc ]", check=False)[0] == 0


def oracle_end(m, vm, epochs=EPOCHS):
    for _ in range(300):
        if not oracle_runs(vm):
            break
        m.sleep(0.1)
    out = vm.sh("cat /tmp/oracle.log")
    check(not oracle_runs(vm), f"the oracle has not ended: {out[-800:]}")
    check(vm.sh("cat /tmp/oracle.rc").strip() == "0", f"the oracle says: {out[-1500:]}")
    found = DONE.search(out)
    check(found and int(found[1]) == epochs and int(found[2]) > epochs, f"not all epochs: {out[-800:]}")


def start_target(m, vm):
    """A second QEMU of the VM on L0, waiting for its state; the way to the agent goes there, too."""
    stem = f"{vm.name}.target"
    words = [w.replace(f"{RUN}/{vm.name}.", f"{RUN}/{stem}.") for w in m._qemu_command(vm.spec)]
    target = Controller(m, vm.name, stem, m["L0"])
    target.pid = m.launch(m["L0"], stem, words + ["-incoming", "defer"])
    vm.connect_controller(target)
    vm.peers["target"] = target
    target.qmp("migrate-incoming", {"uri": f"unix:{RUN}/{stem}.migration"})
    return target, f"unix:{RUN}/{stem}.migration"


def migrate(m, vm, uri):
    """Live; what query-migrate says when it is over."""
    vm.request(wire.PING)           # no byte of the agent's is under way
    vm.qmp("migrate-set-parameters", {"max-bandwidth": 1 << 40, "downtime-limit": 200})
    vm.qmp("migrate", {"uri": uri})
    for _ in range(600):
        info = vm.qmp("query-migrate")
        if info.get("status") in ("completed", "failed", "cancelled"):
            break
        m.sleep(0.02)
    check(info.get("status") == "completed", f"migration: {info}")
    return info


@case("ooh/migrate", topology="ooh", tags=("long",), timeout=600)
def live_migration(m):
    vm = m["guest"]
    target, uri = start_target(m, vm)
    oracle_start(vm)
    m.sleep(0.3)
    check(oracle_runs(vm), "the oracle was over before the migration")
    source = vm.base
    info = migrate(m, vm, uri)
    vm.seat = vm.base = target
    del vm.peers["target"]
    m["L0"].run(f"kill -9 {source.pid}; while kill -0 {source.pid} 2>/dev/null; do sleep 0.01; done")
    source.disconnect()
    check(oracle_runs(vm), "the oracle was over before the end of the migration")
    m.log(f"{info['ram']['transferred'] >> 20} MiB in {info['total-time']} ms, {info['downtime']} ms of downtime")
    oracle_end(m, vm)


@case("ooh/reset", topology="ooh", tags=("long",), timeout=600)
def reset(m):
    vm = m["guest"]
    oracle_start(vm, 100000)
    m.sleep(0.3)
    check(oracle_runs(vm), "the oracle was over before the reset")
    boots = vm.endpoint.boots
    vm.qmp("system_reset")
    m.wait_reboot(vm.name, boots)
    # Nothing is left of the first boot: frames that it had armed would be reported to a module that knows nothing of them.
    oracle_start(vm, 60)
    oracle_end(m, vm, 60)
