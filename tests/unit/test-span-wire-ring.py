#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The port's registers and rings as an L1's driver sees them, with no guest
attached: QEMU runs on the host without KVM and is driven by qtest. Whatever the L1
writes gets a defined answer, and nothing else happens. KTAP."""
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
QEMU = os.path.join(os.environ.get("KVM_SPAN_BUILD", os.path.join(TOP, "build")), "qemu")

# Where the BARs are put: registers, MSI-X, window, rings, watches.
REGS, MSIX, WINDOW, RING, WATCH = 0xe0000000, 0xe0001000, 0x800000000, 0xe0008000, 0xe0080000
BARS = {0: REGS, 1: MSIX, 2: WINDOW & 0xffffffff, 3: WINDOW >> 32, 4: RING, 5: WATCH}
FEATURES, STATUS, COMMAND, DOORBELL, ANSWER = 8, 12, 32, 40, 48
RING_RESET = 3
PING, PONG, ERROR, CREATE, SUBSCRIBE, LOG_FETCH, INFO, REPLY = 1, 2, 5, 32, 34, 37, 38, 48
SLOTS, SLOT, HALF, FIRST_SLOT = 128, 64, 16384, 16384 - 128 * 64
DATA, DATA_BYTES = 65536, 65536
ENODEV, EMSGSIZE, EOPNOTSUPP, ENOBUFS = 19, 90, 95, 105


class L1:
    def __init__(self, where):
        path = os.path.join(where, "qtest")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(30)
        # pylint: disable=consider-using-with
        self.qemu = subprocess.Popen(
            [os.path.join(QEMU, "qemu-system-x86_64"), "-L", os.path.join(QEMU, "firmware"), "-nodefaults",
             "-display", "none", "-accel", "qtest", "-machine", "q35", "-qtest", f"unix:{path}",
             "-chardev", f"socket,id=sp0,path={where}/port,server=on,wait=off",
             "-device", "span-port-pci,id=port0,chardev=sp0,window-size=512M,addr=4"],
            stderr=subprocess.DEVNULL)
        self.qtest = listener.accept()[0].makefile("rw")
        for bar, address in BARS.items():
            self.config(0x10 + 4 * bar, address)
        self.config(4, 6)       # memory, bus master
        self.start()

    def start(self):
        self.sent = self.taken = self.seq = 0

    def ask(self, text):
        self.qtest.write(text + "\n")
        self.qtest.flush()
        while True:
            words = self.qtest.readline().split()
            if words and words[0] == "OK":
                return words[1:]
            if words and words[0] != "IRQ":
                raise RuntimeError(f"{text}: {words}")

    def config(self, offset, value):
        self.ask(f"outl 0xcf8 {0x80000000 | 4 << 11 | offset:#x}")
        self.ask(f"outl 0xcfc {value:#x}")

    def read32(self, address):
        return int(self.ask(f"readl {address:#x}")[0], 0)

    def write32(self, address, value):
        self.ask(f"writel {address:#x} {value:#x}")

    def read(self, address, size):
        return bytes.fromhex(self.ask(f"read {address:#x} {size:#x}")[0][2:])

    def write(self, address, data):
        self.ask(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def put(self, kind, payload=b"", length=None, generation=0, seq=None):
        """One message into the to-L0 ring, without ringing."""
        self.seq += 1
        head = struct.pack("<HHIQ", kind, len(payload) if length is None else length, generation,
                           self.seq if seq is None else seq)
        self.write(RING + FIRST_SLOT + self.sent % SLOTS * SLOT, head + payload.ljust(48, b"\0"))
        self.sent += 1
        self.write32(RING, self.sent)

    def ring(self):
        """Ring and wait: the device's handler runs before a clock step ends, or soon after."""
        self.write32(REGS + DOORBELL, 1)
        for _ in range(1000):
            if self.read32(RING + 64) == self.sent:
                return True
        return False

    def take(self):
        """All messages to L1: (type, generation, payload)."""
        messages = []
        while self.taken != self.read32(RING + HALF):
            raw = self.read(RING + HALF + FIRST_SLOT + self.taken % SLOTS * SLOT, SLOT)
            kind, length, generation, _ = struct.unpack_from("<HHIQ", raw)
            messages.append((kind, generation, raw[16:16 + length]))
            self.taken += 1
            self.write32(RING + HALF + 64, self.taken)
        return messages

    def talk(self, *args, **kwargs):
        self.put(*args, **kwargs)
        return self.take() if self.ring() else None


def watch(number=1, access=0, mode=0, most=0, first=0, pages=0):
    return struct.pack("<IIIIQQ", number, access, mode, most, first, pages)


def reply(error, seq):
    return struct.pack("<II4Q", error, seq, 0, 0, 0, 0)


def error(number, count=1):
    return [(ERROR, 0, struct.pack("<II", number, count))]


