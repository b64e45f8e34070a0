# SPDX-License-Identifier: GPL-2.0
"""Memory events and protection, asked for by L1s with stock kernels, of a guest
that runs on L0 and on an L1."""
import itertools
import os
import subprocess

from kvmspan import handover, paths
from kvmspan.cases import case, check, equal
from kvmspan.machine import QMPError
from kvmspan.span import (Chain, GuestPage, Memory, Worker, attach, base_memory, bring, detach, info, settle, take,
                          wait_driver)
from kvmspan.watch import Dirty, Protect, Watch

TOPOLOGY = {"topology": "hand-over"}
SOURCE = {"L0": "guest", "L1a": "guest on L1", "L1b": "guest on L1"}
_numbers = itertools.count(0x5ba0000001)


class Scene:
    """A page of a process in the guest, and both L1s attached with all rights."""

    def __init__(self, m, seat="L0"):
        settle(m)
        self.m = m
        self.base = base_memory(m)
        self.page = GuestPage(m, self.base)
        bring(m, "L1a", "rw")
        bring(m, "L1b", "rw")
        if seat != "L0":
            handover.hand_over(m, seat)
        self.seat, self.source = seat, SOURCE[seat]

    def content(self):
        return self.base.number(self.page.offset)

    def store(self):
        """The guest's process writes a new number; returns it."""
        n = next(_numbers)
        equal(self.page.tool.store(0, n), "ok", "the guest's store")
        return n

    def stored(self, what=""):
        n = self.store()
        equal(self.content(), n, f"the page, as L0 sees it {what}")

    def not_stored(self, what=""):
        before = self.content()
        self.store()
        equal(self.content(), before, f"the page after a denied write {what}")
        equal(self.page.tool.number(0), before, f"the page in the guest after a denied write {what}")

    def counter(self, name):
        return info(self.m)["counters"][name]

    def seconds(self, call):
        """How long it takes in the machine's time."""
        def uptime():
            return float(self.m["L0"].sh("cut -d' ' -f1 /proc/uptime"))
        before = uptime()
        call()
        return uptime() - before

    def nothing_left(self):
        i = info(self.m)
        equal((i["watches"], i["pending"]), (0, 0), "watches and waiting accesses that are left")


def kernel_text(m):
    """A page of the guest's kernel that it executes and nobody writes."""
    line = m["guest"].sh("grep 'Kernel code' /proc/iomem")
    return int(line.split("-")[0], 16) // 4096


def is_event(e, scene, access="write", answer="allow", source=None):
    got = {k: e[k] for k in ("access", "page", "source", "answer")}
    equal(got, {"access": access, "page": scene.page.page, "source": source or scene.source, "answer": answer},
          "the event")


def two_subscribers(m, seat):
    s = Scene(m, seat)
    a = Watch(m["L1a"], "--write", s.page.page, "--block")
    b = Watch(m["L1b"], "--write", s.page.page, "--block")
    for n in range(3):
        s.stored(f"(round {n})")
        is_event(a.event(), s)
        is_event(b.event(), s)
    equal(s.page.tool.number(8), int.from_bytes(s.page.mark[8:16], "little"), "the rest of the page")
    equal((a.all(), b.all()), ([], []), "events of a read")
    counted = b.end()
    equal((counted["events"], counted["allowed"], counted["timeouts"]), (3, 3, 0), "what L0 counted for L1b")
    s.stored("with one subscriber")
    is_event(a.event(), s)
    # By L0's controller and by L1b; the first cannot be stopped.
    equal(Memory(m["L1b"]).store(s.page.offset + 64, 1), "ok", "L1b's write")
    is_event(a.event(), s, source="L1")
    own = Memory(m["L1a"])
    equal(own.store(s.page.offset + 64, 2), "ok", "L1a's own write")
    counted = a.end()
    equal(a.rest, [], "events after its own write")
    equal((counted["events"], counted["timeouts"]), (5, 0), "what L0 counted for L1a")
    events = s.counter("events")
    s.stored("without subscribers")
    equal(s.counter("events"), events, "events without subscribers")
    s.nothing_left()


@case("event/two-subscribers", timeout=300, tags=("fast", "debug"), **TOPOLOGY)
def two_on_l0(m):
    """Blocking write events of the guest on L0, by two L1s at once; one leaving leaves the other's."""
    two_subscribers(m, "L0")


