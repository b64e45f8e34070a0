# SPDX-License-Identifier: GPL-2.0
"""The vCPUs of a running guest go from one hypervisor to another, all of them at once."""
from kvmspan import transfer as tr
from kvmspan.cases import case, check, equal
from kvmspan.journey import EASY, Journey
from kvmspan.machine import SPLIT_CPU
from kvmspan.span import base_memory, bring, must_fail, pattern, take
from kvmspan.stopat import StopAt
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


def travel(m, route, **how):
    tr.settle(m, peers=sorted({r for r in route if r != "L0"}), **how)
    j = Journey(m)
    for number, to in enumerate(route, 1):
        j.go(to)
        j.check(f"on {to} (move {number})")
    return j.end()


@case("vcpu/transfer", timeout=400, tags=("fast", "debug"), **TOPOLOGY)
def there_and_back(m):
    """Two vCPUs at work: L0 -> L1a -> L0, twice."""
    travel(m, ["L1a", "L0", "L1a", "L0"])


@case("vcpu/transfer-l1-to-l1", timeout=500, **TOPOLOGY)
def through_l0(m):
    """From an L1 to another one, through L0, which is never seen running the guest in between."""
    travel(m, ["L1a", "L1b", "L1a", "L0"])


@case("vcpu/transfer-1-cpu", timeout=400, tags=("long",), **TOPOLOGY)
def one(m):
    """A guest of one vCPU."""
    travel(m, ["L1a", "L0"], cpus=1)


@case("vcpu/transfer-4-cpus", timeout=900, tags=("long",), **TOPOLOGY)
def four(m):
    """A guest of four vCPUs."""
    travel(m, ["L1a", "L0"], cpus=4)


class Load:
    """stress-ng in the guest, which verifies what it does."""

    WHAT = "--cpu 1 --vm 1 --vm-bytes 4m --futex 1 --switch 1 --fork 1"

    def __init__(self, m):
        self.guest = m["guest"]
        self.p = self.guest.spawn(f"echo $$; exec stress-ng {self.WHAT} --verify --metrics-brief --timeout 1h")
        m.pump(lambda: b"dispatching hogs" in self.p.err + self.p.out or self.p.over, 200, "the start of stress-ng")
        check(not self.p.over, f"stress-ng ended: {self.p.text()}")

    def end(self):
        self.guest.run(f"kill -INT {self.p.out.decode().split()[0]}")
        rc, out = self.p.wait(300)
        check(rc == 0 and "fail" not in out, f"stress-ng ended with {rc}: {out}")
        return out


@case("vcpu/transfer-debian", timeout=1500, tags=("long",), topology="transfer-debian")
def debian(m):
    """A guest that is Debian, kernel, shell and tools, under Debian's stress-ng: over two L1s and back."""
    spec = {"kernel": "cloud", "memory": 256}
    tr.settle(m, peers=("L1a", "L1b"), **spec)
    check("Debian" in m["guest"].sh("uname -v"), "not Debian's kernel")
    check("GNU coreutils" in m["guest"].sh("bash -c 'ls --version'"), "not Debian's tools")
    load = Load(m)
    travel(m, ["L1a", "L1b", "L0"], **spec)
    m.log_line("stress-ng", load.end())


