# SPDX-License-Identifier: GPL-2.0
"""tests/system/torture.c under way in the guest: errors, rounds, clocks."""
import json
import os
import subprocess

from . import paths
from .bochs import MachineError
from .cases import check, equal

KINDS = ("hash fpu gpr debugreg tsc clock sleep timerfd membarrier remap mprotect futex signal memory file").split()


def build(name):
    """A static program of tests/system, for use in any level; its path."""
    source = os.path.join(paths.TOP, "tests", "system", name + ".c")
    binary = paths.build("tests", name)
    os.makedirs(os.path.dirname(binary), exist_ok=True)
    part = f"{binary}.{os.getpid()}"
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-pthread",
                    "-I" + os.path.join(paths.TOP, "kvm-span", "include", "uapi"), "-o", part, source], check=True)
    os.replace(part, binary)
    return binary


def put(level, name):
    """The program, on the level, as /tmp/NAME."""
    rc, _ = level.run(f"test -x /tmp/{name}", check=False)
    if rc:
        level.put(build(name), f"/tmp/{name}", 0o755)
    return f"/tmp/{name}"


class Torture:
    def __init__(self, m, pause_us=3000, options=""):
        self.guest = m["guest"]
        self.machine = m
        program = put(self.guest, "torture")
        self._p = self.guest.spawn(f"exec {program} --pause {pause_us} {options}")
        self._taken = 0
        self.last = self.look()

    def _ask(self, text, timeout=120):
        self._p.input(text.encode() + b"\n")
        return self._line(timeout)

    def _line(self, timeout):
        p = self._p

        def there():
            return p.out.find(b"\n", self._taken) >= 0 or p.over
        self.machine.pump(there, timeout, "torture in the guest")
        end = p.out.find(b"\n", self._taken)
        if end < 0:
            raise MachineError(f"torture ended: {p.rc} {p.text()[-500:]} {self.guest.lost or ''}")
        line = p.out[self._taken:end].decode()
        self._taken = end + 1
        return line

    def look(self, reset=False):
        return json.loads(self._ask("z" if reset else "r"))

    def check(self, where, alive=KINDS, cpus=None, seconds=0.05, patience=60):
        """No errors, and every kind goes on from now, and every CPU (or those given)."""
        first = self.look()
        before, before_on = first["rounds"], first["rounds_on"]
        for _ in range(patience):
            self.last = self.look()
            equal(self.last["sum"], 0, f"errors in the guest {where} ({self.last['first']})")
            on = self.last["rounds_on"]
            still = [k for k in alive if self.last["rounds"][k] == before[k]]
            still += [f"CPU {n}" for n in (range(len(on)) if cpus is None else cpus) if on[n] == before_on[n]]
            if not still:
                return self.last
            self.machine.sleep(seconds)
        check(False, f"nothing goes on in the guest {where}: {', '.join(still)}")
        return None

    def spoil(self, kind):
        equal(self._ask(f"b {kind}"), "ok", f"spoiling {kind}")

    def stop(self):
        """The last look; the process has ended."""
        last = json.loads(self._ask("q"))
        rc, _ = self._p.wait()
        equal(rc, 1 if last["sum"] else 0, "exit status of torture")
        return last
