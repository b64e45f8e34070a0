# SPDX-License-Identifier: GPL-2.0
"""Which pages a process writes: what it costs to know, by each method, in one VM.

The rows of the OoH paper (SC 2022): slowdown of the Tracked over its size, time to collect, and what the single
steps cost (its M1 to M18). Everything is in emulated instructions of the whole machine, the host's share with them;
exits are counted beside. A VM exit costs a CPU more than its instructions: tables are printed without that cost and,
marked, with EXIT_CYCLES for each exit on top. The two are never in one number.
"""
import csv
import os
import subprocess
import tempfile

from kvmspan import paths
from kvmspan.machine import Machine
from faults import Talk, values

SIZES = (1, 10, 50, 100, 250)           # MiB
QUICK_SIZES = (1, 10, 50)
METHODS = ("none", "soft-dirty", "uffd", "wp-async", "spml", "epml")
NAMES = {"none": "no tracking", "soft-dirty": "soft-dirty", "uffd": "userfaultfd", "wp-async": "WP_ASYNC",
         "spml": "SPML", "epml": "EPML"}
SPARSE = 100                            # a sparse writer writes one page in so many
# How the Tracked writes: one page in so many, and whether it reads all words of a page before.
KINDS = {"dense": (1, ""), "sparse": (SPARSE, ""), "parse": (1, "parse")}
FEWER = {"parse": (10, 100)}            # sizes of a kind for which it is not to be all of them
WHAT = {"dense": "one word in each page", "sparse": f"one word in one page in {SPARSE}",
        "parse": "one word in each page, and reads all of it"}
EPOCHS = 3                              # of userfaultfd with much memory two: an epoch is 20 s of emulation
# Exit and entry of a CPU, without what the hypervisor does in between, which is in the instructions. Published: 1344 to
# 1376 cycles around VMRUN of an AMD EPYC (linux-kernel, December 2020, about VMSAVE in KVM). bench/run --exit-cycles.
EXIT_CYCLES = 1400
FIELDS = ("method", "mib", "kind", "pass", "pass_exits", "faults", "collect", "collect_exits", "init", "fini", "told", "missed")


def sizes_of(kind, sizes):
    return [s for s in sizes if s in FEWER.get(kind, sizes)]


def here(m):
    """The methods that this VM has."""
    out = m["guest"].run("ooh caps", check=False)[1]
    works = {line.split()[0] for line in out.splitlines() if " yes" in line}
    return [x for x in METHODS if x in ("none", "uffd") or x in works], out


def epochs(m, method, mib, kind):
    """Of each value the least over the epochs but the first, which finds caches and page tables as no other does."""
    step, how = KINDS[kind]
    n = 2 if method == "uffd" and mib > 50 and step == 1 else EPOCHS
    t = Talk(m["guest"], f"ooh-cost {method} {mib} {step} {n} {how}")

    def ask(word):
        before = m.exits("guest")
        t.say()
        line = t.line().split()
        if line[0] != word:
            raise RuntimeError(f"ooh-cost {method} {mib}: {' '.join(line)}")
        return [int(x) for x in line[1:]] + [m.exits("guest") - before]

    first = t.line().split()
    if first[0] != "init":
        raise RuntimeError(f"ooh-cost {method} {mib}: {' '.join(first)}")
    rows = []
    for _ in range(n):
        cycles, faults, exits = ask("pass")
        took, told, missed, more = ask("collect")
        rows.append({"pass": cycles, "faults": faults, "pass_exits": exits, "collect": took, "told": told,
                     "missed": missed, "collect_exits": more})
    fini = ask("fini")[0]
    t.p.wait(200)
    # Of pages that were missed and told, the most.
    row = {k: (max if k in ("missed", "told") else min)(r[k] for r in rows[1:]) for k in rows[0]}
    return dict(row, method=method, mib=mib, kind=kind, init=int(first[1]), fini=fini)


