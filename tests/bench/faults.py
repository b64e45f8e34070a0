# SPDX-License-Identifier: GPL-2.0
"""Faults, events and dirty tracking: the rows of the Span paper's Table 3, and ours."""
from kvmspan.machine import Machine
from kvmspan.span import bring, take

PAGES = 1024
LOGGED = 4096
ROUNDS = 41
# Timer ticks and the page allocator's state differ from run to run: of each figure the least of so many.
LEAST_OF = 6
MiB = 1 << 20
NET = ["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no",
       "-device", "virtio-net-pci,netdev=n0,romfile="]


def values(text):
    return {k: float(v) if "." in v else int(v) for k, v in (line.split() for line in text.splitlines())}


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


def counters(m):
    return m.qmp("guest", "query-span")[0]["counters"]


def least(runs):
    """Of each value of the runs the least, without the first run: it finds the caches of L0's kernel as no other does."""
    runs = runs[1:]
    if isinstance(runs[0], dict):
        return {k: min(r[k] for r in runs) for k in runs[0]}
    return [min(v) for v in zip(*runs)]


def nested(m, kind, where=None):
    """A VM on L1a touches pages: instructions for each, exits of L1a to L0 meanwhile. where: of the window, in bytes.

    Each run has memory that no other had, since L0 keeps what it has shadowed of an L1's tables."""
    held, runs = [], []
    for i in range(1 + LEAST_OF):
        place = "" if where is None else f"/dev/span0 {where + i * (PAGES * 4096 + 2 * MiB)}"
        t = Talk(m["L1a"], f"fault-cost nested {PAGES} {kind} {place}")
        t.line()
        before = m.exits("L1a")
        t.say()
        t.line()
        exits = m.exits("L1a") - before
        t.say()
        runs.append((float(t.line().split()[1]), exits))
        held.append(t)
    for t in held:
        t.line()
        t.say()
        t.p.wait()
    return least(runs)


def fault_rows(m, figures):
    l0 = least([values(m["L0"].sh(f"fault-cost l0 {2 * PAGES}", timeout=200)) for _ in range(1 + LEAST_OF)])
    plain = {kind: nested(m, kind) for kind in ("4k", "2m")}
    bring(m, "L1a", "rw", rights=[])
    # In the half of the guest's memory that it has no use for.
    span = {"4k": nested(m, "4k", 128 * MiB), "2m": nested(m, "2m", 176 * MiB)}
    figures.add("ept_fault_span0", l0["ept_fault_span0"], "instr/page", l0["ept_fault_single"])
    # Of an L1's own access: what an L1 costs without Span is what any VM of L0 costs.
    figures.add("ept_fault_vs_nested", l0["ept_fault_l1"], "instr/page", l0["ept_fault_single"], goal=1.05)
    figures.add("ept_fault_exits", l0["ept_fault_l1_exits"], "exits", l0["ept_fault_single_exits"])
    for name, kind, goal in (("virtual_ept_fault", "4k", 1.02), ("shadow_ept_fault", "2m", None)):
        figures.add(f"{name}_vs_nested", span[kind][0], "instr/page", plain[kind][0], goal=goal)
        figures.add(f"{name}_exits", span[kind][1], "exits", plain[kind][1])


def event_rows(m, figures):
    m["L0"].run("ip addr add 10.0.0.1/24 dev tap0 && ip link set tap0 up")
    m["L1a"].run("ip addr add 10.0.0.2/24 dev eth0 && ip link set eth0 up")
    server = m["L1a"].spawn("udp-echo 7")
    m.sleep(0.3)
    udp = int(m["L0"].sh(f"udp-echo 10.0.0.2 7 {ROUNDS}"))
    server.kill()
    writer = Talk(m["guest"], "exec /tmp/write-cost")
    page = int(writer.line())
    writer.say(str(ROUNDS))
    alone = int(writer.line())
    echo = Talk(m["L1a"], f"event-echo /dev/span0 {page}")
    echo.line()
    before = counters(m)
    writer.say(str(ROUNDS))
    event = int(writer.line())
    after = counters(m)
    echo.p.kill()
    asked, timeouts = (after[c] - before[c] for c in ("events", "timeouts"))
    if asked != ROUNDS or timeouts:
        raise RuntimeError(f"{asked} events and {timeouts} timeouts in {ROUNDS} writes")
    figures.add("write_without_watch", alone, "instructions")
    figures.add("event_vs_udp", event, "instructions", udp, goal=0.25)


def nested_log(m):
    """A VM on L1a writes pages that its L1 has a log of: written again after a fetch, as a tracker does."""
    t = Talk(m["L1a"], f"fault-cost nested-log {LOGGED} 4k /dev/span0 {64 * MiB}")
    results = {}
    t.line()
    before = m.exits("L1a")
    t.say()
    t.line()
    results["exits"] = m.exits("L1a") - before
    t.say()
    while len(results) < 4:
        name, value = t.line().split()
        results[name] = int(value)
    t.p.wait()
    return results


def log_rows(m, figures):
    v = values(m["L0"].sh(f"fault-cost log {LOGGED}", timeout=300))
    figures.add("write_fault_no_subscriber", v["write_fault_without_subscriber"], "instr/page")
    figures.add("dirty_l0", v["dirty_l0_again"], "instr/page")
    figures.add("dirty_l0_exits", v["dirty_l0_again_exits"], "exits")
    figures.add("dirty_l0_fetch", v["dirty_l0_fetch"], "instr/page")
    n = nested_log(m)
    if n["pages"] < LOGGED:
        raise RuntimeError(f"the log has {n['pages']} of {LOGGED} pages")
    figures.add("dirty_nested", n["touch"], "instr/page")
    figures.add("dirty_nested_exits", n["exits"], "exits of L1")
    figures.add("dirty_nested_fetch", n["fetch"], "instr/page")
    figures.add("nested_dirty_pages_per_exit", round(LOGGED / max(1, n["exits"]), 1), "pages/exit", least=256)


def add_all(figures, log, build):
    m = Machine("bench-faults", log=log)
    try:
        m.boot(vms=[])
        m["L0"].run("echo never >/sys/kernel/mm/transparent_hugepage/enabled")
        m.start_vm("guest")
        m.start_vm("L1a", extra=NET)
        m["guest"].put(build("write-cost"), "/tmp/write-cost", 0o755)
        fault_rows(m, figures)
        take(m, "L1a")
        bring(m, "L1a", "rw")
        log_rows(m, figures)
        event_rows(m, figures)
    finally:
        m.close()
