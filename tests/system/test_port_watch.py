# SPDX-License-Identifier: GPL-2.0
"""Watches as an L1 has them: the driver's descriptors, spanctl, and the pages that span-ps names."""
import json
import re
import struct

from kvmspan import ktap
from kvmspan.cases import case, check, equal
from kvmspan.span import Memory, base_memory, settle, wait_driver, GUEST, RUN

TWO = {"topology": "two-l1"}
ALL = ["notify", "block", "deny", "log"]
DEV = "/dev/span0"


def attach(m, name, access, rights):
    m.qmp("guest", "span-attach", {"guest": GUEST, "name": name, "port": f"{RUN}/{name}.port", "access": access,
                                   "rights": rights})
    wait_driver(m, name, "attached")


def detach(m, name):
    m.qmp("guest", "span-detach", {"guest": GUEST, "name": name})


class Counting:
    """A process of the guest that counts without end in a page of its own; which is known."""

    def __init__(self, m):
        base = base_memory(m)
        self._tool = Memory(m["guest"], "--page")
        mark = b"port-watch " + bytes(5)
        equal(self._tool.write(0, mark), "ok", "the guest's write")
        hits = base.pages_with(mark)
        base.close()
        equal(len(hits), 1, "pages of the guest that begin with the mark")
        self.page = hits[0] // 4096
        self._tool.start("c 0")

    def close(self):
        self._tool.close()


def check_ktap(what, rc, out):
    result = ktap.Output(out, rc)
    check(result.result == "passed", f"{what}: {result.why}\n{out}")


@case("mem/port-watch", tags=("fast", "debug"), timeout=400, **TWO)
def port_watch(m):
    """tests/kvm/span_port_watch.c in the L1s: without rights, with all of them, read-only, and until the end."""
    settle(m)
    attach(m, "L1a", "rw", [])
    check_ktap("no rights", *m["L1a"].run("span_port_watch --none", timeout=60, check=False))
    detach(m, "L1a")
    wait_driver(m, "L1a", "detached")
    count = Counting(m)
    attach(m, "L1a", "rw", ALL)
    rc, out = m["L1a"].run(f"span_port_watch --all {count.page}", timeout=300, check=False)
    p = m["L1a"].spawn(f"span_port_watch --end {count.page}")
    m.pump(lambda: b"READY" in p.out or p.done, 60, "the watches that are to end")
    detach(m, "L1a")
    end_rc, end_out = p.wait(60)
    equal(m["L1a"].sh("cat /sys/class/span_port/span0/watch_errors"), "0", "errors of the event rings")
    count.close()
    check_ktap("the end by a detach", end_rc, end_out[end_out.index("TAP"):])
    return ktap.Output(out, rc)


@case("mem/port-watch-unbind", tags=("fast", "debug"), timeout=300, **TWO)
def port_watch_unbind(m):
    """The driver leaves its device while there are watches, one with an access that waits for it."""
    settle(m)
    count = Counting(m)
    attach(m, "L1b", "ro", ALL)
    l1 = m["L1b"]
    p = l1.spawn(f"span_port_watch --end {count.page}")
    m.pump(lambda: b"READY" in p.out or p.done, 60, "the watches that are to end")
    function = l1.sh("basename $(readlink -f /sys/class/span_port/span0/device)")
    l1.run(f"echo {function} >/sys/bus/pci/drivers/span_port/unbind", timeout=60)
    end_rc, end_out = p.wait(60)
    l1.run(f"echo {function} >/sys/bus/pci/drivers/span_port/bind")
    # L0 has none of them any more, and the rings go on where they stopped
    equal(m.qmp("guest", "query-span")[0]["watches"], 0, "watches that L0 knows")
    line = l1.sh(f"spanctl watch {DEV} --write {count.page} -c 1 -t 20 --json").splitlines()
    equal(json.loads(line[1])["page"], count.page, "page of an event after the driver came back")
    detach(m, "L1b")
    count.close()
    return ktap.Output(end_out[end_out.index("TAP"):], end_rc)


@case("mem/port-watch-reset", tags=("fast", "debug"), timeout=300, **TWO)
def port_watch_reset(m):
    """The function is reset under its driver: the watches end, here as on L0, and new ones work."""
    settle(m)
    count = Counting(m)
    attach(m, "L1b", "ro", ALL)
    l1 = m["L1b"]
    p = l1.spawn(f"spanctl protect {DEV} --allow rx {count.page}")
    m.pump(lambda: "denied" in p.text() or p.done, 60, "the protection")
    l1.run("echo 1 >/sys/class/span_port/span0/device/reset", timeout=60)
    rc, text = p.wait(60)
    equal((rc, "end: detached" in text), (3, True), text)
    equal(m.qmp("guest", "query-span")[0]["watches"], 0, "watches that L0 knows")
    line = l1.sh(f"spanctl watch {DEV} --write {count.page} --answer allow -c 2 -t 20 --json").splitlines()
    equal([json.loads(x)["type"] for x in line], ["start", "event", "event", "end"], "events after the reset")
    l1.run(f"spanctl ping {DEV} -c 10")
    detach(m, "L1b")
    count.close()