def sweep(m, log, sizes):
    methods, caps = here(m)
    log("back-ends of this VM:\n" + caps.rstrip())
    rows = []
    for kind in KINDS:
        for mib in sizes_of(kind, sizes):
            for method in methods:
                rows.append(epochs(m, method, mib, kind))
                log(f"{kind} {mib} MiB, {method}: " +
                    " ".join(f"{k}={rows[-1][k]}" for k in ("pass", "pass_exits", "faults", "collect", "collect_exits", "missed")))
    # What asking costs by itself, in exits: the same questions without tracking.
    for r in rows:
        none = next(x for x in rows if x["method"] == "none" and (x["mib"], x["kind"]) == (r["mib"], r["kind"]))
        r["oracle"] = none["pass"]
        r["more_exits"] = max(0, r["pass_exits"] - none["pass_exits"])
        r["collect_more_exits"] = max(0, r["collect_exits"] - none["collect_exits"])
    return methods, rows


# The Boehm GC: how it knows of written pages, and what it is told so by.
GC_MIB, GC_ROUNDS = 32, 30
GC_WAYS = {"full": "", "mprotect": "GC_USE_OOH=0 GC_USE_GETWRITEWATCH=0", "soft-dirty": "GC_USE_OOH=0",
           "wp-async": "OOH_BACKEND=wp-async", "spml": "OOH_BACKEND=spml", "epml": "OOH_BACKEND=epml"}


def collector(m, methods, log):
    """Mark phases of the Boehm GC, without dirty bits and with those of each kind."""
    rows = {}
    for way, environment in GC_WAYS.items():
        if way not in methods and way not in ("full", "mprotect"):
            continue
        exits = m.exits("guest")
        rows[way] = values(m["guest"].sh(f"{environment} GC_MARKERS=1 gc-cost {GC_MIB} {GC_ROUNDS} {'full' if way == 'full' else ''}",
                                         timeout=1000))
        rows[way]["exits"] = m.exits("guest") - exits
        log(f"Boehm GC, {way}: {rows[way]}")
    return rows


def print_collector(rows):
    print(f"\nThe Boehm GC, a heap of {GC_MIB} MiB of which little is written, {GC_ROUNDS} rounds; instructions")
    print("| written pages by | mark phases | each | longest | all of it | exits |\n|---|---|---|---|---|---|")
    for way, r in rows.items():
        name = {"full": "nothing: full collections", "mprotect": "mprotect"}.get(way) or NAMES[way]
        print(f"| {name} | {r['marks']} | {r['mark_sum'] // max(1, r['marks']):,} | {r['mark_most']:,} | {r['total']:,} | {r['exits']:,} |")


def write_csv(rows, path):
    with open(path, "w", newline="", encoding="utf-8") as f:
        w = csv.DictWriter(f, FIELDS + ("oracle", "more_exits", "collect_more_exits"), extrasaction="ignore")
        w.writeheader()
        w.writerows(rows)


def slowdown(r, exit_cycles):
    """Of its loop."""
    return (r["pass"] + exit_cycles * r["more_exits"]) / r["oracle"]


def total(r, exit_cycles):
    """What tracking adds to an epoch: the writer's share and the collector's."""
    return (r["pass"] - r["oracle"] + r["collect"]
            + exit_cycles * (r["more_exits"] + r["collect_more_exits"]))


def print_sweep(methods, rows, sizes, exit_cycles):
    def at(method, mib, kind):
        return next(r for r in rows if (r["method"], r["mib"], r["kind"]) == (method, mib, kind))

    def table(title, sizes, cells):
        print()
        print(f"| {title} | " + " | ".join(f"{s} MiB" for s in sizes) + " |")
        print("|---|" + "---|" * len(sizes))
        for x in methods[1:]:
            print(f"| {NAMES[x]} | " + " | ".join(cells(x, s) for s in sizes) + " |")

    for kind in KINDS:
        some = sizes_of(kind, sizes)
        for cost in (0, exit_cycles):
            print(f"\nThe Tracked writes {WHAT[kind]}; " +
                  (f"with {cost} cycles for each exit" if cost else "instructions alone") +
                  "; its loop untracked: " + ", ".join(f"{at('none', s, kind)['pass']:,}" for s in some))
            table("slowdown of its loop", some, lambda x, s: f"{slowdown(at(x, s, kind), cost):.3f}")
            table("added to an epoch, both together", some, lambda x, s: f"{total(at(x, s, kind), cost):,.0f}")
        table("to collect, instructions (exits)", some,
              lambda x, s: f"{at(x, s, kind)['collect']:,} ({at(x, s, kind)['collect_more_exits']})")
        table("faults of the Tracked (exits) in an epoch", some,
              lambda x, s: f"{at(x, s, kind)['faults']:,} ({at(x, s, kind)['more_exits']})")


