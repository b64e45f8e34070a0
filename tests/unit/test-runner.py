#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the runner prints of a test that failed: enough to know why from its output alone, and not too much. KTAP."""
import contextlib
import io
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
# pylint: disable=wrong-import-position
from kvmspan import cases, ktap, paths, runner  # noqa: E402
from kvmspan.machine import Machine, TimedOut  # noqa: E402

PROGRAM = """TAP version 13
1..3
# before the first
ok 1 good
# t_model:1100: end == want: ended with 1, want 0
# seed 2: operation 7001, number 3
not ok 2 random operations
# of the third
ok 3 fine
"""
CONSOLE = "".join(f"line {i}\n" for i in range(50)) + "BUG: KASAN: use-after-free\r\n" + \
    "".join(f" frame {i}\n" for i in range(50))


class FakeMachine(Machine):
    """A machine that never ran, with a console of L0."""

    def __init__(self, topology, kernel="trimmed", modules="span", directory=None, log=None):
        super().__init__("single", kernel, modules, directory, log)
        self.levels = {"L0": None}

    def boot(self, vms=True):
        self.console("Linux\n")

    def console(self, text):
        with open(self.path("L0.console"), "a", encoding="utf-8") as f:
            f.write(text)

    def collect(self):
        pass


def printed(function, kernel="trimmed"):
    """(lines that a run of one case with this function prints, lines of the file of failures)."""
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as where:
        saved = paths.RESULTS, runner.Machine, cases.everything, sys.argv
        failures = os.path.join(where, "failures")
        try:
            paths.RESULTS, runner.Machine = where, FakeMachine
            cases.everything = lambda: [cases.Case("mem/one", function, topology="single"),
                                        cases.Case("unit/two", lambda m: ktap.Output("1..1\nok 1 x\n", 0))]
            sys.argv = ["run", "--jobs", "1", "--kernel", kernel, "--failures", failures]
            with contextlib.redirect_stdout(out):
                rc = runner.main()
        finally:
            paths.RESULTS, runner.Machine, cases.everything, sys.argv = saved
        with open(failures, encoding="utf-8") as f:
            return out.getvalue().splitlines(), f.read().splitlines(), rc


def before(lines, start):
    """The comments in front of the first line that begins so."""
    at = next(i for i, line in enumerate(lines) if line.startswith(start))
    first = at
    while lines[first - 1].startswith("#   "):
        first -= 1
    return [line[4:] for line in lines[first:at]]


def of_a_program():
    lines, failures, rc = printed(lambda m: ktap.Output(PROGRAM, 1), "debug")
    yield "checks_and_seed", before(lines, "not ok") == [
        "t_model:1100: end == want: ended with 1, want 0", "seed 2: operation 7001, number 3", "not ok 2 random operations"]
    yield "status", rc == 1 and lines[-1] == "1 passed, 1 failed, 0 skipped"
    yield "failures_of_the_run", len(failures) == 1 and failures[0].startswith("# FAILED mem/one (debug): 1 of 3 not ok: ") \
        and "ended with 1, want 0" in failures[0]
    noisy = "1..1\n" + "".join(f"# note {i}\n" for i in range(500)) + "not ok 1 x\n"
    lines, _, _ = printed(lambda m: ktap.Output(noisy, 1))
    yield "the_last_notes", before(lines, "not ok") == [f"note {i}" for i in range(481, 500)] + ["not ok 1 x"]
    lines, _, _ = printed(lambda m: ktap.Output("1..2\nok 1 x\nthen this\nSegmentation fault\n", 139))
    yield "end_of_a_crash", before(lines, "not ok")[-2:] == ["then this", "Segmentation fault"]
    lines, failures, rc = printed(lambda m: ktap.Output("1..1\nok 1 x\n", 0))
    yield "nothing_of_what_passed", not [line for line in lines if line.startswith("#   ")] and not failures and not rc


def bug(m):
    m.console(CONSOLE)
    return ktap.Output(PROGRAM, 1)


def quiet_bug(m):
    m.console(CONSOLE)
    return ktap.Output("1..1\nok 1 x\n", 0)


def late(m):
    m.console(CONSOLE)
    raise TimedOut("no answer after 60 CPU s: L0: 'x'")


def wide(m):
    raise AssertionError("\n".join("x" * 1000 + "\x1b[31m" for _ in range(200)))


def of_a_machine():
    lines, failures, _ = printed(quiet_bug)
    got = before(lines, "not ok")
    yield "kernel_report", got[0] == "L0: BUG: KASAN: use-after-free" and "L0:  frame 13" in got and "L0:  frame 14" not in got
    yield "kernel_report_in_failures", "kernel log: L0: BUG: KASAN" in failures[0]
    got = before(printed(bug)[0], "not ok")
    yield "report_and_checks", got[0].startswith("L0: BUG") and got[-1] == "not ok 2 random operations"
    got = before(printed(late)[0], "not ok")
    yield "console_of_a_timeout", any("no answer after 60 CPU s" in g for g in got) and got[-1] == "L0:  frame 49"
    lines = printed(wide)[0]
    got = before(lines, "not ok")
    yield "bounded", 5 < len(got) <= 40 and max(map(len, lines)) < 400 and not any("\x1b" in line for line in lines)


def results():
    yield from of_a_program()
    yield from of_a_machine()
    yield "two_reasons", ktap.said("# a\nnot ok 1 x\n# b\nnot ok 2 y\n") == ["a", "not ok 1 x", "b", "not ok 2 y"]
    yield "a_todo_is_none", ktap.said("# a\nnot ok 1 x # TODO later\n# b\nnot ok 2 y\n") == ["b", "not ok 2 y"]
    cut = ktap.comments(["a\nb"] * 30)
    yield "cut", len(cut) == 40 and cut[-1] == "#   (21 more lines)"


def main():
    failed = done = 0
    print("TAP version 13")
    for done, (name, ok) in enumerate(results(), 1):
        failed += not ok
        print(f"{'ok' if ok else 'not ok'} {done} {name}", flush=True)
    print(f"1..{done}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
