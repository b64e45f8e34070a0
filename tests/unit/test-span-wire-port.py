#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A hostile controller and the port: QEMU runs on the host without KVM (qtest),
a span-port-pci listens, and what comes is wrong. The port must answer or hang up,
map nothing, lose no file descriptor, and go on serving. KTAP."""
import array
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
QEMU = os.path.join(os.environ.get("KVM_SPAN_BUILD", os.path.join(TOP, "build")), "qemu")
OFFER, ACCEPT, REFUSE, DETACH, DETACHED, DETACH_REQUEST = range(1, 7)
HUNG_UP = "hung up"


def header(kind, length, seq=1, generation=0, magic=0x574e5053, version=1):
    return struct.pack("<IHHIIQ", magic, version, kind, length, generation, seq)


def offer(size=1 << 28, access=3, name=b"span0", seq=1, rights=0):
    return header(OFFER, 48, seq) + struct.pack("<QII32s", size, access, rights, name)


class Port:
    def __init__(self, where):
        self.path = os.path.join(where, "port")
        monitor = os.path.join(where, "qmp")
        # pylint: disable=consider-using-with
        self.qemu = subprocess.Popen(
            [os.path.join(QEMU, "qemu-system-x86_64"), "-L", os.path.join(QEMU, "firmware"), "-nodefaults",
             "-display", "none", "-accel", "qtest", "-machine", "q35",
             "-chardev", f"socket,id=sp0,path={self.path},server=on,wait=off",
             "-device", "span-port-pci,id=port0,chardev=sp0,window-size=512M",
             "-qmp", f"unix:{monitor},server=on,wait=off"], stderr=subprocess.DEVNULL)
        for _ in range(200):
            if os.path.exists(monitor) or self.qemu.poll() is not None:
                break
            time.sleep(0.05)
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(30)
        s.connect(monitor)
        self.monitor = s.makefile("rw")
        self.monitor.readline()
        self.qmp("qmp_capabilities")

    def qmp(self, command, **arguments):
        self.monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.monitor.flush()
        while True:
            reply = json.loads(self.monitor.readline())
            if "return" in reply or "error" in reply:
                return reply.get("return", reply.get("error"))

    def connect(self, timeout=10):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(timeout)
        s.connect(self.path)
        return s

    def talk(self, data, fds=(), chunk=0, timeout=10):
        """Send, and say what came back: (type, errno, text), HUNG_UP or None."""
        with self.connect(timeout) as s:
            try:
                if fds:
                    s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
                else:
                    for i in range(0, len(data), chunk or len(data)):
                        s.sendall(data[i:i + (chunk or len(data))])
                reply = s.recv(4096)
            except socket.timeout:
                return None
            except (BrokenPipeError, ConnectionResetError):
                return HUNG_UP
        if not reply:
            return HUNG_UP
        kind, = struct.unpack_from("<H", reply, 6)
        error, = struct.unpack_from("<I", reply, 24)
        return kind, error, reply[32:].split(b"\0")[0].decode()

    def fds(self):
        return len(os.listdir(f"/proc/{self.qemu.pid}/fd"))

    def settled_fds(self, want):
        """The port closes what it was sent when it hears of the end; give it a second."""
        for _ in range(50):
            if self.fds() == want:
                break
            time.sleep(0.02)
        return self.fds()


def refused(reply, words):
    return isinstance(reply, tuple) and reply[0] == REFUSE and reply[1] and words in reply[2]


def refusals(port, null):
    yield "offer_without_fd", refused(port.talk(offer()), "without a file descriptor")
    yield "offer_in_single_bytes", refused(port.talk(offer(), chunk=1), "without a file descriptor")
    yield "offer_without_kvm", refused(port.talk(offer(), [null]), "does not run under KVM")
    yield "offer_with_three_fds", refused(port.talk(offer(), [null] * 3), "does not run under KVM")
    yield "offer_with_rights", refused(port.talk(offer(rights=31), [null]), "does not run under KVM")
    with port.connect() as s:
        replies = []
        for seq in (1, 2):
            s.sendall(offer(seq=seq))
            replies.append(s.recv(4096)[6])
    yield "offer_again_after_refusal", replies == [REFUSE, REFUSE]


def nonsense(port, null):
    zero = bytes(480)
    for name, data, fds in (
            ("magic", header(OFFER, 48, magic=0x53504e57) + zero[:48], ()),
            ("version", header(OFFER, 48, version=2) + zero[:48], ()),
            ("type", header(77, 0), ()),
            ("length", header(OFFER, 0xffffffff) + zero, ()),
            ("sequence", offer(seq=2), ()),
            ("generation", header(OFFER, 48, generation=1) + offer()[24:], ()),
            ("no_memory", offer(size=0), ()),
            ("access", offer(access=2), ()),
            ("rights", offer(rights=32), ()),
            ("name", offer(name=b"a b"), ()),
            ("name_without_end", offer(name=b"x" * 32), ()),
            ("detach_unasked", header(DETACH, 8) + zero[:8], ()),
            ("a_ports_frame", header(DETACH_REQUEST, 0), ()),
            ("fd_where_none_belongs", header(DETACH, 8) + zero[:8], [null])):
        yield f"hangs_up_on_{name}", port.talk(data, fds) == HUNG_UP


def flood(port):
    """Thousands of offers from one who reads no answer: cut off, not waited for."""
    with port.connect() as s:
        try:
            for seq in range(1, 20000):
                s.sendall(offer(seq=seq))
        except (BrokenPipeError, ConnectionResetError):
            return True
    return False


def mutations(port, null):
    rng = random.Random(4711)
    for _ in range(400):
        data = bytearray(offer() + header(DETACH, 8, 2) + bytes(8))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        reply = port.talk(bytes(data[:rng.randrange(1, len(data) + 1)]), [null] if rng.random() < 0.5 else (),
                          timeout=0.02)
        if not (reply in (None, HUNG_UP) or reply[0] == REFUSE):
            print(f"# {bytes(data)!r}: {reply}")
            return False
    return True


def results(port):
    null = os.open("/dev/null", os.O_RDWR)
    before = port.fds()
    yield from refusals(port, null)
    yield from nonsense(port, null)
    yield "hangs_up_on_a_flood", flood(port)
    yield "survives_mutations", mutations(port, null)
    yield "half_a_frame_is_waited_for", port.talk(offer()[:30], timeout=0.2) is None
    yield "nothing_attached", port.qmp("qom-get", path="/machine/peripheral/port0", property="attached") is False
    yield "no_fd_left", port.settled_fds(before) == before
    yield "serves_after_all_that", refused(port.talk(offer()), "without a file descriptor")
    yield "qemu_lives", port.qemu.poll() is None


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as where:
        port = Port(where)
        try:
            print("TAP version 13")
            done = 0
            for done, (name, ok) in enumerate(results(port), 1):
                failed += not ok
                print(f"{'ok' if ok else 'not ok'} {done} {name}", flush=True)
            print(f"1..{done}")
        finally:
            port.qemu.kill()
            port.qemu.wait()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
