# SPDX-License-Identifier: GPL-2.0
"""The faults of the Span paper's section 4.3, whoever touches a page first: one
host page on every path, found by whoever comes later."""
import contextlib
import os
import subprocess

from kvmspan import handover, paths
from kvmspan.cases import case, check, equal
from kvmspan.span import (Chain, Memory, attached, base_memory, bring, detach, info, pattern, settle,
                          wait_driver)

TOPOLOGY = {"topology": "hand-over"}
SAMPLE = 12


def counters(m):
    return info(m)["counters"]


def delta(before, after, name):
    return after[name] - before[name]


class Holes:
    """Pages of the guest's RAM that nobody has touched, dealt out to who shall be the first."""

    PARTIES = ("L0", "L1a", "L1b", "guest")

    def __init__(self, m, base, first, views):
        self.first = first
        m.qmp("guest", "stop")
        try:
            self.present = info(m)["present-pages"]
            count = (base.size // 4096 - first) // len(self.PARTIES)
            for number, name in enumerate(self.PARTIES[:3]):
                equal(views[name].do(f"t {first + number} {len(self.PARTIES)} {count}", 400), "ok", f"touch by {name}")
            self.made = info(m)["present-pages"] - self.present
        finally:
            m.qmp("guest", "cont")

    def of(self, page):
        """Who was the first one."""
        return self.PARTIES[(page - self.first) % len(self.PARTIES)] if page >= self.first else None


def check_rows(m, base, views, holes, where):
    """The guest takes memory in which others have been, and in which nobody has."""
    before, present = counters(m), info(m)["present-pages"]
    tool = Memory(m["guest"], "--pages 4096")
    places = tool.places()
    after, present = counters(m), info(m)["present-pages"] - present
    by = {name: [p for p in places if holes.of(p) == name] for name in holes.PARTIES}
    for name, pages in by.items():
        check(len(pages) >= SAMPLE, f"{len(pages)} pages of the guest's process were first touched by {name}")
    # Only where nobody had been a host page came into being; the guest's kernel takes some for itself.
    others = sum(len(by[name]) for name in holes.PARTIES[:3])
    check(len(by["guest"]) <= present <= len(places) - others + 512,
          f"{present} host pages for {len(places)} of the guest, {others} of which were there, {where}")
    own, other = ("ept-guest", "ept-shadow") if where == "L0" else ("ept-shadow", "ept-guest")
    check(delta(before, after, own) >= 256, f"{own} went up by {delta(before, after, own)}, guest on {where}")
    equal(delta(before, after, other), 0, f"{other}, guest on {where}")
    index = {p: i for i, p in enumerate(places)}
    for name, pages in by.items():
        for page in pages[:: len(pages) // SAMPLE][:SAMPLE]:
            mark = pattern(name)
            equal(tool.write(index[page] * 4096, mark), "ok", "the guest's write")
            for view, memory in views.items():
                equal(memory.read(page * 4096, 16), mark, f"page {page}, first touched by {name}, in {view}; guest on {where}")
            mark = pattern(name)
            equal(views["L1b"].write(page * 4096, mark), "ok", "L1b's write")
            equal(tool.read(index[page] * 4096, 16), mark, f"what L1b wrote to page {page}; guest on {where}")
    return tool


@case("mem/fault-rows", timeout=600, tags=("fast", "debug"), **TOPOLOGY)
def fault_rows(m):
    """Rows (a) to (d): EPT_Guest, Virtual EPT, Shadow EPT and EPT_L1 faults, after each other's first touch."""
    settle(m)
    m.restart_vm("guest")
    base = base_memory(m)
    bring(m, "L1a", "rw", rights=[])
    bring(m, "L1b", "rw", rights=[])
    views = {"L0": base, "L1a": Memory(m["L1a"]), "L1b": Memory(m["L1b"])}
    pages = base.size // 4096
    before = counters(m)
    # The second half is nearly all holes; half of it for the guest on L0, half for the guest on L1a.
    holes = Holes(m, base, pages // 2, views)
    check(holes.made >= 3 * (pages // 2 - 4096) // 4 // 2, f"{holes.made} host pages by others' first touches")
    check(delta(before, counters(m), "ept-l1") >= holes.made // 16, "EPT_L1 faults are counted")
    # It keeps its pages, so that the next one gets others.
    keeps = check_rows(m, base, views, holes, "L0")
    handover.hand_over(m, "L1a")
    check_rows(m, base, views, holes, "L1a")
    handover.hand_over(m, "L0")
    equal(counters(m)["remaps"], 0, "remaps by an honest L1")
    keeps.close()


def put_touch(m):
    """A program that runs a VM on L1a with the window where it likes."""
    binary = paths.build("tests", "l2-touch")
    os.makedirs(os.path.dirname(binary), exist_ok=True)
    subprocess.run(["gcc", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wno-unused-function", "-static", "-pthread",
                    "-I" + os.path.join(paths.TOP, "tests", "kvm"), "-o", binary,
                    os.path.join(paths.TOP, "tests", "system", "l2-touch.c")], check=True)
    m["L1a"].put(binary, "/tmp/l2-touch", 0o755)


@case("mem/remap-is-seen", timeout=300, tags=("fast", "debug"), **TOPOLOGY)
def remap(m):
    """A Virtual EPT that leads to another page than L0's: counted and reported, once; memory stays as it is."""
    settle(m)
    base = base_memory(m)
    bring(m, "L1a", "rw", rights=[])
    put_touch(m)
    events = len(m.events("guest"))
    start = base.size - (16 << 20)
    m["L1a"].run(f"/tmp/l2-touch /dev/span0 {start} {start} 64")
    equal(counters(m)["remaps"], 0, "remaps by an L2 at the right place")
    m["L1a"].run(f"/tmp/l2-touch /dev/span0 {start + 4096} {start} 64")
    check(counters(m)["remaps"] >= 8, f"{counters(m)['remaps']} remaps by an L2 one page off")
    e = m.wait_event("guest", "SPAN_PEER_REMAP", after=events)
    equal((e["data"]["name"], e["data"]["action"]), ("L1a", "report"), "who, and what is done with it")
    first = counters(m)["remaps"]
    m["L1a"].run(f"/tmp/l2-touch /dev/span0 {start + 4096} {start} 64")
    check(counters(m)["remaps"] > first, "further ones are counted")
    m.sleep(0.1)
    equal(len([x for x in m.events("guest")[events:] if x["event"] == "SPAN_PEER_REMAP"]), 1, "events")
    equal(next(x for x in info(m)["members"] if x["name"] == "L1a")["remapped"], True, "query-span's word on it")
    equal(m["guest"].sh("echo alive"), "alive", "the guest")
    equal(attached(m), {"L1a"}, "attached, by a policy that only reports")
    detach(m, "L1a")


@contextlib.contextmanager
def policy(m, **more):
    """The guest with other words in its policy, which is read when it starts."""
    plain = m.policy
    m.policy = lambda: dict(plain(), **more)
    try:
        m.restart_vm("guest")
        yield
    finally:
        m.policy = plain
        m.restart_vm("guest")


@case("mem/remap-is-ended", timeout=400, tags=("fast", "debug"), **TOPOLOGY)
def remap_ended(m):
    """on-remap=detach: an L1 whose Virtual EPT rearranges the guest is detached; the guest and others go on."""
    settle(m)
    with policy(m, **{"on-remap": "detach"}):
        equal(info(m)["on-remap"], "detach", "query-span's word on the policy")
        base = base_memory(m)
        for name in ("L1a", "L1b"):
            bring(m, name, "rw", rights=[])
        view, other = Memory(m["L1a"]), Memory(m["L1b"])
        put_touch(m)
        chain = Chain(m)
        start = base.size - (16 << 20)
        m["L1a"].run(f"/tmp/l2-touch /dev/span0 {start} {start} 64")
        m.sleep(0.1)
        equal((attached(m), counters(m)["remaps"]), ({"L1a", "L1b"}, 0), "attached, and remaps, after an honest L2")
        events = len(m.events("guest"))
        # It may or may not come to its end before its memory goes.
        m["L1a"].run(f"/tmp/l2-touch /dev/span0 {start + 4096} {start} 64", check=False)
        e = m.wait_event("guest", "SPAN_PEER_REMAP", after=events)
        equal((e["data"]["name"], e["data"]["action"]), ("L1a", "detach"), "who, and what is done with it")
        e = m.wait_event("guest", "SPAN_DETACHED", after=events)
        equal(e["data"]["name"], "L1a", "who is detached")
        wait_driver(m, "L1a", "detached")
        equal(attached(m), {"L1b"}, "attached afterwards")
        equal(view.read(start), "SIGBUS", "a read by L1a")
        chain.check("after L1a was detached")
        mark = pattern()
        equal(base.write(start, mark), "ok", "L0's write")
        equal(other.read(start, 16), mark, "what L1b reads")
        names = [x["event"] for x in m.events("guest")[events:]]
        equal([names.count(n) for n in ("SPAN_PEER_REMAP", "SPAN_DETACHED", "SPAN_PEER_LOST")], [1, 1, 0], "events")
        # Another time, and it behaves.
        bring(m, "L1a", "rw", rights=[])
        m["L1a"].run(f"/tmp/l2-touch /dev/span0 {start} {start} 64")
        m.sleep(0.1)
        equal(attached(m), {"L1a", "L1b"}, "attached once more")
        chain.check("at the end")
        chain.stop()
