# SPDX-License-Identifier: GPL-2.0
"""Watches as a service in an L1 has them: spanctl watch, protect, dirty."""
import json

from .cases import check
from .machine import MachineError


class Following:
    """A command of spanctl that prints one JSON object a line, until it is stopped."""

    def __init__(self, level, command, dev="/dev/span0"):
        what, *rest = command.split()
        self.level, self.command = level, " ".join(["spanctl -j", what, dev, *rest])
        self.p = level.spawn("exec " + self.command)
        self._taken = 0

    def poll(self):
        """The next object that has arrived, or None."""
        end = self.p.out.find(b"\n", self._taken)
        if end < 0:
            return None
        line = self.p.out[self._taken:end].decode()
        self._taken = end + 1
        return json.loads(line)

    def next(self, timeout=60):
        self.level.machine.pump(lambda: self.p.out.find(b"\n", self._taken) >= 0 or self.p.over, timeout,
                                f"{self.level.name}: a line of {self.command}")
        got = self.poll()
        if got is None:
            raise MachineError(f"{self.level.name}: '{self.command}' has ended: {self.p.rc} {self.p.text()[-500:]}")
        return got

    def all(self):
        """What has arrived and was not taken yet."""
        return list(iter(self.poll, None))

    def say(self, text):
        self.p.input(text.encode())

    def end(self, timeout=60):
        """Stop it; the rest of what it printed."""
        if not self.p.over:
            # Not SIGKILL: it says what it counted.
            self.level.run(f"for p in $(pidof spanctl); do "
                           f"tr '\\0' ' ' </proc/$p/cmdline | grep -qxF '{self.command} ' && kill -INT $p; done",
                           check=False)
        self.p.wait(timeout)
        return self.all()


    def abandon(self):
        """Kill it, also where it waits for an answer on its terminal; its watch is gone afterwards."""
        self.p.kill()
        self.level.machine.pump(lambda: self.p.over, 60, f"the end of {self.command}")
        self.p.wait()


class Watch(Following):
    """Follows accesses; ready when the subscription is in force."""

    def __init__(self, level, kinds, pages, options="", dev="/dev/span0"):
        super().__init__(level, f"watch {kinds} {options} {ranges(pages)}", dev)
        first = self.next()
        check(first["type"] == "start", f"{self.command}: {first}")

    def event(self, timeout=60):
        """The next event; what else comes is skipped."""
        while True:
            got = self.next(timeout)
            if got["type"] == "event":
                return got

    def end(self, timeout=60):
        """Stop it; its last words, which hold its counters."""
        rest = super().end(timeout)
        check(rest and rest[-1]["type"] == "end", f"{self.command}: no last line: {rest} {self.p.text()[-300:]}")
        self.rest = [e for e in rest if e["type"] == "event"]
        return rest[-1]


class Protect(Watch):
    def __init__(self, level, allow, pages, dev="/dev/span0"):
        Following.__init__(self, level, f"protect --allow {allow} {ranges(pages)}", dev)
        first = self.next()
        check(first["type"] == "start", f"{self.command}: {first}")


class Dirty(Following):
    """Epochs of pages that were written."""

    def __init__(self, level, interval, pages="all", dev="/dev/span0"):
        super().__init__(level, f"dirty --interval {interval} --list {ranges(pages)}", dev)

    def take(self, epochs):
        """Pages of everything that has come, and of so many more epochs."""
        dirty = set()
        for e in self.all() + [self.next(120) for _ in range(epochs)]:
            for first, number in e["ranges"]:
                dirty.update(range(first, first + number))
        return dirty


def ranges(pages):
    if isinstance(pages, str):
        return pages
    if isinstance(pages, int):
        return str(pages)
    return " ".join(str(p) for p in pages)
