# SPDX-License-Identifier: GPL-2.0
"""Faults, events and dirty tracking: the rows of the Span paper's Table 3, and ours."""
from kvmspan.machine import Machine
from kvmspan.span import bring

PAGES = 1024
MiB = 1 << 20


def values(text):
    return {k: int(v) for k, v in (line.split() for line in text.splitlines())}


class Talk:
    """A program that says a line and waits for one."""

    def __init__(self, level, command):
        self.level, self.p = level, level.spawn(command)
        self.taken = 0

    def line(self):
        m, p = self.level.machine, self.p
        m.pump(lambda: p.out.find(b"\n", self.taken) >= 0 or p.over, 200, f"a line of '{p.command}'")
        end = p.out.find(b"\n", self.taken)
        if end < 0:
            raise RuntimeError(f"'{p.command}' ended: {p.text()}")
        line = p.out[self.taken:end].decode()
        self.taken = end + 1
        return line

    def say(self, text=""):
        self.p.input(text.encode() + b"\n")


def nested(m, kind, where=""):
    """A VM on L1a touches pages: instructions for each, exits of L1a to L0 meanwhile."""
    t = Talk(m["L1a"], f"fault-cost nested {PAGES} {kind} {where}")
    t.line()
    before = m.exits("L1a")
    t.say()
    t.line()
    exits = m.exits("L1a") - before
    t.say()
    cost = int(t.line().split()[1])
    t.p.wait()
    return cost, exits


def fault_rows(m, figures):
    l0 = values(m["L0"].sh(f"fault-cost l0 {2 * PAGES}", timeout=200))
    plain = {kind: nested(m, kind) for kind in ("4k", "2m")}
    bring(m, "L1a", "rw", rights=[])
    span = {"4k": nested(m, "4k", f"/dev/span0 {64 * MiB}"), "2m": nested(m, "2m", f"/dev/span0 {96 * MiB}")}
    figures.add("ept_fault_span0", l0["ept_fault_span0"], "instr/page", l0["ept_fault_single"])
    # Of an L1's own access: what an L1 costs without Span is what any VM of L0 costs.
    figures.add("ept_fault_vs_nested", l0["ept_fault_l1"], "instr/page", l0["ept_fault_single"], goal=1.05)
    figures.add("ept_fault_exits", l0["ept_fault_l1_exits"], "exits", l0["ept_fault_single_exits"])
    for name, kind, goal in (("virtual_ept_fault", "4k", 1.02), ("shadow_ept_fault", "2m", None)):
        figures.add(f"{name}_vs_nested", span[kind][0], "instr/page", plain[kind][0], goal=goal)
        figures.add(f"{name}_exits", span[kind][1], "exits", plain[kind][1])


def add_all(figures, log):
    m = Machine("bench-faults", log=log)
    try:
        m.boot(vms=[])
        m["L0"].run("echo never >/sys/kernel/mm/transparent_hugepage/enabled")
        m.start_vm("guest")
        m.start_vm("L1a")
        fault_rows(m, figures)
    finally:
        m.close()