def steps(m, sizes):
    """ooh-cost metrics for each size."""
    return {s: values(m["guest"].sh(f"ooh-cost metrics {s}", timeout=1000)) for s in sizes}


def print_metrics(rows, single, sizes):
    """The paper's Table IV. What has no counterpart says why."""
    def at(method, mib):
        return next((r for r in rows if (r["method"], r["mib"], r["kind"]) == (method, mib, "dense")), None)

    def of(name):
        return [single[s].get(name) for s in sizes]

    def added(method):
        found = [at(method, s) for s in sizes]
        return [r and r["pass"] - r["oracle"] for r in found]

    def fetched(name):
        return [None if single[s].get(f"{name}_fetch_all") is None else
                single[s][f"{name}_fetch_all"] - single[s][f"{name}_fetch_none"] for s in sizes]

    table = [
        ("M1", "a system call and back", of("syscall")),
        ("M2", "ioctl UFFDIO_WRITEPROTECT, all pages", of("uffd_protect")),
        ("M3", "SPML: begin (OOH_TRACK, arms all pages)", of("spml_open")),
        ("", "EPML: begin", of("epml_open")),
        ("M4", "SPML: end", of("spml_close")),
        ("", "EPML: end", of("epml_close")),
        ("M5", "faults that the kernel resolves (WP_ASYNC), all pages", added("wp-async")),
        ("", "the same, soft-dirty", added("soft-dirty")),
        ("M6", "faults that user space resolves (userfaultfd), all pages", added("uffd")),
        ("M7, M8", "vmread, vmwrite at a switch of processes", "none with SPML: frames are armed, not the schedule; EPML: three MSRs, without an exit"),
        ("M9-M12", "hypercalls to begin and end", "one for 1024 ranges of frames that are armed, in M3; the ring by two MSRs, when the first process is tracked"),
        ("M13, M14", "hypercalls at a switch of processes", "none, as above"),
        ("M15", "clear_refs", of("clear_refs")),
        ("M16", "page tables by one read() a page, as in the paper", of("walk_each")),
        ("", "the same, all in one read()", of("walk_all")),
        ("M17, M18", "SPML: fetch of all pages less a fetch of none (frames to addresses, ring)", fetched("spml")),
        ("", "EPML: the same", fetched("epml")),
        ("", "SPML: fetch of none", of("spml_fetch_none")),
        ("", "EPML: fetch of none", of("epml_fetch_none")),
        ("", "WP_ASYNC: fetch of none", of("wp-async_fetch_none")),
        ("", "soft-dirty: fetch of none", of("soft-dirty_fetch_none")),
    ]
    print("\nSingle steps, instructions")
    print("| | | " + " | ".join(f"{s} MiB" for s in sizes) + " |")
    print("|---|---|" + "---|" * len(sizes))
    for number, what, cells in table:
        if isinstance(cells, str):
            print(f"| {number} | {what}: {cells} |" + " |" * len(sizes))
        elif any(c is not None for c in cells):
            print(f"| {number} | {what} | " + " | ".join("" if c is None else f"{c:,.0f}" for c in cells) + " |")


PLOT = """
set terminal svg size 760,480 font "sans,13" background "white"
set datafile separator ","
set key top left
set xlabel "memory that the Tracked writes, MiB"
set logscale xy
set xtics ({ticks})
set grid ytics lc rgb "#dddddd"
set output "{out}"
set ylabel "{label}"
set title "{title}"
plot {lines}
"""