@case("event/two-subscribers-nested", timeout=300, tags=("fast", "debug"), **TOPOLOGY)
def two_nested(m):
    """The same while the guest runs on L1a, which subscribes too and has one vCPU."""
    two_subscribers(m, "L1a")


def kinds(m, seat):
    s = Scene(m, seat)
    w = Watch(m["L1b"], "--read", s.page.page, "--block")
    equal(s.page.tool.read(0, 1), s.base.read(s.page.offset, 1), "a read that was asked for")
    is_event(w.event(), s, access="read")
    w.end()
    w = Watch(m["L1b"], "--write", s.page.page, "--notify")
    s.stored("told")
    s.stored("not told again")
    is_event(w.event(), s, answer=None)
    s.m.sleep(0.05)
    equal(w.all(), [], "notices of a page after the first one")
    w.end()
    w = Watch(m["L1b"], "--write", s.page.page, "--block --cancel")
    s.stored("asked once")
    is_event(w.event(), s)
    s.stored("not asked again")
    equal(w.end()["events"], 1, "events after an answer that cancels")
    # 2 MiB of it: what the kernel does all the time is in there.
    w = Watch(m["L1b"], "--exec", f"{kernel_text(m)}+512", "--notify")
    e = w.event()
    equal((e["access"], e["source"]), ("execute", s.source), "the kernel of the guest at work")
    w.end()
    s.nothing_left()


@case("event/kinds", timeout=300, tags=("fast", "debug"), **TOPOLOGY)
def kinds_l0(m):
    """Read, write and execute; blocking, telling, cancelling."""
    kinds(m, "L0")


@case("event/kinds-nested", timeout=300, **TOPOLOGY)
def kinds_nested(m):
    kinds(m, "L1a")


def deny(m, seat):
    s = Scene(m, seat)
    work = Worker(m)
    w = Watch(m["L1b"], "--write", s.page.page, "--block --answer deny")
    s.not_stored("by L1b's answer")
    is_event(w.event(), s, answer="deny")
    allower = Watch(m["L1a"], "--write", s.page.page, "--block")
    s.not_stored("by one of two answers")
    allower.end()
    w.end()
    s.stored("after the one that denied has gone")
    w = Watch(m["L1b"], "--read", s.page.page, "--block --answer deny")
    equal(s.page.tool.read(0, 1), "SIGSEGV", "a read that is denied")
    w.end()
    equal(s.page.tool.number(0), s.content(), "a read afterwards")
    p = Protect(m["L1a"], "r", s.page.page)
    s.not_stored("by L1a's protection")
    e = p.event()
    check(e["violation"], f"not told as a violation: {e}")
    views = {name: Memory(m[name]) for name in ("L1a", "L1b")}
    before = s.content()
    for name, v in views.items():
        v.store(s.page.offset, 4711)
        equal(s.content(), before, f"a write by {name} to a page that L1a protects")
    q = Protect(m["L1b"], "r", s.page.page)
    p.end()
    s.not_stored("by L1b's protection, after L1a's has ended")
    q.end()
    s.stored("without protection")
    text = kernel_text(m)
    p = Protect(m["L1b"], "rx", text)
    before = s.base.read(text * 4096, 64)
    for name, v in views.items():
        v.store(text * 4096, 0xcccccccccccccccc - (1 << 64))
        equal(s.base.read(text * 4096, 64), before, f"the kernel's text after a write by {name}")
    p.end()
    check(s.counter("denials") >= 8, "denials are counted")
    work.advanced("after all that")
    work.stop()
    s.nothing_left()


@case("event/deny", timeout=400, tags=("fast", "debug"), **TOPOLOGY)
def deny_l0(m):
    """Denied by an answer, by a protection; of a process's page and of the kernel's text; the rest goes on."""
    deny(m, "L0")


@case("event/deny-nested", timeout=400, **TOPOLOGY)
def deny_nested(m):
    deny(m, "L1a")


