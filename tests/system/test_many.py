# SPDX-License-Identifier: GPL-2.0
"""Very many moves of vCPUs, at random, under a guest that checks itself.

KVM_SPAN_TRANSFERS=1000 tests/run --tag long --filter '^vcpu/transfer-many$'
KVM_SPAN_SPLITS=2000 tests/run --kernel debug --tag long --filter '^vcpu/split-random$'

KVM_SPAN_SEED=N makes other moves; the same seed the same ones.
"""
import os
import random
import time

from kvmspan import transfer as tr
from kvmspan.cases import case, check
from kvmspan.journey import Journey

TRANSFERS = int(os.environ.get("KVM_SPAN_TRANSFERS", "60"))
SPLITS = int(os.environ.get("KVM_SPAN_SPLITS", "60"))
SEED = int(os.environ.get("KVM_SPAN_SEED", "4"))
PLACES = ("L0", "L1a", "L1b")
# Of the emulator, for each move: of the debug kernel ten times what it takes.
SECONDS = 10
KHZ = 1497600           # of the TSC, on all levels
DRIFT_NS = 100000       # for each move
EVERY = 32              # moves from one look at everything to the next


def roam(m, count, moves):
    """So many moves; moves(owners) says which ones there are. Now and then all is looked at."""
    tr.settle(m, peers=("L1a", "L1b"))
    j = Journey(m)
    rng = random.Random(SEED)
    first = j.torture.look()
    started = time.monotonic()
    for done in range(1, count + 1):
        j.hop(*rng.choice(moves(j.owners)))
        m.sleep(round(rng.random() * 0.005, 4))
        if done % EVERY == 0:
            what = f"with {j.owners} after {done} moves (seed {SEED})"
            j.look(what)
            j.check(what)
            m.log_line("progress", f"{done} moves in {time.monotonic() - started:.0f} s, {m.bochs.cpu():.0f} CPU s")
    if j.owners != [tr.BASE] * j.cpus:
        j.go("L0")
    last = j.check(f"after {count} moves (seed {SEED})")
    drift = abs(last["clock_ns"] - first["clock_ns"] - (last["tsc"] - first["tsc"]) * 1000000 / KHZ)
    check(drift < DRIFT_NS * count, f"the guest's clock drifted {drift:.0f} ns from its TSC in {count} moves")
    m.log_line("progress", f"{count} moves, drift {drift:.0f} ns, longest {last['max_ns']}")
    j.end()


def whole(now):
    """All vCPUs go together."""
    return [(to,) for to in PLACES if any(owner != tr.where(to) for owner in now)]


def parts(now):
    """What can be asked for: an owner, and vCPUs that he has not all got."""
    return [(to, vcpus) for to in PLACES for vcpus in ([0], [1], [0, 1])
            if any(now[n] != tr.where(to) for n in vcpus)]


@case("vcpu/transfer-many", timeout=600 + SECONDS * TRANSFERS, tags=("long",), topology="transfer")
def transfers(m):
    """All vCPUs go from one to another, again and again, at random moments."""
    roam(m, TRANSFERS, whole)


@case("vcpu/split-random", timeout=600 + SECONDS * SPLITS, tags=("long",), topology="transfer")
def splits(m):
    """Random vCPUs go to random hypervisors."""
    roam(m, SPLITS, parts)
