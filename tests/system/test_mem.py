# SPDX-License-Identifier: GPL-2.0
"""Memory attach and detach: one page per guest address, least permission,
isolation, bounded harm, revoke before acknowledge (docs: the invariants)."""
import json
import random

from kvmspan import ktap
from kvmspan.cases import case, check, equal
from kvmspan.machine import RUN, MachineError
from kvmspan.span import (GUEST, GuestPage, Memory, Worker, attach, attached, base_memory, bring, detach, info,
                          must_fail, pattern, settle, take, wait_driver)

TWO = {"topology": "two-l1"}


class PastTheDriver:
    """The window's BAR mapped by a process of an L1 without our driver: what a hostile L1 would do."""

    def __init__(self, level, size):
        self.level, self.size = level, size
        self.device = level.sh("readlink -f /sys/class/span_port/span0/device")
        self.tool = None

    def __enter__(self):
        slot = self.device.split("/")[-1]
        self.level.run(f"echo {slot} >/sys/bus/pci/drivers/span_port/unbind && echo 1 >{self.device}/enable")
        self.tool = Memory(self.level, f"--size {self.size} {self.device}/resource2")
        self.tool.device = self.device
        return self.tool

    def __exit__(self, *exc):
        self.tool.close()
        slot = self.device.split("/")[-1]
        self.level.run(f"echo 0 >{self.device}/enable && echo {slot} >/sys/bus/pci/drivers/span_port/bind")


@case("mem/one-page-seen-by-all", tags=("fast", "debug"), timeout=200, **TWO)
def one_page(m):
    """Invariant 1: guest, L0, L1a and L1b at the same offset, both ways."""
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    bring(m, "L1a", "rw")
    bring(m, "L1b", "ro")
    a, b = Memory(m["L1a"]), Memory(m["L1b"], mode="ro")
    equal((a.size, b.size), (base.size, base.size), "sizes of the windows")
    views = {"L0": base, "L1a": a, "L1b": b}

    def everybody_sees(mark, who):
        for name, v in views.items():
            equal(v.read(page.offset, 16), mark, f"what {who} wrote, in {name}")
            equal(v.pread(page.offset, 16), mark, f"what {who} wrote, in {name} by read()")
        equal(page.read(), mark, f"what {who} wrote, in the guest")

    everybody_sees(page.mark, "the guest")
    mark = pattern("froml1")
    equal(a.write(page.offset, mark), "ok", "L1a's write")
    everybody_sees(mark, "L1a")
    mark = pattern("byfile")
    equal(a.pwrite(page.offset, mark), "ok", "L1a's pwrite")
    everybody_sees(mark, "L1a by write()")
    mark = pattern("froml0")
    equal(base.write(page.offset, mark), "ok", "L0's write")
    everybody_sees(mark, "L0")
    mark = pattern("again")
    page.write(mark)
    everybody_sees(mark, "the guest, again")


