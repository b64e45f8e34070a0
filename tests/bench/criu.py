# SPDX-License-Identifier: GPL-2.0
"""Redis dumped step by step by CRIU: what a pre-dump and the last dump cost, by what tells which pages were written.

Needs 'make criu'. Instructions of the whole machine, the host's share with them; exits beside."""
import os

from kvmspan import paths
from kvmspan.checkpoint import Redis
from kvmspan.machine import Machine

WAYS = {"soft-dirty": "soft-dirty", "log": "ooh"}
KEYS = 30000                            # of 300 bytes, 17 MB of Redis
WRITES = 2000                           # keys that are set between two dumps, all over the others
ROUNDS = 4                              # pre-dumps; the first takes all pages and is not in the figures
SET = f"for i=1,{WRITES} do redis.call('set','key:'..(i*{KEYS // WRITES}-1),string.rep('x',300)) end"


def possible():
    return all(os.path.exists(paths.build(*p)) for p in (("criu", "criu"), ("images", "userland-criu")))


def measured(m, call):
    """(instructions, exits, result) of a call."""
    exits, tsc = m.exits("guest"), m.tsc()
    result = call()
    return m.tsc() - tsc, m.exits("guest") - exits, result


def one_way(m, backend):
    """What each step costs; of the pre-dumps and of the writer the mean over all but the first."""
    r = Redis(m["guest"], KEYS)
    options = f"--track-mem-backend {backend}"
    plain = [measured(m, lambda: r.ask(f'eval "{SET}" 0'))[0] for _ in range(3)]
    steps, writer = [], []
    for _ in range(ROUNDS):
        steps.append(measured(m, lambda: r.criu("pre-dump", options)))
        writer.append(measured(m, lambda: r.ask(f'eval "{SET}" 0')))
    last = measured(m, lambda: r.criu("dump", options))
    pages = [r.pages(where)[0] for _, _, where in steps] + [r.pages(last[2])[0]]
    later = steps[1:]
    return {
        "plain": min(plain), "writer": sum(w[0] for w in writer) // len(writer),
        "writer_exits": sum(w[1] for w in writer) // len(writer),
        "first": steps[0][0], "first_pages": pages[0],
        "pre_dump": sum(s[0] for s in later) // len(later), "pre_dump_exits": sum(s[1] for s in later) // len(later),
        "pre_dump_pages": sum(pages[1:-1]) // len(later),
        "dump": last[0], "dump_exits": last[1], "dump_pages": pages[-1],
    }


def checkpoints(log):
    m = Machine("criu", log=log)
    rows = {}
    try:
        m.boot()
        for name, backend in WAYS.items():
            rows[name] = one_way(m, backend)
            log(f"CRIU, {name}: {rows[name]}")
    finally:
        m.close()
    return rows


def print_checkpoints(rows):
    print(f"\nCRIU: Redis with {KEYS} keys, {WRITES} of them set between two dumps; instructions (exits)")
    print("| written pages by | to set the keys | untracked | pre-dump | pages | last dump | pages | first pre-dump | pages |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, r in rows.items():
        print(f"| {'the log of the host' if name == 'log' else name} | {r['writer']:,} ({r['writer_exits']}) | {r['plain']:,} | "
              f"{r['pre_dump']:,} ({r['pre_dump_exits']}) | {r['pre_dump_pages']} | {r['dump']:,} ({r['dump_exits']}) | "
              f"{r['dump_pages']} | {r['first']:,} | {r['first_pages']} |")
