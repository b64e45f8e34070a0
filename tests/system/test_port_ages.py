# SPDX-License-Identifier: GPL-2.0
"""A driver and a port that are not of the same age: each does with what both have, or says why not."""
import contextlib

from kvmspan.cases import case, check, equal
from kvmspan.machine import RUN
from kvmspan.span import GuestPage, Memory, attach, base_memory, bring, detach, must_fail, pattern, settle, take

TWO = {"topology": "two-l1"}
DEVICE = "/sys/class/span_port/span0/device"
DRIVER = "/sys/bus/pci/drivers/span_port"
WINDOW, RING, WATCH, SHARE = 1, 2, 4, 8


@contextlib.contextmanager
def aged(m, name, **properties):
    """The L1 with a port that has these properties; with one of today afterwards."""
    settle(m)
    m.kill_vm(name)
    m.start_vm(name, extra=[w for k, v in properties.items()
                            for w in ("-global", f"span-port-pci.x-{k}={v}")])
    try:
        yield m[name]
    finally:
        m.restart_vm(name)


def vectors(level):
    return len(level.sh(f"ls {DEVICE}/msi_irqs").split())


def bar(level, number):
    """Bytes of a BAR."""
    start, end = (int(w, 16) for w in level.sh(f"sed -n {number + 1}p {DEVICE}/resource").split()[:2])
    return end - start + 1 if end else 0


def memory_works(m):
    base = base_memory(m)
    page, window = GuestPage(m, base), Memory(m["L1a"])
    equal(window.read(page.offset, 16), page.mark, "the guest's page in L1a")
    mark = pattern("froml1")
    equal(window.write(page.offset, mark), "ok", "L1a's write")
    equal(page.read(), mark, "what L1a wrote, in the guest")
    m["L1a"].run("spanctl ping /dev/span0 -c 10")
    window.close()
    base.close()


def failing(level, command):
    rc, out = level.run(command, check=False)
    check(rc, f"'{command}' was done")
    return out


@case("mem/port-of-old", tags=("fast",), timeout=300, fresh=True, **TWO)
def port_of_old(m):
    """A port with window and rings only: the memory is shared; what needs more is refused, on both ends."""
    with aged(m, "L1a", features=WINDOW | RING) as l1:
        equal((vectors(l1), bar(l1, 5)), (2, 0), "interrupts, and bytes of BAR 5")
        must_fail(lambda: attach(m, "L1a", "rw"), "L1a", "this port has no watches")
        bring(m, "L1a", "rw", rights=[])
        memory_works(m)
        check("this port cannot watch memory" in failing(l1, "spanctl watch /dev/span0 --write 0x100+1"), "no reason for no watch")
        l1.run("span_port_channel --none")              # the stream: EACCES
        take(m, "L1a")


@case("mem/port-without-shared-pages", tags=("fast",), timeout=300, fresh=True, **TWO)
def port_without_shared_pages(m):
    """A port that has watches, and no shared pages: watches work, vCPUs are refused."""
    with aged(m, "L1a", features=WINDOW | RING | WATCH) as l1:
        equal((vectors(l1), bar(l1, 5)), (3, 512 << 10), "interrupts, and bytes of BAR 5")
        refused = m["L0"].run(f"span_port_channel --base {RUN}/L1a.port </dev/null", check=False)[1]
        equal(refused.strip(), "REFUSED", "an offer with vCPUs")
        bring(m, "L1a", "rw")
        memory_works(m)
        page = GuestPage(m, base_memory(m))
        watch = l1.spawn(f"exec spanctl watch /dev/span0 --write --count 1 {page.page:#x}+1")
        m.sleep(0.05)
        page.write(pattern("seen"))
        rc, out = watch.wait(60)
        check(rc == 0 and f"{page.page:#x}" in out, f"what the watch saw: {rc} {out}")
        take(m, "L1a")


@case("mem/port-of-tomorrow", tags=("fast",), timeout=300, fresh=True, **TWO)
def port_of_tomorrow(m):
    """A version that the driver does not know: it says so and leaves the device alone."""
    with aged(m, "L1a", version=2) as l1:
        failing(l1, "ls /dev/span0")
        check("span-port version 2, this driver knows 1" in l1.dmesg(), "no word of the driver")
        l1.run("rmmod span_port")


@case("mem/driver-of-old", tags=("fast",), timeout=300, **TWO)
def driver_of_old(m):
    """A driver that knows the first features only has a port of today, attached with all rights."""
    settle(m)
    l1, base = m["L1a"], base_memory(m)
    device = l1.sh(f"readlink -f {DEVICE}")
    slot = device.split("/")[-1]
    page = GuestPage(m, base)
    l1.run(f"echo {slot} >{DRIVER}/unbind && echo 1 >{device}/enable")
    try:
        p = l1.spawn(f"exec span_port_old {device} {page.offset}")

        def until(word):
            m.pump(lambda: word in p.text() or p.over, 60, f"'{word}' of the old driver")
            check(word in p.text(), f"the old driver ended: {p.text()}")
        until("EMPTY\n")
        attach(m, "L1a", "rw")
        until("PONG\n")
        detach(m, "L1a")
        until("DETACHED\n")
        equal(p.wait(30)[0], 0, "exit status of the old driver")
        check(f"ATTACHED {base.size} {page.mark.hex()}\n" in p.text(), f"the guest's page: {p.text()}")
    finally:
        l1.run(f"echo 0 >{device}/enable && echo {slot} >{DRIVER}/bind")
    # The driver of today finds it as it has to be.
    bring(m, "L1a", "rw")
    memory_works(m)
    take(m, "L1a")
