# SPDX-License-Identifier: GPL-2.0
"""An L1 that runs vCPUs of the guest is lost."""
from kvmspan import transfer as tr
from kvmspan.cases import case, check, equal
from kvmspan.journey import EASY, Journey
from kvmspan.stopat import StopAt
from kvmspan.torture import Torture
from kvmspan.transfer import clean_up

TOPOLOGY = {"topology": "transfer"}
# Time of the machine until L0 has to have noticed.
NOTICED = 2.0


def lose(m, policy, vcpus, how):
    """Give vCPUs to L1a, lose it; the event."""
    tr.settle(m, peers=("L1a", "L1b"), policy=dict({"on-peer-loss": policy} if policy else {}, **{"unresponsive-ms": 300, "lost-ms": 1000}))
    tr.transfer(m, "L1a", vcpus)
    m.sleep(0.02)
    boots, after = m["guest"].endpoint.boots, len(m.events("guest"))
    started = m.tsc()
    if how == "vm":
        m.kill_vm("L1a")
    elif how == "controller":
        m["L1a"].run(f"kill -9 {m['guest'].peers['L1a'].pid}")
    elif how == "hang":
        m["L0"].run(f"kill -STOP {m['L1a'].pid}")
    elif how == "hung-controller":
        m["L1a"].run(f"kill -STOP {m['guest'].peers['L1a'].pid}")
    elif how == "panic":
        m["L1a"].spawn("echo c >/proc/sysrq-trigger")
    e = m.wait_event("guest", "SPAN_PEER_LOST", after=after, timeout=200)
    seconds = (m.tsc() - started) / 1.4976e9
    m.log_line("losses", f"{how} {vcpus} {policy}: noticed within {seconds:.3f} s: {e}")
    equal(e["data"]["name"], "L1a", "who was lost")
    equal(sorted(e["data"]["vcpus"]), vcpus, "vCPUs lost with it")
    check(seconds < NOTICED, f"noticed after {seconds:.2f} s")
    if how in ("hang", "hung-controller"):
        check(any(x["event"] == "SPAN_PEER_UNRESPONSIVE" for x in m.events("guest")[after:]), "no SPAN_PEER_UNRESPONSIVE")
    return boots


def others_are_well(m):
    m["L0"].run("true")
    m["L1b"].run("spanctl list")


@case("vcpu/loss-stop", timeout=900, tags=("long",), **TOPOLOGY)
def loss_stop(m):
    """Policy stop, the default: the guest stands still, with an internal error; it can be reset."""
    for vcpus, how in (([0, 1], "vm"), ([1], "controller")):
        boots = lose(m, None, vcpus, how)
        status = m.qmp("guest", "query-status")
        equal((status["running"], status["status"]), (False, "internal-error"), "status of the guest")
        others_are_well(m)
        if how == "vm":
            m.qmp("guest", "system_reset")
            m.qmp("guest", "cont")
            tr.follow(m)
            m.wait_reboot("guest", boots)
            equal(tr.owners(m), [tr.BASE] * 2, "owners after the reset")
            equal(m["guest"].sh("nproc"), "2", "CPUs after the reset")
        clean_up(m)
    m["guest"].lost = "it stands still"


@case("vcpu/loss-reset", timeout=900, tags=("long",), **TOPOLOGY)
def loss_reset(m):
    """Policy reset: the guest begins anew on L0, from whatever loss."""
    for vcpus, how in (([0, 1], "vm"), ([1], "hang")):
        boots = lose(m, "reset", vcpus, how)
        tr.follow(m)
        m.wait_reboot("guest", boots)
        equal(tr.owners(m), [tr.BASE] * 2, "owners")
        equal(m["guest"].sh("nproc"), "2", "CPUs")
        others_are_well(m)
        clean_up(m)
        # And it can go to the other one.
        tr.wait_tsc(m)
        tr.transfer(m, "L1b")
        t = Torture(m, EASY)
        t.check("on L1b after a reset")
        equal(t.stop()["sum"], 0, "errors")
        tr.transfer(m, "L0")


