# SPDX-License-Identifier: GPL-2.0
"""What stock QEMU in an L1 learns of writes that are done elsewhere: by the guest on L0
and on another L1, and by the devices of the guest's QEMU on L0."""
import json
import struct

from kvmspan import handover
from kvmspan.cases import case, check, equal
from kvmspan.machine import QMPError
from kvmspan.span import GuestPage, base_memory, bring, detach, info, settle, wait_driver

DIRTY = {"topology": "dirty"}
PAGES = 1000        # what the writer in the guest writes, again and again
MS = 100


class Writer:
    """A process in the guest that writes the same pages until it is told not to."""

    def __init__(self, m):
        self.guest = m["guest"]
        self.guest.run(f"dd if=/dev/zero of=/tmp/w bs=4096 count={PAGES} 2>/dev/null; "
                       f"(while [ ! -e /tmp/w.stop ]; do dd if=/dev/zero of=/tmp/w bs=4096 count={PAGES} "
                       "conv=notrunc 2>/dev/null; done) </dev/null >/dev/null 2>&1 & sleep 0.01")

    def stop(self):
        self.guest.run("touch /tmp/w.stop; sleep 0.05; rm -f /tmp/w.stop /tmp/w")


def dirty_pages(m, peer, ms=MS):
    """calc-dirty-rate of stock QEMU, in pages of the interval."""
    peer.qmp("calc-dirty-rate", {"calc-time": ms, "calc-time-unit": "millisecond", "mode": "dirty-bitmap"})
    for _ in range(100):
        m.sleep(0.05)
        got = peer.qmp("query-dirty-rate", {"calc-time-unit": "millisecond"})
        if got["status"] == "measured":
            m.log_line("dirty-rate", json.dumps(got))
            return got["dirty-rate"] * 256 * got["calc-time"] // 1000
    raise AssertionError("calc-dirty-rate does not end")


def about(pages, what):
    check(PAGES * 9 // 10 <= pages <= PAGES + 2000, f"{pages} pages dirty {what}; {PAGES} are written all the time")


@case("mem/dirty-rate-in-an-l1", timeout=400, **DIRTY)
def dirty_rate(m):
    """calc-dirty-rate in L1b counts what the guest writes on L0 and on L1a; without span-peer it counts nothing."""
    settle(m)
    bring(m, "L1a", "rw")
    bring(m, "L1b", "rw")
    peer = handover.start_qemu(m, "L1b")
    writer = Writer(m)
    equal(dirty_pages(m, peer), 0, "dirty pages that KVM in L1b knows of")

    peer.qmp("object-add", {"qom-type": "span-peer", "id": "peer0", "memdev": "mem0"})
    about(dirty_pages(m, peer), "with the guest on L0")
    equal(info(m)["watches"], 1, "watches while dirty pages are logged")
    handover.hand_over(m, "L1a")
    about(dirty_pages(m, peer), "with the guest on L1a")
    handover.hand_over(m, "L0")
    writer.stop()

    m.qmp("guest", "stop")
    equal(dirty_pages(m, peer), 0, "dirty pages of a guest that is stopped")
    m.qmp("guest", "cont")
    peer.qmp("object-del", {"id": "peer0"})
    equal(info(m)["watches"], 0, "watches after span-peer was deleted")


@case("mem/dirty-log-is-lost", timeout=300, **DIRTY)
def log_is_lost(m):
    """Without the right there is no span-peer; when the attachment ends, all memory counts as dirty."""
    settle(m)
    bring(m, "L1b", "rw", rights=[])
    peer = handover.start_qemu(m, "L1b")
    add = {"qom-type": "span-peer", "id": "peer0", "memdev": "mem0"}
    try:
        peer.qmp("object-add", add)
    except QMPError as e:
        check("watch" in str(e) or "log" in str(e), f"unclear error: {e}")
    else:
        raise AssertionError("span-peer without the right to log")
    handover.stop_peer(m, "L1b")
    detach(m, "L1b")
    wait_driver(m, "L1b", "detached")

    bring(m, "L1b", "rw")
    peer = handover.start_qemu(m, "L1b")
    peer.qmp("object-add", add)
    dirty_pages(m, peer)
    detach(m, "L1b")
    wait_driver(m, "L1b", "detached")
    pages = dirty_pages(m, peer)
    # The rate is in whole MiB a second.
    check(pages >= 128 * 256 * 95 // 100, f"only {pages} pages dirty when nobody knows")


@case("mem/own-writes-of-qemu", timeout=300, **DIRTY)
def own_writes(m):
    """What a device of a stopped guest writes to its memory is in the log of an L1: that page and no other."""
    settle(m)
    bring(m, "L1b", "rw")
    base = base_memory(m)
    page = GuestPage(m, base)
    log = m["L1b"].spawn("exec spanctl -j dirty /dev/span0 --interval 0.02 --list")

    def epochs():
        return [json.loads(line) for line in log.out.decode().split("\n")[:-1]]

    def whole_epochs(n, after):
        m.pump(lambda: len(epochs()) >= after + n or log.over, 60, "spanctl dirty")
        check(not log.over, log.text())
        return [r for e in epochs()[after:after + n] for r in e["ranges"]]

    m.sleep(0.1)
    m.qmp("guest", "stop")
    try:
        equal(whole_epochs(3, len(epochs()) + 2), [], "pages that a stopped guest wrote")
        # fw_cfg copies its signature by DMA, as told by a structure in memory: select item 0, read 4 bytes.
        to = page.offset + 2048
        equal(base.write(page.offset, struct.pack(">IIQ", 0 << 16 | 8 | 2, 4, to)), "ok", "L0's write")
        equal(base.write(to, bytes(4)), "ok", "L0's write")
        before = len(epochs())
        low = int.from_bytes(struct.pack("<I", page.offset), "big")
        equal(m.qmp("guest", "human-monitor-command", {"command-line": f"o/w 0x518 {low:#x}"}), "", "the monitor")
        equal(base.read(to, 4), b"QEMU", "what the device wrote")
        equal(whole_epochs(3, before), [[page.offset // 4096, 1]], "pages in the log")
    finally:
        m.qmp("guest", "cont")
    log.kill()