@case("mem/attach-allocates-nothing", tags=("fast", "debug"), **TWO)
def lazy(m):
    """Attach is O(1): no host page comes into being by it, nor by mapping the window."""
    settle(m)
    m.qmp("guest", "stop")  # a page that appears now is not the guest's doing
    try:
        before = info(m)["present-pages"]
        equal(attach(m, "L1a", "rw")["bytes"], m["guest"].spec.memory << 20, "bytes attached")
        wait_driver(m, "L1a", "attached")
        equal(info(m)["present-pages"], before, "host pages after attach")
        a = Memory(m["L1a"])
        equal(info(m)["present-pages"], before, "host pages after mmap() in the L1")
        check(before < (m["guest"].spec.memory << 20) // 4096, "the guest left no page untouched")
        hole = int(base_memory(m).do("h")[2:])
        check(hole < (m["guest"].spec.memory << 20), "the guest has touched all of its memory")
        equal(a.read(hole, 8), bytes(8), "a page that nobody has touched")
        equal(info(m)["present-pages"], before + 1, "host pages after a touch of one")
        check(info(m)["members"][0]["faults"] > 0, "faults are counted")
    finally:
        m.qmp("guest", "cont")
    detach(m, "L1a")


@case("mem/read-only-is-enforced", tags=("fast", "debug"), timeout=200, **TWO)
def read_only(m):
    """L0 enforces ro, also against an L1 that goes round our driver."""
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    bring(m, "L1b", "ro")
    b = m["L1b"]
    rc, out = b.run("memtool /dev/span0 rw </dev/null", check=False)
    check(rc and "error E" in out, f"a writable open or mapping of a read-only window: {out}")
    rc, out = b.run(f"spanctl write /dev/span0 {page.offset} deadbeef", check=False)
    equal(rc, 5, f"spanctl's exit status ({out})")
    equal(page.read(), page.mark, "the guest's page")
    with PastTheDriver(b, base.size) as raw:
        equal(raw.read(page.offset, 16), page.mark, "a read past the driver")
        raw.write(page.offset, b"\xde\xad\xbe\xef")
        equal(base.read(page.offset, 16), page.mark, "L0's view after a write past the driver")
        equal(page.read(), page.mark, "the guest's page after a write past the driver")
    equal(b.sh("echo alive"), "alive", "L1b afterwards")
    detach(m, "L1b")


@case("mem/policy", tags=("fast", "debug"), **TWO)
def policy(m):
    """Invariant 5: nobody gets in whom the policy does not name, nor more than it grants."""
    settle(m)
    before = info(m)["counters"]["grants"]
    must_fail(lambda: attach(m, "stranger", "ro", port=f"{RUN}/L1b.port"), "stranger")
    must_fail(lambda: attach(m, "L1b", "rw"), "L1b")
    must_fail(lambda: attach(m, "L1a", "rw", port=f"{RUN}/nowhere.port"), "nowhere")
    must_fail(lambda: attach(m, "", "ro", port=f"{RUN}/L1a.port"))
    must_fail(lambda: m.qmp("guest", "span-attach", {"guest": "no", "name": "L1a", "port": "x"}), "no")
    must_fail(lambda: detach(m, "L1a"), "L1a")
    must_fail(lambda: detach(m, "stranger"), "stranger")
    equal(attached(m), set(), "attached")
    check(info(m)["counters"]["joins"] <= before, "nobody joined")
    for name in ("L1a", "L1b"):
        rc, out = m[name].run("spanctl read /dev/span0 0 16", check=False)
        equal(rc, 3, f"a read of an empty port in {name} ({out})")
    equal(bring(m, "L1a", "ro")["access"], "ro", "less than the policy grants")
    must_fail(lambda: attach(m, "L1a", "rw"), "L1a")
    detach(m, "L1a")


@case("mem/detach-shuts-the-window", tags=("fast", "debug"), timeout=200, **TWO)
def detach_shuts(m):
    """Invariant 8: after detach a touch faults cleanly and no old data can be read."""
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    bring(m, "L1a", "rw")
    bring(m, "L1b", "ro")
    a, b = Memory(m["L1a"]), Memory(m["L1b"], mode="ro")
    equal(a.read(page.offset, 16), page.mark, "before detach")
    result = detach(m, "L1a")
    equal(result["forced"], False, "forced")
    equal(attached(m), {"L1b"}, "attached")
    wait_driver(m, "L1a", "detached")
    equal(a.read(page.offset, 16), "SIGBUS", "a touch of the old mapping")
    equal(a.write(page.offset, b"overwritten by L1"), "SIGBUS", "a write to the old mapping")
    check(str(a.pread(page.offset, 16)).startswith("error E"), "read() of the old file")
    equal(b.read(page.offset, 16), page.mark, "L1b is not touched by it")
    equal(page.read(), page.mark, "nor is the guest")
    # Round the driver: the BAR is empty, reads give ones.
    a.close()
    with PastTheDriver(m["L1a"], base.size) as raw:
        equal(raw.read(page.offset, 16), b"\xff" * 16, "the BAR, past the driver")
        equal(raw.write(page.offset, b"from a hostile L1"), "ok", "a write past the driver goes nowhere")
        equal(base.read(page.offset, 16), page.mark, "L0's view after it")
    # A second life of the window is a new one for old files.
    bring(m, "L1a", "rw")
    a = Memory(m["L1a"])
    equal(a.read(page.offset, 16), page.mark, "after attaching again")
    # 8590 ms are a hair more than 2^33 ns: a deadline that wraps would be over at once.
    equal(detach(m, "L1a", timeout_ms=8590)["forced"], False, "forced, with a long timeout")
    wait_driver(m, "L1a", "detached")
    attach(m, "L1a", "rw", timeout_ms=8590)
    take(m, "L1a")
    bring(m, "L1a", "rw")
    equal(a.read(page.offset, 16), "SIGBUS", "a mapping of the attachment before")
    check(str(a.pread(page.offset, 16)).startswith("error E"), "a file of the attachment before")
    equal(Memory(m["L1a"]).read(page.offset, 16), page.mark, "a new mapping")


@case("mem/l1-moves-the-window", tags=("fast",), timeout=300, **TWO)
def moves_window(m):
    """An L1 puts its window where KVM takes no memory: it sees none of it, and loses nothing but that."""
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    l1 = m["L1a"]
    bring(m, "L1a", "rw")
    with PastTheDriver(l1, base.size) as raw:
        equal(raw.read(page.offset, 16), page.mark, "the window where it was")
        high = 0x10 + 4 * 2 + 4
        old = l1.sh(f"dd if={raw.device}/config bs=4 skip={high // 4} count=1 2>/dev/null | od -An -b")
        check(old.split(), "no address in the BAR")

        def program(octets):
            data = "".join("\\0" + o for o in octets)
            l1.run(f"printf '%b' '{data}' | dd of={raw.device}/config bs=4 seek={high // 4} conv=notrunc")

        program(["000", "000", "020", "000"])  # 2^52, beyond any CPU's physical addresses
        equal(l1.sh("echo alive"), "alive", "the L1 with its window out of reach")
        check(raw.read(page.offset, 16) != page.mark, "the window is still where it was")
        detach(m, "L1a")
        attach(m, "L1a", "rw")
        equal(l1.sh("echo alive"), "alive", "the L1 after an attach to a window out of reach")
        check(raw.read(page.offset, 16) != page.mark, "an attachment to a window out of reach is seen")
        program(old.split())
        equal(raw.read(page.offset, 16), page.mark, "the window where it was, again")
    equal(page.read(), page.mark, "the guest's page")
    detach(m, "L1a")


@case("mem/detach-stops-a-writer", tags=("fast", "debug"), timeout=200, **TWO)
def detach_stops_writer(m):
    """An L1 process writes without pause while it is detached: nothing arrives after the answer."""
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    bring(m, "L1a", "rw")
    a = Memory(m["L1a"])
    equal(base.write(page.offset, bytes(8)), "ok", "zero")
    a.start(f"c {page.offset}")
    m.sleep(0.02)
    check(int.from_bytes(base.read(page.offset), "little") > 1000, "the writer writes")
    detach(m, "L1a")
    first = base.read(page.offset)
    m.sleep(0.05)
    equal(base.read(page.offset), first, "the counter after detach")
    equal(a.finish(), "SIGBUS", "the writer")
    equal(m["L1a"].sh("echo alive"), "alive", "the L1")


@case("mem/l1-asks-for-detach", tags=("fast",), **TWO)
def l1_asks(m):
    settle(m)
    bring(m, "L1a", "rw")
    events = len(m.events("guest"))
    m["L1a"].run("spanctl detach /dev/span0", timeout=100)
    e = m.wait_event("guest", "SPAN_DETACHED", after=events)
    equal((e["data"]["name"], e["data"]["forced"]), ("L1a", False), "the event")
    equal(attached(m), set(), "attached")


@case("mem/l1-killed-while-attached", tags=("fast", "debug"), timeout=300, **TWO)
def killed(m):
    """SIGKILL of an L1's QEMU: the guest and the other L1 go on, and it can come back."""
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    work = Worker(m)
    bring(m, "L1a", "rw")
    bring(m, "L1b", "ro")
    b = Memory(m["L1b"], mode="ro")
    events = len(m.events("guest"))
    m.kill_vm("L1a")
    e = m.wait_event("guest", "SPAN_PEER_LOST", after=events)
    equal(e["data"]["name"], "L1a", "who was lost")
    equal(attached(m), {"L1b"}, "attached")
    # A grant that is never used leaves too.
    equal(info(m)["counters"]["grants"], info(m)["counters"]["leaves"] + 1, "grants that have not left")
    work.advanced("after L1a was killed")
    mark = pattern("still")
    page.write(mark)
    equal(b.read(page.offset, 16), mark, "L1b's view")
    m.start_vm("L1a")
    bring(m, "L1a", "rw")
    equal(Memory(m["L1a"]).read(page.offset, 16), mark, "the new L1a's view")
    work.stop()


@case("mem/l1-killed-at-random-moments", tags=("slow",), timeout=900, **TWO)
def killed_at_random(m):
    """SIGKILL somewhere within attach and detach. Replay: the seed is in the message."""
    settle(m)
    seed = 4711
    rng = random.Random(seed)
    base = base_memory(m)
    page = GuestPage(m, base)
    work = Worker(m)
    bring(m, "L1b", "ro")
    b = Memory(m["L1b"], mode="ro")
    for n in range(8):
        where = f"(seed {seed}, round {n})"
        command = "span-attach" if n % 2 == 0 else "span-detach"
        if command == "span-detach":
            bring(m, "L1a", "rw")
        delay = rng.randrange(10, 160)
        arguments = {"guest": GUEST, "name": "L1a"}
        if command == "span-attach":
            arguments["port"] = f"{RUN}/L1a.port"
        # Both from one shell on L0, so that the kill falls into the command.
        m["L0"].run(f"(i=0; while [ $i -lt {delay} ]; do i=$((i+1)); done; kill -9 {m['L1a'].pid}) "
                    "</dev/null >/dev/null 2>&1 &")
        reply = m["guest"].qmp_raw(command, arguments, timeout=200)
        m["L0"].run(f"while kill -0 {m['L1a'].pid} 2>/dev/null; do sleep 0.01; done")
        m["L1a"].disconnect("killed")
        m.log_line("random", f"{where} {command} delay {delay}: {json.dumps(reply)}")
        m.pump(lambda: True)
        m.sleep(0.02)
        equal(attached(m), {"L1b"}, f"attached {where}")
        work.advanced(where)
        mark = pattern("round")
        page.write(mark)
        equal(b.read(page.offset, 16), mark, f"L1b's view {where}")
        m.start_vm("L1a")
    bring(m, "L1a", "rw")
    equal(Memory(m["L1a"]).read(page.offset, 16), mark, "L1a's view in the end")
    work.stop()


@case("mem/l1-stopped", tags=("fast", "debug"), timeout=300, **TWO)
def stopped(m):
    """Invariant 6: a QEMU that does not answer (SIGSTOP) delays detach by its deadline, no more."""
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    work = Worker(m)
    bring(m, "L1a", "rw")
    a = Memory(m["L1a"])
    a.start(f"c {page.offset + 8}")
    m.sleep(0.02)
    m.kill_vm("L1a", "STOP")

    def uptime():
        return float(m["L0"].sh("cut -d' ' -f1 /proc/uptime"))
    before = uptime()
    result = detach(m, "L1a", timeout_ms=300)
    took = uptime() - before
    equal(result["forced"], True, "forced")
    check(0.2 < took < 1.0, f"detach with a deadline of 0.3 s took {took} s")
    equal(attached(m), set(), "attached")
    work.advanced("while L1a is stopped")
    frozen = base.read(page.offset + 8)
    m.kill_vm("L1a", "CONT")
    m.sleep(0.1)
    equal(base.read(page.offset + 8), frozen, "the writer in the L1 after it goes on")
    equal(m["L1a"].sh("echo alive", timeout=100), "alive", "the L1 after it goes on")
    wait_driver(m, "L1a", "detached")
    equal(a.finish(), "SIGBUS", "the writer in the L1")
    bring(m, "L1a", "rw")
    equal(Memory(m["L1a"]).read(page.offset, 16)[:8], page.mark[:8], "after attaching again")
    work.stop()


@case("mem/attach-to-a-stopped-l1", tags=("fast",), timeout=300, **TWO)
def attach_stopped(m):
    """A port that never answers: attach fails by its deadline and leaves nothing."""
    settle(m)
    m.kill_vm("L1a", "STOP")
    try:
        text = must_fail(lambda: attach(m, "L1a", "rw", timeout_ms=300), "L1a")
        m.log_line("errors", text)
        equal(info(m)["members"], [], "members")
    finally:
        m.kill_vm("L1a", "CONT")
    m.sleep(0.1)
    rc, _ = m["L1a"].run("spanctl read /dev/span0 0 16", check=False, timeout=100)
    equal(rc, 3, "the L1 has nothing")
    bring(m, "L1a", "rw")
    detach(m, "L1a")


def reboots_attached(m, how):
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    work = Worker(m)
    bring(m, "L1a", "rw")
    bring(m, "L1b", "ro")
    boots = m["L1a"].endpoint.boots
    how()
    m.wait_reboot("L1a", boots)
    work.advanced("after the reboot of L1a")
    mark = pattern("boot")
    page.write(mark)
    equal(Memory(m["L1b"], mode="ro").read(page.offset, 16), mark, "L1b's view")
    # The attachment belongs to the VM, not to the kernel in it.
    equal(attached(m), {"L1a", "L1b"}, "attached")
    wait_driver(m, "L1a", "attached")
    equal(Memory(m["L1a"]).read(page.offset, 16), mark, "the view of the new kernel in L1a")
    take(m, "L1a")
    bring(m, "L1a", "rw")
    equal(Memory(m["L1a"]).read(page.offset, 16), mark, "after detach and attach")
    work.stop()


@case("mem/l1-reset-while-attached", tags=("fast",), timeout=300, **TWO)
def reset(m):
    reboots_attached(m, lambda: m.qmp("L1a", "system_reset"))


@case("mem/l1-panic-while-attached", tags=("fast",), timeout=300, expect=("L1a: ",), **TWO)
def panic(m):
    reboots_attached(m, lambda: m["L1a"].spawn("echo c >/proc/sysrq-trigger"))


@case("mem/base-killed", tags=("fast", "debug"), timeout=300, **TWO)
def base_killed(m):
    """The guest's own QEMU dies: its members are fenced and live on."""
    settle(m)
    bring(m, "L1a", "rw")
    bring(m, "L1b", "ro")
    a, b = Memory(m["L1a"]), Memory(m["L1b"], mode="ro")
    m.kill_vm("guest")
    for name, v in (("L1a", a), ("L1b", b)):
        wait_driver(m, name, "detached")
        equal(v.read(0, 8), "SIGBUS", f"the window of {name}")
        equal(m[name].sh("echo alive"), "alive", name)
    m.start_vm("guest")
    bring(m, "L1a", "rw")
    equal(len(Memory(m["L1a"]).read(4096, 8)), 8, "a new guest in the window")


def usage(m):
    l0 = m["L0"]
    l0.run("sync; echo 3 >/proc/sys/vm/drop_caches")
    pids = [m[n].pid for n in ("guest", "L1a", "L1b")]
    fds = [int(l0.sh(f"ls /proc/{p}/fd | wc -l")) for p in pids]
    maps = [int(l0.sh(f"wc -l </proc/{p}/maps")) for p in pids]
    slab = int(l0.sh("sed -n 's/^Slab: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"))
    return fds, maps, slab


@case("mem/fifty-cycles", tags=("slow",), timeout=900, **TWO)
def cycles(m):
    """No file descriptor, mapping or kernel memory is left behind by an attachment."""
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    work = Worker(m)
    for _ in range(3):
        bring(m, "L1a", "rw")
        take(m, "L1a")
    before = usage(m)
    for n in range(50):
        attach(m, "L1a", "rw")
        if n % 10 == 0:
            wait_driver(m, "L1a", "attached")
            equal(Memory(m["L1a"]).read(page.offset, 16), page.mark, f"the window in round {n}")
            work.advanced(f"in round {n}")
        detach(m, "L1a")
    wait_driver(m, "L1a", "detached")
    after = usage(m)
    m.log_line("usage", f"before {before}, after {after}")
    equal(after[0], before[0], "file descriptors of guest, L1a, L1b")
    check(all(x <= y + 2 for x, y in zip(after[1], before[1])), f"mappings: {before[1]} became {after[1]}")
    check(after[2] < before[2] + 1024, f"slab: {before[2]} KiB became {after[2]} KiB")
    counters = info(m)["counters"]
    equal((counters["grants"], counters["joins"]), (counters["leaves"], counters["leaves"]), "grants, joins = leaves")
    work.stop()


@case("mem/port-device", tags=("fast", "debug"), timeout=300, **TWO)
def port_device(m):
    """tests/kvm/span_port_dev.c in the L1s: with write access, read-only, and over a detach."""
    settle(m)
    bring(m, "L1a", "rw")
    bring(m, "L1b", "ro")
    text = ""
    for name, mode in (("L1a", "--rw"), ("L1b", "--ro")):
        rc, out = m[name].run(f"span_port_dev {mode}", timeout=100, check=False)
        result = ktap.Output(out, rc)
        check(result.result == "passed", f"{name} {mode}: {result.why}\n{out}")
        text += out
    p = m["L1a"].spawn("span_port_dev --after-detach")
    m.pump(lambda: b"READY" in p.out or p.done, 100, "span_port_dev --after-detach")
    detach(m, "L1a")
    rc, out = p.wait(100)
    return ktap.Output(out, rc)
