# SPDX-License-Identifier: GPL-2.0
"""Meet a QEMU at a function of it (tests/system/stop-at.c)."""
import subprocess

from . import paths
from .cases import check
from .torture import put

_symbols = {}


def address(symbol):
    """Of a function in the QEMU of all levels, which has no symbols itself."""
    if not _symbols:
        out = subprocess.run(["nm", paths.build("qemu", "obj", "qemu-system-x86_64")], stdout=subprocess.PIPE,
                             check=True, text=True).stdout
        _symbols.update((w[2], w[0]) for w in (line.split() for line in out.splitlines()) if len(w) == 3)
    check(symbol in _symbols, f"QEMU has no function {symbol}")
    return _symbols[symbol]


class StopAt:
    """action: kill, stop, hold for so many milliseconds, or return that value at once."""

    def __init__(self, level, pid, symbol, action, number=0):
        program = put(level, "stop-at")
        self.level = level
        self._p = level.spawn(f"exec {program} {pid} {address(symbol)} {action} {number}")
        level.machine.pump(lambda: b"ready\n" in self._p.out or self._p.over, 60, f"a breakpoint at {symbol}")
        check(not self._p.over, f"no breakpoint at {symbol}: {self._p.text()}")

    @property
    def hit(self):
        return b"hit\n" in self._p.out
