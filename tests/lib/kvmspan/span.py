# SPDX-License-Identifier: GPL-2.0
"""What the tests of the Span guest have in common: attach, detach, look."""
import hashlib
import itertools
import os

from . import handover
from .cases import check, equal
from .handover import GUEST
from .machine import RUN, MachineError, QMPError

_serial = itertools.count(1)


class Memory:
    """A memtool under way on a level: a mapping (or a page) that is kept."""

    def __init__(self, level, what="/dev/span0", mode=""):
        self.level = level
        self._p = level.spawn(f"exec memtool {what} {mode}")
        self._taken = 0
        self.ready = self._line()
        check(self.ready.startswith("ready"), f"{level.name}: memtool {what} {mode}: {self.ready}")
        self.size = int(self.ready.split()[1])

    def _line(self, timeout=60):
        p = self._p

        def there():
            return p.out.find(b"\n", self._taken) >= 0 or p.over
        self.level.machine.pump(there, timeout, f"{self.level.name}: memtool")
        end = p.out.find(b"\n", self._taken)
        if end < 0:
            raise MachineError(f"{self.level.name}: memtool ended: {p.rc} {p.text()} {self.level.lost or ''}")
        line = p.out[self._taken:end].decode()
        self._taken = end + 1
        return line

    def start(self, command):
        self._p.input(command.encode() + b"\n")

    def finish(self, timeout=60):
        return self._line(timeout)

    def do(self, command, timeout=60):
        self.start(command)
        return self.finish(timeout)

    def read(self, offset, length=8):
        """bytes, or the name of what happened."""
        out = self.do(f"r {offset} {length}")
        return bytes.fromhex(out[2:]) if out.startswith("= ") else out

    def pread(self, offset, length=8):
        out = self.do(f"pr {offset} {length}")
        return bytes.fromhex(out[2:]) if out.startswith("= ") else out

    def write(self, offset, data):
        return self.do(f"w {offset} {data.hex()}")

    def store(self, offset, number):
        """8 bytes by one instruction; "ok" or the name of what happened."""
        return self.do(f"x {offset} {number}")

    def number(self, offset):
        got = self.read(offset, 8)
        return int.from_bytes(got, "little") if isinstance(got, bytes) else got

    def pwrite(self, offset, data):
        return self.do(f"pw {offset} {data.hex()}")

    def keep(self):
        """Remember the content of all pages; how many there are."""
        out = self.do("k", 200)
        check(out.startswith("= "), out)
        return int(out[2:])

    def changed(self):
        """Numbers of the pages that are not as they were kept (the first 4000)."""
        out = self.do("d", 200)
        check(out.startswith("= "), out)
        return [int(w) for w in out.split()[2:]]

    def places(self):
        """Of --page and --pages: where they are in the level's physical memory, in pages."""
        out = self.do("p", 200)
        check(out.startswith("= "), out)
        where = [int(w) for w in out[1:].split()]
        check(all(where), "a page is not there, or the level does not tell where")
        return where

    def scatter(self, seed, count):
        """Write into so many of the pages (some several times); which ones."""
        equal(self.do(f"W {seed} {count}"), "ok", "writes")
        chosen = set()
        for _ in range(count):
            seed = (seed * 1664525 + 1013904223) & 0xffffffff
            chosen.add((seed >> 8) % (self.size // 4096))
        return chosen

    def pages_with(self, data):
        out = self.do(f"s {data.hex()}", 200)
        check(out.startswith("="), out)
        return [int(w) for w in out[1:].split()]

    def close(self):
        self._p.input(b"q\n")
        self._p.wait()


def attach(m, name, access=None, timeout_ms=None, raw=False, port=None, rights=None):
    """access, rights: None for what the policy has."""
    arguments = {"guest": GUEST, "name": name, "port": port or f"{RUN}/{name}.port"}
    if rights is not None:
        arguments["rights"] = rights
    if access:
        arguments["access"] = access
    if timeout_ms:
        arguments["timeout-ms"] = timeout_ms
    return (m["guest"].qmp_raw if raw else m["guest"].qmp)("span-attach", arguments)


def detach(m, name, timeout_ms=None, raw=False):
    arguments = {"guest": GUEST, "name": name}
    if timeout_ms:
        arguments["timeout-ms"] = timeout_ms
    return (m["guest"].qmp_raw if raw else m["guest"].qmp)("span-detach", arguments)


def info(m):
    return m.qmp("guest", "query-span")[0]


def attached(m):
    return {x["name"] for x in info(m)["members"] if x["state"] == "attached"}


def wait_driver(m, name, state):
    """Until the driver in the L1 has taken note; --attached or --detached."""
    m[name].run(f"spanctl wait /dev/span0 --{state} -t 20")


def bring(m, name, access, rights=None):
    result = attach(m, name, access, rights=rights)
    wait_driver(m, name, "attached")
    return result


def take(m, name):
    result = detach(m, name)
    wait_driver(m, name, "detached")
    return result


def settle(m):
    """Everybody is there, nobody attached, the guest on L0: where each test begins."""
    handover.go_home(m)
    for name in ("guest", "L1a", "L1b"):
        if m[name].lost:
            m.restart_vm(name)
    for name in attached(m):
        detach(m, name)
    for name in ("L1a", "L1b"):
        wait_driver(m, name, "detached")


def pattern(what="pattern"):
    """16 bytes that are nowhere else in anybody's memory."""
    return (f"{what[:6]}{next(_serial):03}".encode() + os.urandom(16))[:16]


def base_memory(m):
    """The guest's RAM as L0 has it: the memfd of the base QEMU."""
    path = m["L0"].sh(f"for f in /proc/{m['guest'].pid}/fd/*; do case $(readlink $f) in "
                      "/memfd:*) echo $f; break;; esac; done")
    check(path, "the base QEMU has no memfd")
    return Memory(m["L0"], path)


class GuestPage:
    """One locked page of a process in the guest, and where in the RAM it is."""

    def __init__(self, m, base, what="page"):
        self.tool = Memory(m["guest"], "--page")
        self.mark = pattern(what)
        equal(self.tool.write(0, self.mark), "ok", "the guest's write")
        hits = base.pages_with(self.mark)
        equal(len(hits), 1, f"pages of the guest's RAM that begin with the pattern ({hits})")
        self.offset = hits[0]
        self.page = self.offset // 4096

    def read(self, length=16):
        return self.tool.read(0, length)

    def write(self, data):
        equal(self.tool.write(0, data), "ok", "the guest's write")


class Chain:
    """A process in the guest that hashes its last hash, again and again: an error in any step stays to be seen."""

    START = "start"

    def __init__(self, m):
        self.guest = m["guest"]
        self.guest.run(f"(i=0; h={self.START}; while [ ! -e /tmp/chain.stop ]; do i=$((i+1)); "
                       "h=$(echo $h | sha256sum | cut -c1-64); echo $i $h >/tmp/chain.new; "
                       "mv /tmp/chain.new /tmp/chain; done) </dev/null >/dev/null 2>&1 & "
                       "while [ ! -s /tmp/chain ]; do sleep 0.01; done")
        self.seen, self._hash = 0, self.START

    def check(self, what):
        """It has gone on, and all is right up to now."""
        for _ in range(50):
            n, got = self.guest.sh("cat /tmp/chain; sleep 0.005").split()
            if int(n) > self.seen:
                break
        check(int(n) > self.seen, f"the guest's process stands still at {n} {what}")
        while self.seen < int(n):
            self.seen += 1
            self._hash = hashlib.sha256(self._hash.encode() + b"\n").hexdigest()
        equal(got, self._hash, f"hash {n} of the chain {what}")

    def stop(self):
        self.guest.run("touch /tmp/chain.stop; sleep 0.05; rm -f /tmp/chain.stop /tmp/chain")


class Worker:
    """A process in the guest that counts; shows that the guest goes on."""

    def __init__(self, m):
        self.guest = m["guest"]
        self.guest.run("rm -f /tmp/count; (i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i >/tmp/count; done) "
                       "</dev/null >/dev/null 2>&1 & while [ ! -s /tmp/count ]; do sleep 0.01; done")
        self.seen = 0

    def advanced(self, what):
        """The guest answers, and its process has gone on since the last look."""
        for _ in range(50):
            out = self.guest.sh("cat /tmp/count; sleep 0.002")
            now = int(out or 0)
            if now > self.seen:
                self.seen = now
                return
        raise AssertionError(f"the guest's process stands still at {self.seen} {what}")

    def stop(self):
        self.guest.run("touch /tmp/stop; sleep 0.02; rm -f /tmp/stop")


def must_fail(call, *words):
    """call() has to raise a QMP error that contains all the words."""
    try:
        call()
    except QMPError as e:
        for w in words:
            check(w in str(e), f"the error does not mention '{w}': {e}")
        return str(e)
    raise AssertionError("was allowed")
