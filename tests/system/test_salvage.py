# SPDX-License-Identifier: GPL-2.0
"""A vCPU that was lent for a time, and is taken back from an L1 that does not give it."""
from kvmspan import transfer as tr
from kvmspan.cases import case, check, equal
from kvmspan.journey import Journey
from kvmspan.stopat import StopAt
from kvmspan.transfer import clean_up

TOPOLOGY = {"topology": "transfer"}
SOON = {"unresponsive-ms": 300, "lost-ms": 700}
# The vCPU is with an L1 that nobody hears any more; what is said of it is no kernel's complaint.
LENT = 200


def lend(m, vcpus, limit_ms=LENT, **spec):
    tr.settle(m, peers=("L1a", "L1b"), policy=SOON, **spec)
    # Interrupts are posted and delivered without exits there; vcpu/salvage-kernel has it without, too.
    equal(m["L1a"].sh("cat /sys/module/kvm_intel/parameters/enable_apicv").strip(), "Y", "APICv in the L1's KVM")
    j = Journey(m)
    j.go("L1a", vcpus, limit_ms=limit_ms)
    return j


def lost(m, after):
    e = m.wait_event("guest", "SPAN_PEER_LOST", after=after, timeout=400)
    m.log_line("losses", f"salvage: {e}")
    equal(e["data"]["name"], "L1a", "who was lost")
    return e["data"]


def came_back(m, j, data, what, vcpus=(1,)):
    """These vCPUs are here again, and all that has to be true in the guest is."""
    equal((data["vcpus"], data["salvaged"]), ([], list(vcpus)), f"what was lost and what was salvaged, {what}")
    for n in vcpus:
        j.owners[n] = tr.BASE
    info = tr.state(m)["transfer"]
    equal((info["status"], info["vcpus"], info["to"]), ("salvaged", list(vcpus), tr.BASE), f"the last transfer, {what}")
    check(m.qmp("guest", "query-status")["running"], f"the guest does not run, {what}")
    j.look(what)
    j.check(what)


@case("vcpu/salvage-stopped", timeout=900, tags=("long",), **TOPOLOGY)
def stopped(m):
    """The guest's QEMU in the L1 is stopped, five times: its vCPU's state is as of the last exit to the L1."""
    for i in range(5):
        j = lend(m, [1])
        after = len(m.events("guest"))
        m["L1a"].run(f"kill -STOP {m['guest'].peers['L1a'].pid}")
        came_back(m, j, lost(m, after), f"after its controller was stopped, round {i}")
        m["L1a"].run(f"kill -9 {m['guest'].peers['L1a'].pid}")
        j.check("when the L1's controller has ended")
        j.end()
        tr.stop_peer(m, "L1a")
    # And it may go there again, for good.
    tr.settle(m, peers=("L1a",), policy=SOON)
    j = Journey(m)
    j.go("L1a", [1])
    j.check("on the same L1 again")
    j.go("L0", [1])
    j.end()


@case("vcpu/salvage-running", timeout=900, tags=("long",), **TOPOLOGY)
def running(m):
    """The L1 runs the vCPU and does not listen any more: it is taken out of guest mode."""
    tr.settle(m, peers=("L1a", "L1b"), policy=SOON)
    spot = StopAt(m["L1a"], m["guest"].peers["L1a"].pid, "span_node_freeze", "hold", 60000)
    j = lend(m, [1])
    after = len(m.events("guest"))
    m.pump(lambda: spot.hit, 200, "the controller to be asked for the vCPU")
    came_back(m, j, lost(m, after), "while its controller did not listen")
    j.end()
    clean_up(m)


@case("vcpu/salvage-two", timeout=900, tags=("long",), **TOPOLOGY)
def two(m):
    """Two vCPUs of three are taken from one L1 at once: from its stopped controller, and from a hypervisor that hangs."""
    for how in ("controller", "hypervisor"):
        j = lend(m, [1, 2], cpus=3)
        j.check("two vCPUs on the L1")
        after = len(m.events("guest"))
        if how == "controller":
            m["L1a"].run(f"kill -STOP {m['guest'].peers['L1a'].pid}")
        else:
            m["L0"].run(f"kill -STOP {m['L1a'].pid}")
        came_back(m, j, lost(m, after), f"after the {how} was stopped", (1, 2))
        if how == "hypervisor":
            m["L0"].run(f"kill -CONT {m['L1a'].pid}")
        j.check(f"some time after the {how} was stopped")
        j.end()
        clean_up(m)


@case("vcpu/salvage-given", timeout=600, tags=("long",), **TOPOLOGY)
def given(m):
    """It has given the vCPU to somebody who does not take it, and is gone: nothing is salvaged over what it gave."""
    j = lend(m, [1], limit_ms=600000)
    guest, after = m["guest"], len(m.events("guest"))
    spot = StopAt(m["L1b"], guest.peers["L1b"].pid, "span_node_load_start", "stop")
    number = tr.start(m, "L1b", [1], timeout_ms=1000)
    m.pump(lambda: spot.hit, 100, "the new owner to begin to load")
    m["L1a"].run(f"kill -9 {guest.peers['L1a'].pid}")
    equal(tr.wait(m, number, after)["status"], "failed", "status")
    data = lost(m, after)
    equal((data["vcpus"], data["salvaged"]), ([], []), "what was lost and what was salvaged")
    j.owners[1] = tr.BASE
    j.look("run by the base with the state that it had")
    j.check("run by the base with the state that it had")
    j.end()
    clean_up(m)


@case("vcpu/salvage-hang", timeout=900, tags=("long",), **TOPOLOGY)
def hang(m):
    """The whole L1 is stopped; the guest goes on when the L1 is killed, or wakes up."""
    for how in ("CONT", "KILL"):
        j = lend(m, [1])
        after = len(m.events("guest"))
        m["L0"].run(f"kill -STOP {m['L1a'].pid}")
        came_back(m, j, lost(m, after), f"while the L1 hangs, before {how}")
        m["L0"].run(f"kill -{how} {m['L1a'].pid}")
        m.sleep(0.2)
        j.check(f"after {how} of the L1")
        j.end()
        clean_up(m)


@case("vcpu/salvage-not", timeout=900, tags=("long",), **TOPOLOGY)
def nothing(m):
    """vCPU 0 has the devices, of which the kernel knows nothing: it is lost, and all with it."""
    j = lend(m, None)
    after = len(m.events("guest"))
    m["L1a"].run(f"kill -STOP {m['guest'].peers['L1a'].pid}")
    data = lost(m, after)
    equal((sorted(data["vcpus"]), data["salvaged"]), ([0, 1], []), "what was lost and what was salvaged")
    equal(m.qmp("guest", "query-status")["status"], "internal-error", "status of the guest")
    clean_up(m)
    m["guest"].lost = "it stands still"
    del j