@case("event/deadline", timeout=300, tags=("fast", "debug"), **TOPOLOGY)
def deadline(m):
    """No answer: the default action by the deadline; after three the watch is mute."""
    s = Scene(m)
    w = Watch(m["L1b"], "--write", s.page.page, "--answer ask --deadline 300 --on-timeout deny")
    took = s.seconds(lambda: s.not_stored("by the deadline"))
    check(0.25 < took < 0.8, f"a write with a deadline of 0.3 s took {took:.2f} s")
    events = len(m.events("guest"))
    for _ in range(2):
        s.not_stored("by the deadline")
    e = m.wait_event("guest", "SPAN_WATCH_MUTED", after=events)
    equal(e["data"]["name"], "L1b", "who is mute")
    took = s.seconds(lambda: s.not_stored("of a mute watch"))
    check(took < 0.2, f"a write that asks a mute watch took {took:.2f} s")
    check(s.counter("timeouts") >= 3, "timeouts are counted")
    w.abandon()
    w = Watch(m["L1b"], "--write", s.page.page, "--answer ask --deadline 200 --on-timeout allow")
    s.stored("by the deadline of one that allows")
    w.abandon()
    s.nothing_left()


def write_waits(s, options="--answer ask --deadline 900"):
    """L1b is asked and does not answer; the guest's write waits."""
    w = Watch(s.m["L1b"], "--write", s.page.page, options)
    n = next(_numbers)
    s.page.tool.start(f"x 0 {n}")
    s.m.pump(lambda: b"(a)llow" in w.p.err or w.p.over, 30, "spanctl's question")
    equal(info(s.m)["pending"], 1, "accesses that wait")
    return w, n


def goes_on(s, n, limit, what):
    """The write ends within so many seconds, and has happened."""
    took = s.seconds(lambda: equal(s.page.tool.finish(), "ok", f"the guest's write {what}"))
    check(took < limit, f"the guest's write took {took:.2f} s {what}")
    equal(s.content(), n, f"the page {what}")


@case("event/subscriber-killed", timeout=300, tags=("fast", "debug"), **TOPOLOGY)
def subscriber_killed(m):
    """While a write waits for L1b, its service, then its QEMU, is killed: the write goes on at once."""
    s = Scene(m)
    w, n = write_waits(s)
    w.p.kill()
    goes_on(s, n, 0.4, "after the service was killed")
    w, n = write_waits(s)
    m.kill_vm("L1b")
    goes_on(s, n, 0.4, "after L1b was killed")
    s.nothing_left()


@case("event/subscriber-rebooted", timeout=300, **TOPOLOGY)
def subscriber_rebooted(m):
    """L1b is reset while a write waits: no watch of the old kernel is left."""
    s = Scene(m)
    boots = m["L1b"].endpoint.boots
    _, n = write_waits(s)
    m.qmp("L1b", "system_reset")
    goes_on(s, n, 0.95, "after L1b was reset")
    s.nothing_left()
    s.stored("afterwards")
    m.wait_reboot("L1b", boots)


@case("event/subscriber-hangs", timeout=300, tags=("fast", "debug"), **TOPOLOGY)
def subscriber_hangs(m):
    """L1b's QEMU is stopped while a write waits: the deadline, detach by force, and it comes back."""
    s = Scene(m)
    w, n = write_waits(s)
    m.kill_vm("L1b", "STOP")
    goes_on(s, n, 1.3, "after L1b was stopped")
    s.page.tool.start(f"x 0 {n + 1}")
    result = detach(m, "L1b", timeout_ms=100)
    equal(result["forced"], True, "forced")
    goes_on(s, n + 1, 1.3, "after L1b was detached by force")
    s.nothing_left()
    m.kill_vm("L1b", "CONT")
    wait_driver(m, "L1b", "detached")
    w.abandon()


def muted(m, events):
    """How often management has heard of L1b's silence since then."""
    told = [e["data"]["name"] for e in m.events("guest")[events:] if e["event"] == "SPAN_WATCH_MUTED"]
    equal(told, ["L1b"] * len(told), "who is mute")
    return len(told)