def registers(l1):
    yield "has_watches_and_shared_pages", l1.read32(REGS + FEATURES) == 15
    yield "may_not_watch_now", l1.read32(REGS + STATUS) == 0
    l1.write32(REGS + ANSWER, 1)
    yield "answer_without_attachment", l1.read32(REGS + ANSWER) == 0
    yield "no_ring_of_events", l1.read(WATCH, 64) == b"\xff" * 64
    l1.write(WATCH, bytes(64))
    yield "a_hole_keeps_nothing", l1.read(WATCH, 64) == b"\xff" * 64
    yield "a_hole_up_to_the_data", l1.read(WATCH + DATA - 8, 16) == b"\xff" * 8 + bytes(8)
    l1.write(WATCH + DATA, b"mine" * (DATA_BYTES // 4))
    yield "data_is_memory", l1.read(WATCH + DATA, DATA_BYTES) == b"mine" * (DATA_BYTES // 4)


def control(l1):
    """Every message about watches is answered, none is carried out."""
    for kind in range(CREATE, INFO + 1):
        for generation in (0, 1, 0xffffffff):
            got = l1.talk(kind, watch(pages=1), generation=generation)
            yield f"nobody_to_watch_{kind}_{generation:x}", got == [(REPLY, generation, reply(ENODEV, l1.seq))]
    yield "data_untouched", l1.read(WATCH + DATA, DATA_BYTES) == b"mine" * (DATA_BYTES // 4)
    yield "ping_still_works", l1.talk(PING, b"hello") == [(PONG, 0, b"hello")]
    yield "not_one_of_them", l1.talk(INFO + 1, watch()) == error(EOPNOTSUPP)
    yield "an_answer_is_not_for_this_ring", l1.talk(17, bytes(16)) == error(EOPNOTSUPP)
    yield "a_reply_is_not_for_this_ring", l1.talk(REPLY, reply(0, 1)) == error(EOPNOTSUPP)
    yield "too_long", l1.talk(CREATE, bytes(48), length=49) == error(EMSGSIZE)


def half_seq(l1):
    """The number in the reply is the low half, whatever the high one is."""
    l1.write32(REGS + COMMAND, RING_RESET)
    l1.start()
    l1.sent = SLOTS * 2                 # head too far away: the next number is taken as is
    l1.write32(RING, l1.sent)
    l1.ring()
    l1.take()
    l1.seq = 5 << 32 | 0xfffffffe
    return (l1.talk(CREATE, bytes(8)) == [(REPLY, 0, reply(ENODEV, 0xffffffff))] and
            l1.talk(CREATE, bytes(8)) == [(REPLY, 0, reply(ENODEV, 0))])


def no_room(l1):
    """A call whose reply has no place is refused, and the L1 hears of it."""
    l1.write32(REGS + COMMAND, RING_RESET)
    l1.start()
    for _ in range(SLOTS):
        l1.put(PING, b"x")
    full = l1.ring()
    for _ in range(3):
        l1.put(SUBSCRIBE, watch(access=2, mode=1, pages=1))
    full = full and l1.ring()
    pongs = l1.take()
    told = l1.talk(PING, b"y")
    return (full and pongs == [(PONG, 0, b"x")] * SLOTS and
            told == [(PONG, 0, b"y")] + error(ENOBUFS, 3))


def batch(l1):
    """As many replies as messages, in their order."""
    first = l1.seq + 1
    for i in range(SLOTS):
        l1.put((CREATE, LOG_FETCH, INFO)[i % 3], watch(most=1, pages=1))
    return l1.ring() and l1.take() == [(REPLY, 0, reply(ENODEV, first + i)) for i in range(SLOTS)]


def mutations(l1):
    rng = random.Random(4712)
    for _ in range(2000):
        l1.put(rng.choice((CREATE, 33, SUBSCRIBE, 35, 36, LOG_FETCH, INFO)), rng.randbytes(48),
               length=rng.choice((0, 8, 31, 32, 33, 48)), generation=rng.choice((0, 1, rng.getrandbits(32))))
        if not l1.ring() or [m[0] for m in l1.take()] != [REPLY]:
            return False
    return True


def reset(l1):
    """A kernel that boots finds nothing of the one before."""
    l1.write(WATCH + DATA, b"old!")
    l1.put(PING, b"old")
    l1.config(4, 6)
    # The function-level reset: initiate bit of the PCI Express capability at 0x80.
    l1.config(0x88, 1 << 15)
    for bar, address in BARS.items():
        l1.config(0x10 + 4 * bar, address)
    l1.config(4, 6)
    l1.start()
    yield "reset_clears_the_data", l1.read(WATCH + DATA, 4) == bytes(4)
    yield "reset_clears_the_rings", l1.read32(RING) == 0 and l1.read32(RING + HALF) == 0
    yield "reset_starts_anew", l1.talk(CREATE, bytes(8)) == [(REPLY, 0, reply(ENODEV, 1))]


def results(l1):
    yield from registers(l1)
    yield from control(l1)
    yield "low_half_of_the_number", half_seq(l1)
    yield "no_room_for_the_reply", no_room(l1)
    yield "a_ring_full_at_once", batch(l1)
    yield "every_length_and_generation", mutations(l1)
    yield from reset(l1)
    yield "qemu_lives", l1.qemu.poll() is None


def main():
    failed = done = 0
    with tempfile.TemporaryDirectory() as where:
        l1 = L1(where)
        try:
            print("TAP version 13")
            for done, (name, ok) in enumerate(results(l1), 1):
                failed += not ok
                print(f"{'ok' if ok else 'not ok'} {done} {name}", flush=True)
            print(f"1..{done}")
        finally:
            l1.qemu.kill()
            l1.qemu.wait()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