@case("vcpu/transfer-kvmclock", timeout=500, tags=("long",), **TOPOLOGY)
def kvmclock(m):
    """A guest whose clock is kvmclock: all its vCPUs can go, some of them cannot."""
    tr.settle(m, kvmclock="on")
    source = m["guest"].sh("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
    equal(source, "kvm-clock", "the guest's clock")
    j = Journey(m)
    first = j.torture.look()
    tr.refused(m, "L1a", [1], ["kvmclock"])
    for to in ("L1a", "L0", "L1a", "L0"):
        j.go(to)
        j.check(f"on {to}")
    last = j.torture.look()
    # The TSC is exact all the time; kvmclock must go with it.
    khz = 1497600
    by_tsc = (last["tsc"] - first["tsc"]) * 1000000 / khz
    drift = abs(last["clock_ns"] - first["clock_ns"] - by_tsc)
    check(drift < 4 * 100000, f"kvmclock drifted {drift:.0f} ns from the TSC in 4 transfers")
    j.end()


@case("vcpu/peer-writes-nothing", timeout=300, **TOPOLOGY)
def peer_writes_nothing(m):
    """A controller in an L1 that starts, comes to terms with the base, waits and ends changes no byte of the memory."""
    tr.settle(m, peers=())
    base = base_memory(m)
    bring(m, "L1a", "rw", rights=[])
    m.qmp("guest", "stop")
    try:
        pages = base.keep()
        check(pages >= 4000, f"the guest has {pages} pages only")
        before = tr.state(m)["present-pages"]
        tr.start_peer(m, "L1a")
        tr.wait_peer(m, "L1a")
        m.sleep(0.1)
        equal(base.changed(), [], "pages changed by a controller that is ready")
        tr.stop_peer(m, "L1a")
        m.sleep(0.05)
        equal(base.changed(), [], "pages changed by a controller that has ended")
        check(tr.state(m)["present-pages"] - before <= 16, "host pages that came into being by it")
        # The comparison does see a change.
        at = base.size - 8192
        equal(base.write(at, pattern()), "ok", "L0's write")
        equal(base.changed(), [at // 4096], "pages after a write to one")
    finally:
        m.qmp("guest", "cont")


@case("vcpu/refused", timeout=400, **TOPOLOGY)
def refused(m):
    """Another machine, vCPUs that there are not, an owner that is not known: each with its reason, and nothing happens."""
    tr.settle(m, peers=())
    t = Torture(m, EASY)
    bring(m, "L1a", "rw", rights=[])
    tr.refused(m, "L1a", None, ["L1a"])                # no controller there yet
    for cpu, word in ((SPLIT_CPU + ",avx2=off", "cpu"), (SPLIT_CPU.replace("tsc-adjust=on", "tsc-adjust=off"), "cpu")):
        tr.start_peer(m, "L1a", cpu=cpu)
        reason = tr.wait_peer(m, "L1a", ("refused",))["reason"]
        check(word in reason.lower(), f"the difference is not named: {reason}")
        tr.refused(m, "L1a", None, [])
        tr.stop_peer(m, "L1a")
    tr.start_peer(m, "L1a")
    tr.wait_peer(m, "L1a")
    tr.refused(m, "L1x", None, ["L1x"])
    tr.refused(m, "L1b", None, ["L1b"])                # not attached
    tr.refused(m, "L1a", [7], ["7"])
    tr.refused(m, "L1a", [], [])
    tr.refused(m, "L1a", [0], [], timeout_ms=0)
    peer = m["guest"].peers["L1a"]
    for command, arguments in (("cont", None), ("system_reset", None), ("migrate-incoming", {"uri": "tcp:127.0.0.1:1"})):
        must_fail(lambda c=command, a=arguments: peer.qmp(c, a))
    t.check("after all that")
    equal(t.stop()["sum"], 0, "errors")


@case("vcpu/not-granted", timeout=300, tags=("long",), **TOPOLOGY)
def not_granted(m):
    """The policy says which vCPUs an L1 may have."""
    spec = m["L1a"].spec
    for vcpus, allowed, forbidden in ((None, [], [None, [0], [1]]), ("1", [[1]], [None, [0], [0, 1]])):
        try:
            spec.vcpus = vcpus
            tr.settle(m, peers=())
        finally:
            spec.vcpus = "all"
        bring(m, "L1a", "rw", rights=[])
        if vcpus:
            tr.start_peer(m, "L1a")
            tr.wait_peer(m, "L1a")
        for v in forbidden:
            tr.refused(m, "L1a", v, ["L1a"])
        for v in allowed:
            tr.transfer(m, "L1a", v)
            tr.transfer(m, "L0", v)


@case("vcpu/cancel", timeout=300, **TOPOLOGY)
def cancel(m):
    """A transfer that is called off before the new owner runs: the vCPUs go on where they were, exact."""
    tr.settle(m)
    j = Journey(m)
    # The new owner does not answer: there is time to call it off.
    peer = m["guest"].peers["L1a"]
    m["L1a"].run(f"kill -STOP {peer.pid}")
    after = len(m.events("guest"))
    number = tr.start(m, "L1a", timeout_ms=60000)
    m.sleep(0.02)
    must_fail(lambda: tr.start(m, "L1a"), "transfer")      # one at a time
    tr.cancel(m, number)
    equal(tr.wait(m, number, after)["status"], "cancelled", "status")
    m["L1a"].run(f"kill -CONT {peer.pid}")
    equal(tr.owners(m), [tr.BASE] * 2, "owners")
    j.check("after a transfer was called off")
    must_fail(lambda: tr.cancel(m, number))
    must_fail(lambda: tr.cancel(m, 99999))
    tr.wait_peer(m, "L1a")
    j.go("L1a")
    j.check("on L1a")
    j.go("L0")
    j.end()


def interrupted(m, symbol, action, to="L1a", expect="failed"):
    """A transfer to L1a (or from it) in which L1a's controller meets its fate at a function of it."""
    tr.settle(m)
    if to == "L0":
        tr.transfer(m, "L1a")
    source = tr.owners(m)
    j = Journey(m)
    spot = StopAt(m["L1a"], m["guest"].peers["L1a"].pid, symbol, action)
    after = len(m.events("guest"))
    data = tr.wait(m, tr.start(m, to, timeout_ms=300), after)
    # The end may be told before the old owner hears that it can forget.
    m.pump(lambda: spot.hit, 20, f"the controller in L1a at {symbol}")
    what = f"({action} at {symbol}, to {to})"
    equal(data["status"], expect, f"status {what}: {data}")
    if expect == "failed":
        check(data.get("reason"), f"no reason {what}")
        equal(tr.owners(m), source, f"owners {what}")
    tr.follow(m)
    j.check(f"after the transfer {what}")
    j.end()
    m["guest"].peers["L1a"].disconnect()
    tr.stop_peer(m, "L1a")
    return data


@case("vcpu/interrupted", timeout=900, tags=("long",), **TOPOLOGY)
def peer_ends_before_it_runs(m):
    """The controller in the L1 is killed, or stops, at each step before it runs the vCPUs: they go on on L0."""
    for symbol in ("span_node_load_begin", "span_node_load_start", "span_node_load_end"):
        for action in ("kill", "stop"):
            interrupted(m, symbol, action)


@case("vcpu/interrupted-after", timeout=400, tags=("long",), **TOPOLOGY)
def source_ends_after(m):
    """The old owner ends when it is told to forget the vCPUs: they are at the new one already."""
    interrupted(m, "span_node_forget", "kill", to="L0", expect="completed")


@case("vcpu/detach-takes-back", timeout=300, tags=("long",), **TOPOLOGY)
def detach_takes_back(m):
    """span-detach of an L1 that has vCPUs: refused, or they are taken back first; they are never lost."""
    tr.settle(m)
    j = Journey(m)
    j.go("L1a")
    try:
        take(m, "L1a")
    except Exception as e:          # whatever it says: the guest must be where QMP says
        m.log_line("transfers", f"detach of an owner: {e}")
    tr.follow(m)
    j.check("after an attempt to detach its owner")
    if tr.owners(m)[0] != tr.BASE:
        j.go("L0")
    j.end()


@case("vcpu/limit", timeout=300, tags=("long",), **TOPOLOGY)
def limit(m):
    """Lent for a time only: the vCPUs come back by themselves."""
    tr.settle(m)
    j = Journey(m)
    after = len(m.events("guest"))
    first = j.go("L1a", limit_ms=200)
    tr.quiet(m)
    m.pump(lambda: any(e["event"] == "SPAN_TRANSFER" and e["data"]["id"] != first["id"] and
                       e["data"]["status"] == "completed" for e in m.events("guest")[after:]),
           200, "the vCPUs to come back")
    equal(tr.follow(m), tr.BASE, "owner of vCPU 0 when the time is over")
    j.check("when they had come back")
    j.end()