EVENTS = 16384                  # the ring of events in BAR 5, and its slots
SLOTS = EVENTS + 8192


def message(kind, length, payload, seq=1):
    return struct.pack("<HHIQ", kind, length, 0, seq) + payload.ljust(48, b"\xff")[:48]


@case("mem/port-watch-garbage", tags=("fast", "debug"), timeout=300, expect=("L0 broke the protocol of events",), **TWO)
def port_watch_garbage(m):
    """Whatever is in the rings, the driver counts it and lives; the next attachment is as new."""
    settle(m)
    l1, count = m["L1a"], Counting(m)
    errors = lambda: int(l1.sh("cat /sys/class/span_port/span0/watch_errors"))   # noqa: E731
    event = f"spanctl --json watch {DEV} --write {count.page} -c 1 -t 20"
    attach(m, "L1a", "rw", ALL)
    before = errors()
    rings = Memory(l1, "--size 131072 /sys/class/span_port/span0/device/resource5")
    # an index that cannot be: counted, and the next event of L0 puts it right
    for head in (0xdeadbeef, 0xffffffff, 0x80000000):
        old = errors()
        equal(rings.write(EVENTS, struct.pack("<I", head)), "ok", "writing to the ring")
        equal(lines(l1.sh(event))[1]["page"], count.page, "page of the event after it")
        check(errors() > old, f"the index {head:#x} was not noticed")
    # messages that cannot be; an event of a watch that nobody has; one too many lost
    head = struct.unpack("<I", rings.read(EVENTS, 4))[0]
    forged = [message(0xffff, 0xffff, b""), message(16, 47, b""), message(18, 0, b""), message(0, 0, b"", 2 ** 64 - 1),
              message(16, 48, struct.pack("<QI", 5, 0)), message(16, 48, struct.pack("<QI", 5, 64)),
              message(16, 48, struct.pack("<QI", 5, 0xffffffff)), message(16, 48, struct.pack("<QI", 5, 63)),
              message(18, 8, struct.pack("<Q", 2 ** 64 - 1))]
    for n, text in enumerate(forged):
        equal(rings.write(SLOTS + (head + n) % 128 * 64, text), "ok", "writing to the ring")
    equal(rings.write(EVENTS, struct.pack("<I", head + len(forged))), "ok", "writing to the ring")
    old = errors()
    l1.run(f"spanctl watch {DEV} --write 0 -t 0.05")
    check(errors() >= old + 6, f"of {len(forged)} forged messages {errors() - old} were counted")
    rings.close()
    detach(m, "L1a")
    wait_driver(m, "L1a", "detached")
    attach(m, "L1a", "rw", ALL)
    old = errors()
    equal(lines(l1.sh(event))[1]["page"], count.page, "page of an event of the next attachment")
    equal(errors(), old, "errors in the next attachment")
    check(old > before, "nothing was counted")
    detach(m, "L1a")
    count.close()


def lines(out):
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