@case("event/muted", timeout=400, tags=("fast", "debug"), **TOPOLOGY)
def never_answers(m):
    """The third timeout in a row mutes it, which is told once; an answer ends that, and three more are told again."""
    s = Scene(m)
    events, timeouts = len(m.events("guest")), s.counter("timeouts")
    w = Watch(m["L1b"], "--write", s.page.page, "--answer ask --deadline 200 --on-timeout allow")
    for n in range(3):
        equal(muted(m, events), 0, f"events after {n} timeouts")
        took = s.seconds(lambda: s.stored("by the deadline"))
        check(took > 0.15, f"a write that nobody answers took {took:.2f} s, the deadline is 0.2 s")
    m.wait_event("guest", "SPAN_WATCH_MUTED", after=events)
    for _ in range(4):
        took = s.seconds(lambda: s.stored("while it is mute"))
        check(took < 0.15, f"a write that asks a mute watch took {took:.2f} s")
    m.sleep(1.2)       # an event could follow within a second only if the kernel told it twice
    equal(muted(m, events), 1, "events for one silence")
    member = next(x for x in info(m)["members"] if x["name"] == "L1b")
    equal(member["muted"], 1, "query-span's count")
    equal(s.counter("timeouts") - timeouts, 3, "timeouts; those of a mute watch are none")
    # Seven questions were put; to answer any of them, however late, counts.
    w.say("a\n" * 7)
    for _ in range(7):
        w.event()
    n = next(_numbers)
    s.page.tool.start(f"x 0 {n}")
    m.pump(lambda: w.p.err.count(b"(a)llow") == 8 or w.p.over, 30, "the eighth question")
    equal(info(m)["pending"], 1, "accesses that wait for one that answers again")
    w.say("d\n")
    equal(s.page.tool.finish(), "ok", "the guest's write")
    check(s.content() != n, "a write that was denied has happened")
    events = len(m.events("guest"))
    for _ in range(3):
        equal(muted(m, events), 0, "events before the third timeout in a row")
        s.stored("by the deadline")
    m.wait_event("guest", "SPAN_WATCH_MUTED", after=events)
    w.abandon()
    s.nothing_left()


def interrupted(s, type_something, signal):
    """While spanctl asks, and after something was typed, a signal ends it: the write goes on at once."""
    m, level = s.m, s.m["L1b"]
    p = level.spawn(f"exec spanctl watch /dev/span0 --write --answer ask --deadline 900 {s.page.page}", pty=True)
    m.pump(lambda: b"watching" in p.out or p.over, 60, "spanctl's first line")
    n = next(_numbers)
    s.page.tool.start(f"x 0 {n}")
    m.pump(lambda: b"(a)llow" in p.out or p.over, 30, "spanctl's question")
    state = info(m)
    equal((state["watches"], state["pending"]), (1, 1), "watches and waiting accesses")
    p.input(type_something)
    m.sleep(0.02)
    if signal:
        level.run(f"kill -{signal} $(pidof spanctl)")
    else:
        p.input(b"\x03")
    goes_on(s, n, 0.5, f"after {signal or 'Ctrl-C'}, typed before: {type_something}")
    rc, out = p.wait(30)
    check(rc == 0 and "end: signal" in out, f"spanctl ended with {rc}: {out}")
    s.nothing_left()
    events = s.counter("events")
    s.stored("afterwards")
    equal(s.counter("events"), events, "events after its end")


@case("event/asking-interrupted", timeout=400, tags=("fast", "debug"), **TOPOLOGY)
def asking_interrupted(m):
    """Ctrl-C, and signals, while spanctl waits for a person's answer leave nothing behind on L0."""
    s = Scene(m)
    # Ctrl-D behind a letter hands it over without an end of the line.
    for typed, signal in ((b"", None), (b"d\x04", None), (b"x\n", None), (b"d", "TERM"), (b"d\x04", "HUP")):
        interrupted(s, typed, signal)


@case("event/detached-while-an-access-waits", timeout=300, tags=("fast", "debug"), **TOPOLOGY)
def detached(m):
    s = Scene(m)
    w, n = write_waits(s)
    take(m, "L1b")
    goes_on(s, n, 0.4, "after L1b was detached")
    w.say("a\n")
    equal(w.p.wait(60)[0], 3, "spanctl's exit status after an answer that comes too late")
    s.nothing_left()


@case("event/flood", timeout=400, **TOPOLOGY)
def flood(m):
    """L1b answers what was never asked, without pause: L1a's events and the guest go on."""
    s = Scene(m)
    binary = paths.build("tests", "flood")
    os.makedirs(os.path.dirname(binary), exist_ok=True)
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-static", "-I" + os.path.join(paths.TOP, "kvm-span/include/uapi"),
                    "-o", binary, os.path.join(paths.TOP, "tests", "system", "flood.c")], check=True)
    m["L1b"].put(binary, "/tmp/flood", 0o755)
    a = Watch(m["L1a"], "--write", s.page.page, "--block")
    p = m["L1b"].spawn(f"exec /tmp/flood /dev/span0 {s.page.page}")
    m.pump(lambda: b"flooding" in p.out or p.over, 60, "the flood")
    check(not p.over, p.text())
    for n in range(5):
        took = s.seconds(lambda: s.stored(f"in the flood ({n})"))
        check(took < 2.5, f"a write took {took:.2f} s in the flood")
        is_event(a.event(), s)
    p.kill()
    counted = a.end()
    equal((counted["events"], counted["lost"]), (5, 0), "what L0 counted for L1a")
    check(s.counter("events") >= 5, "events are counted")
    s.nothing_left()


