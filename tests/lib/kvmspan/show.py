# SPDX-License-Identifier: GPL-2.0
"""What scripts/demo and scripts/demo-ooh print: a line per step with the time, and a table of what was shown."""
import time


class Demo:
    def __init__(self, quiet):
        self.start = time.monotonic()
        self.rows = []
        self.quiet = quiet

    def say(self, text):
        print(f"[{time.monotonic() - self.start:5.0f}s] {text}", flush=True)

    def show(self, text):
        if not self.quiet:
            print("".join(f"         | {line}\n" for line in text.rstrip().splitlines()), end="", flush=True)

    def row(self, what, ok, how):
        self.rows.append((what, bool(ok), how))
        self.say(("ok: " if ok else "FAILED: ") + f"{what}: {how}")

    def table(self):
        width = max(len(r[0]) for r in self.rows)
        print("\n" + "-" * (width + 45))
        for what, ok, how in self.rows:
            print(f" {what:<{width}}  {'yes' if ok else 'NO '}  {how}")
        print("-" * (width + 45))
        return all(ok for _, ok, _ in self.rows)