@case("mem/spanctl-watch", tags=("fast",), timeout=300, **TWO)
def spanctl_watch(m):
    settle(m)
    count = Counting(m)
    attach(m, "L1a", "rw", ALL)
    attach(m, "L1b", "ro", ["log"])
    l1 = m["L1a"]
    out = lines(l1.sh(f"spanctl --json watch {DEV} --write {count.page} --answer allow -c 3 -t 20"))
    equal([x["type"] for x in out], ["start", "event", "event", "event", "end"], "lines of watch")
    equal({x["answer"] for x in out[1:4]}, {"allow"}, "answers")
    check(out[4]["allowed"] >= 2 and out[4]["reason"] == "count", f"its end: {out[4]}")
    # denied writes leave the page as it is; without the watch the guest goes on
    p = l1.spawn(f"spanctl watch {DEV} --write {count.page} --answer deny")
    m.pump(lambda: p.text().count("deny") > 2 or p.done, 60, "denied writes")
    before, after = (l1.sh(f"spanctl read {DEV} @{count.page * 4096} 8".replace("@", "")) for _ in range(2))
    equal(after, before, "the page while writes are denied")
    p.kill()
    p.wait()
    l1.run("sleep 0.01")
    check(l1.sh(f"spanctl read {DEV} {count.page * 4096} 8") != after, "the guest does not go on")
    # the kinds of refusal
    rc, out = m["L1b"].run(f"spanctl watch {DEV} --write 0 --block", check=False)
    equal((rc, "not granted" in out), (5, True), f"watching with the right to log only: {out}")
    rc, out = m["L1b"].run(f"spanctl protect {DEV} --allow r 0", check=False)
    equal(rc, 5, f"protecting with the right to log only: {out}")
    # the rate, from the other L1; one page is written all the time
    out = lines(m["L1b"].sh(f"spanctl --json dirty {DEV} --interval 0.05 -c 4 --list"))
    equal([x["epoch"] for x in out], [1, 2, 3, 4], "epochs")
    for x in out:
        check(any(first <= count.page < first + n for first, n in x["ranges"]), f"the page is missing: {x}")
        equal(sum(n for _, n in x["ranges"]), x["pages"], "pages in the ranges")
    out = lines(m["L1b"].sh(f"spanctl --json dirty {DEV} --interval 0.05 -c 1 {count.page}"))
    equal(out[0]["pages"], 1, "pages written of one")
    # a detach ends it
    p = l1.spawn(f"spanctl protect {DEV} --allow rx {count.page}")
    m.pump(lambda: "denied" in p.text() or p.done, 60, "the protection")
    detach(m, "L1a")
    rc, text = p.wait(60)
    equal((rc, "end: detached" in text), (3, True), text)
    detach(m, "L1b")
    count.close()


def kernel_code(guest):
    """First and last byte of the kernel's code by the guest's own account."""
    found = re.search(r"([0-9a-f]+)-([0-9a-f]+) : Kernel code", guest.sh("cat /proc/iomem"))
    check(found, "no kernel code in the guest's /proc/iomem")
    return int(found[1], 16), int(found[2], 16)


def frame(guest, pid, address):
    """The page that the guest's own kernel says is there."""
    text = guest.sh(f"dd if=/proc/{pid}/pagemap bs=8 count=1 skip={address >> 12} 2>/dev/null | hexdump -v -e '8/1 \"%02x\"'")
    entry = int.from_bytes(bytes.fromhex(text), "little")
    check(entry >> 63, f"the page at {address:#x} of {pid} is not present: {entry:#x}")
    return entry & (1 << 55) - 1


@case("mem/span-ps-pages", tags=("fast",), timeout=400, **TWO)
def span_ps_pages(m):
    """Where the kernel's code and a process's page are, against what the guest says itself."""
    settle(m)
    guest, l1 = m["guest"], m["L1b"]
    attach(m, "L1b", "ro", [])
    first, last = kernel_code(guest)
    text = json.loads(l1.sh(f"span-ps --json --kernel-text {DEV}", timeout=300))["kernel_text"]
    start, end = text[0]["page"] * 4096, (text[-1]["page"] + text[-1]["pages"]) * 4096
    check(start <= first and last < end, f"code at {first:#x} to {last:#x}, found {text}")
    # rounded to large pages at most
    check(first - start < 2 << 20 and end - last <= 2 << 20, f"code at {first:#x} to {last:#x}, found {text}")
    plain = l1.sh(f"span-ps --kernel-text {DEV}", timeout=300).splitlines()
    equal(plain, [f"{t['page']:#x}+{t['pages']:#x}" for t in text], "the same for spanctl")

    pid = int(guest.sh("sleep 5555 </dev/null >/dev/null 2>&1 & echo $!"))
    maps = guest.sh(f"cat /proc/{pid}/maps").splitlines()
    stack = next(line for line in maps if "[stack]" in line)
    address = int(stack.split()[0].split("-")[1], 16) - 4096 + 24
    try:
        out = json.loads(l1.sh(f"span-ps --json --pid {pid} --vaddr {address:#x} {DEV}", timeout=300))["address"]
        equal((out["pid"], out["page"], out["offset"] % 4096), (pid, frame(guest, pid, address), address % 4096),
              "page of the process's stack")
        equal((out["writable"], out["executable"]), (True, False), "rights of its stack")
        rc, text = l1.run(f"span-ps --pid {pid} --vaddr 0x10 {DEV}", timeout=300, check=False)
        equal((rc, "nothing at 0x10" in text), (6, True), text)
        rc, text = l1.run(f"span-ps --pid 2 --vaddr 0x10 {DEV}", timeout=300, check=False)
        equal((rc, "no memory of its own" in text), (6, True), text)
        rc, text = l1.run(f"span-ps --pid 77777 --vaddr 0x10 {DEV}", timeout=300, check=False)
        equal((rc, "no process 77777" in text), (6, True), text)
    finally:
        guest.run(f"kill {pid}", check=False)
    detach(m, "L1b")