def plot(methods, rows, sizes, directory, log):
    """ooh-*.svg by gnuplot, from the numbers that the tables have."""
    subprocess.run(["bash", "-c", f". '{paths.TOP}/scripts/lib.sh'; need_packages gnuplot-nox"], check=True)
    graphs = [(f"ooh-{name}-{kind}.svg", label, kind, key)
              for kind in KINDS
              for name, label, key in (("slowdown", "time of its loop over that without tracking", lambda r: slowdown(r, 0)),
                                       ("epoch", "instructions added to an epoch", lambda r: max(1, total(r, 0))))]
    for out, label, kind, key in graphs:
        title = f"The Tracked writes {WHAT[kind]}"
        with tempfile.TemporaryDirectory() as d:
            lines = []
            for x in methods[1:]:
                data = os.path.join(d, x)
                with open(data, "w", encoding="utf-8") as f:
                    for r in rows:
                        if r["method"] == x and r["kind"] == kind:
                            f.write(f"{r['mib']},{key(r)}\n")
                lines.append(f'"{data}" using 1:2 with linespoints lw 2 pt 7 ps 0.6 title "{NAMES[x]}"')
            script = PLOT.format(ticks=",".join(str(s) for s in sizes), out=os.path.join(directory, out), label=label,
                                 title=f"{title}\\n(emulated instructions, exits not charged)", lines=", ".join(lines))
            subprocess.run(["gnuplot"], input=script.encode(), check=True)
        log(f"written to {os.path.relpath(os.path.join(directory, out), paths.TOP)}")


def add_figures(figures, methods, rows, sizes):
    def at(method, kind):
        big = sizes_of(kind, sizes)[-1]
        return next(r for r in rows if (r["method"], r["mib"], r["kind"]) == (method, big, kind))

    for x in methods[1:]:
        for kind in KINDS:
            r, key = at(x, kind), f"ooh_{x.replace('-', '_')}_{kind}"
            # A loop that does nothing but write has no 1 % to lose.
            figures.add(f"{key}_loop", r["pass"], "instructions", r["oracle"],
                        goal=1.01 if (x, kind) == ("epml", "parse") else None)
            figures.add(f"{key}_collect", r["collect"], "instructions")
            figures.add(f"{key}_exits", r["more_exits"] + r["collect_more_exits"], "exits")
    for x in ("spml", "epml"):
        if x in methods:
            figures.add(f"ooh_{x}_vs_wp_async", total(at(x, "sparse"), 0), "instructions",
                        total(at("wp-async", "sparse"), 0), goal=1.0)
    figures.add("ooh_pages_missed", sum(r["missed"] for r in rows), "pages", most=0)


def add_all(figures, log, exit_cycles=EXIT_CYCLES, quick=False, topology="bench-ooh"):
    sizes = QUICK_SIZES if quick else SIZES
    m = Machine(topology, log=log)
    try:
        m.boot()
        methods, rows = sweep(m, log, sizes)
        single = steps(m, sizes)
    finally:
        m.close()
    os.makedirs(paths.RESULTS, exist_ok=True)
    write_csv(rows, os.path.join(paths.RESULTS, "ooh.csv"))
    print_sweep(methods, rows, sizes, exit_cycles)
    print_metrics(rows, single, sizes)
    add_figures(figures, methods, rows, sizes)
    plot(methods, rows, sizes, paths.RESULTS, log)


def add_collector(figures, log):
    m = Machine("bench-ooh", log=log)
    try:
        m.boot()
        gc = collector(m, here(m)[0], log)
    finally:
        m.close()
    print_collector(gc)
    for way, r in gc.items():
        figures.add(f"gc_{way.replace('-', '_')}_mark", r["mark_sum"] // max(1, r["marks"]), "instructions",
                    gc["mprotect"]["mark_sum"] // max(1, gc["mprotect"]["marks"]))
        figures.add(f"gc_{way.replace('-', '_')}_total", r["total"], "instructions", gc["mprotect"]["total"])