@case("vcpu/loss-kill", timeout=600, tags=("long",), **TOPOLOGY)
def loss_kill(m):
    """Policy kill: the guest's QEMU on L0 ends."""
    lose(m, "kill", [1], "hung-controller")
    m.pump(lambda: m["guest"].base.ended, 60, "the end of the base's QEMU")
    others_are_well(m)
    clean_up(m)


@case("vcpu/loss-panic", timeout=600, tags=("long",), expect=(r"^L1a: ",), **TOPOLOGY)
def loss_panic(m):
    """The L1 that runs the guest panics and reboots."""
    lose(m, None, [0, 1], "panic")
    others_are_well(m)
    clean_up(m)
    m["guest"].lost = "it stands still"


@case("vcpu/loss-of-idle", timeout=400, tags=("long",), **TOPOLOGY)
def loss_of_idle(m):
    """One that has no vCPU is lost: the guest goes on, on L0 and on the other L1."""
    tr.settle(m, peers=("L1a", "L1b"))
    t = Torture(m, EASY)
    tr.transfer(m, "L1b", [1])
    m.kill_vm("L1a")
    e = m.wait_event("guest", "SPAN_PEER_LOST", after=len(m.events("guest")) - 1)
    equal(e["data"]["name"], "L1a", "who was lost")
    t.check("after the loss of an L1 without vCPUs")
    tr.transfer(m, "L0")
    equal(t.stop()["sum"], 0, "errors")
    clean_up(m)


@case("vcpu/loss-in-transfer", timeout=900, tags=("long",), **TOPOLOGY)
def loss_in_transfer(m):
    """The source is lost when L0 has all of its state: that state is exact, and the base runs it."""
    tr.settle(m, peers=("L1a", "L1b"))
    t = Torture(m, EASY)
    tr.transfer(m, "L1a")
    after = len(m.events("guest"))
    # The new owner is held before it loads; meanwhile the old one ends.
    spot = StopAt(m["L1b"], m["guest"].peers["L1b"].pid, "span_node_load_start", "hold", 200)
    number = tr.start(m, "L1b", timeout_ms=3000)
    m.pump(lambda: spot.hit, 100, "the new owner to begin to load")
    m["L1a"].run(f"kill -9 {m['guest'].peers['L1a'].pid}")
    data = tr.wait(m, number, after)
    tr.follow(m)
    check(None not in tr.owners(m), f"a vCPU has no owner: {tr.owners(m)}")
    check("L1a" not in tr.owners(m), "a vCPU is on L1a, whose controller has ended")
    t.check(f"after the loss of its source ({data})")
    tr.transfer(m, "L0")
    equal(t.stop()["sum"], 0, "errors")
    clean_up(m)


@case("vcpu/loss-of-new-owner", timeout=900, tags=("long",), **TOPOLOGY)
def loss_of_new_owner(m):
    """The new owner is lost before it acknowledges: the state that was frozen goes on at its source, an L1."""
    for symbol, action in (("span_node_load_start", "kill"), ("span_node_load_end", "stop")):
        tr.settle(m, peers=("L1a", "L1b"))
        j = Journey(m)
        j.go("L1a")
        spot = StopAt(m["L1b"], m["guest"].peers["L1b"].pid, symbol, action)
        after = len(m.events("guest"))
        data = tr.wait(m, tr.start(m, "L1b", timeout_ms=300), after)
        check(spot.hit, f"the controller in L1b did not get to {symbol}")
        equal(data["status"], "failed", f"status ({action} at {symbol}): {data}")
        equal(tr.owners(m), ["L1a"] * 2, f"owners ({action} at {symbol})")
        j.check(f"after {action} of the new owner at {symbol}")
        j.go("L0")
        j.end()
        m["guest"].peers["L1b"].disconnect()
        tr.stop_peer(m, "L1b")
