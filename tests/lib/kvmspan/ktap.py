# SPDX-License-Identifier: GPL-2.0
"""Reading and writing KTAP."""
import os
import re

_LINE = re.compile(r"^(not )?ok +(\d+)(?: +-?)? *([^#]*?) *(?:# *(.*))?$")


class Output:
    """What a KTAP program printed, judged: passed, failed or skipped, and why.

    A program has failed when it says "not ok", ends with a status other than 0
    (4: skipped, as in kselftest), or did not carry out what its plan says.
    """

    def __init__(self, text, rc):
        self.text, self.rc = text, rc
        self.result, self.why = self._judge()

    def _judge(self):
        plan, done, failed, skipped = None, 0, [], 0
        for line in self.text.splitlines():
            if line.startswith("Bail out!"):
                return "failed", line
            m = re.match(r"^1\.\.(\d+)(?: *# *SKIP *(.*))?", line)
            if m:
                plan = int(m[1])
                if plan == 0:
                    return "skipped", m[2] or "the program skipped itself"
                continue
            m = _LINE.match(line)
            if not m:
                continue
            done += 1
            directive = (m[4] or "").upper()
            if directive.startswith("SKIP"):
                skipped += 1
            elif m[1] and not directive.startswith("TODO"):
                failed.append(m[3] or m[2])
        if failed:
            return "failed", f"{len(failed)} of {plan or done} not ok: " + ", ".join(failed[:5])
        if self.rc == 4:
            return "skipped", (self.text.strip().splitlines() or ["exit status 4"])[-1]
        if self.rc:
            tail = " | ".join(self.text.strip().splitlines()[-4:])
            return "failed", f"exit status {self.rc}: {tail[-600:]}"
        if plan is None:
            return "failed", "no KTAP plan in the output"
        if done != plan:
            return "failed", f"plan says {plan}, {done} were done"
        if skipped == done and done:
            return "skipped", "all of its tests were skipped"
        return "passed", ""


def said(text, most=20):
    """What a failed test's output says about it, at most so many lines: of each "not ok" what was noted before it; of a
    program that ended without one, or a test that raised something, the end."""
    notes, chosen = [], []
    for line in text.splitlines():
        m = _LINE.match(line)
        if m and m[1] and not (m[4] or "").upper().startswith("TODO"):
            chosen += notes[-(most - 1):] + [line]
        if m:
            notes = []
        elif line.startswith("#"):
            notes.append(line.lstrip("# "))
    if not chosen:
        chosen = [line.lstrip("# ") for line in text.splitlines() if line.strip()][-most:]
    # The first that failed is usually why the others did.
    return chosen[:most]


def comments(lines, most=40, width=300):
    """Lines as comments of KTAP, for people to read: only so many, and none too long."""
    lines = [line.rstrip() for text in lines for line in str(text).splitlines()]
    cut = [f"({len(lines) - most + 1} more lines)"] if len(lines) > most else []
    lines = lines[:most - len(cut)] + cut
    return ["#   " + re.sub(r"[^\x20-\x7e]", "?", line.expandtabs(4))[:width].rstrip() for line in lines]


def write(directory, name, result, why, text):
    """One KTAP file per test."""
    os.makedirs(directory, exist_ok=True)  # another run may have begun afresh
    path = os.path.join(directory, name.replace("/", "-") + ".tap")
    with open(path, "w", encoding="utf-8") as f:
        f.write("TAP version 13\n1..1\n")
        for line in (text or "").splitlines():
            f.write(("  " if _LINE.match(line) or re.match(r"^(TAP|KTAP|1\.\.)", line) else "# ") + line + "\n")
        f.write(line_of(1, name, result, why) + "\n")


def line_of(number, name, result, why):
    line = ("not ok" if result == "failed" else "ok") + f" {number} {name}"
    if result == "skipped":
        line += f" # SKIP {one_line(why)}"
    elif why:
        line += f" # {one_line(why)}"
    return line


def one_line(text):
    return " ".join(str(text).replace("#", "").split())[:300]
