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


def lend(m, vcpus, policy=None):
    tr.settle(m, peers=("L1a", "L1b"), policy={**SOON, **(policy or {})})
    j = Journey(m)
    j.go("L1a", vcpus, limit_ms=LENT)
    return j


def lost(m, after):
    e = m.wait_event("guest", "SPAN_PEER_LOST", after=after, timeout=400)
    m.log_line("losses", f"salvage: {e}")
    equal(e["data"]["name"], "L1a", "who was lost")
    return e["data"]


def came_back(m, j, data, what):
    """vCPU 1 is here again, and all that has to be true in the guest is."""
    equal((data["vcpus"], data["salvaged"]), ([], [1]), f"what was lost and what was salvaged, {what}")
    j.owners[1] = tr.BASE
    info = tr.state(m)["transfer"]
    equal((info["status"], info["vcpus"], info["to"]), ("salvaged", [1], tr.BASE), f"the last transfer, {what}")
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