@case("event/rights", timeout=300, tags=("fast", "debug"), **TOPOLOGY)
def rights(m):
    """Nobody gets more than what was granted, and nobody is granted what the policy has not."""
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    for wrong in (["frob"], "notify", [1]):
        try:
            attach(m, "L1b", "rw", rights=wrong)
        except QMPError:
            continue
        raise AssertionError(f"attached with rights {wrong}")
    commands = {"notify": "watch /dev/span0 --write --notify {p} -t 0.1", "block": "watch /dev/span0 --write --block {p} -t 0.1",
                "deny": "protect /dev/span0 --allow r {p} -t 0.1", "log": "dirty /dev/span0 {p} --interval 0.05 -c 1"}
    for granted in ([], ["notify"], ["notify", "block"], ["deny"], ["log"]):
        bring(m, "L1b", "rw", rights=granted)
        got = next(x for x in info(m)["members"] if x["name"] == "L1b")["rights"]
        equal(sorted(got), sorted(granted), "rights in query-span")
        for right, command in commands.items():
            rc, out = m["L1b"].run("spanctl " + command.format(p=page.page), check=False)
            allowed = right in granted
            check((rc != 5) == allowed, f"granted {granted}: {command}: exit status {rc}, {out}")
        take(m, "L1b")
    equal(info(m)["watches"], 0, "watches")


def oracle(m, seat):
    s = Scene(m, seat)
    tool = Memory(m["guest"], "--pages 512")
    places = tool.places()
    logs = {"L1a": Dirty(m["L1a"], 0.04), "L1b": Dirty(m["L1b"], 0.1)}
    said = {name: d.take(1) for name, d in logs.items()}
    with handover.frozen(m):
        s.base.keep()
    chosen = set()
    for seed in range(6):
        chosen |= {places[i] for i in tool.scatter(seed, 150)}
        m.sleep(0.03)
    handover.quiet(m)
    with handover.frozen(m):
        changed = set(s.base.changed())
        for name, d in logs.items():
            said[name] |= d.take(3)
    check(len(chosen) >= 300 and chosen <= changed, f"{len(chosen - changed)} of {len(chosen)} writes did not arrive")
    for name, pages in said.items():
        missed = sorted(changed - pages)
        check(not missed, f"{name}'s log misses {len(missed)} of {len(changed)} pages that changed, guest on {seat}: "
              f"{missed[:10]}; {len(set(missed) & chosen)} of them the process's")
        m.log_line("oracle", f"guest on {seat}: {len(changed)} pages changed, {len(pages)} in the log of {name}")
        check(len(pages) < len(changed) + 3000, f"{name}'s log has {len(pages)} pages of {len(changed)} that changed")
    for d in logs.values():
        d.end()
    s.nothing_left()


@case("mem/dirty-log-oracle", timeout=400, tags=("fast", "debug"), **TOPOLOGY)
def oracle_l0(m):
    """Two logs with epochs of their own have every page that changed, whoever wrote: the guest, its devices."""
    oracle(m, "L0")


@case("mem/dirty-log-oracle-nested", timeout=400, **TOPOLOGY)
def oracle_nested(m):
    """The same while the guest runs on L1a."""
    oracle(m, "L1a")


@case("mem/dirty-log-over-hand-over", timeout=600, **TOPOLOGY)
def log_over_hand_over(m):
    """One log follows the guest from L0 to L1a and back and misses nothing on the way."""
    s = Scene(m)
    chain = Chain(m)
    log = Dirty(m["L1b"], 0.1)
    said = log.take(1)
    with handover.frozen(m):
        s.base.keep()
    for to in ("L1a", "L0"):
        s.stored(f"before the way to {to}")
        handover.hand_over(m, to)
        chain.check(f"on {to}")
        s.stored(f"on {to}")
    handover.quiet(m)
    with handover.frozen(m):
        changed = set(s.base.changed())
        said |= log.take(2)
    missed = sorted(changed - said)
    check(not missed, f"the log misses {len(missed)} of {len(changed)} pages: {missed[:10]}")
    log.end()
    chain.stop()
    handover.stop_peer(m, "L1a")
    s.nothing_left()
