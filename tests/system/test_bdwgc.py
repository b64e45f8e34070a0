# SPDX-License-Identifier: GPL-2.0
"""The Boehm GC with libooh (scripts/build-bdwgc): its own tests, with soft-dirty bits or checksums beside.

Long: none was run on the machine yet; on a host with WP_ASYNC gctest passes."""
import os
import re

from kvmspan import paths
from kvmspan.cases import Skip, case, check

CHECKED = re.compile(r"GC_OOH_CHECK: (\d+) soft-dirty pages so far, (\d+) only by libooh, (\d+) missed")


def gctest(level, backend, variant, timeout):
    """gctest in incremental mode by that back-end of libooh; its output."""
    program = paths.build("bdwgc", variant, "gctest")
    if not os.path.exists(program):
        raise Skip("no build/bdwgc: run scripts/build-bdwgc")
    level.put(program, f"/tmp/gctest-{variant}")
    # Beside checksums, which find every page that was written and counts as clean, there is no need of soft-dirty bits.
    beside = "GC_OOH_CHECK=1" if variant == "threads" else ""
    rc, out = level.run(f"OOH_BACKEND={backend} {beside} GC_PRINT_STATS=1 /tmp/gctest-{variant} >/tmp/gc.log 2>&1; rc=$?; "
                        "grep -E 'libooh|OOH|dirty bit|ncremental|works' /tmp/gc.log | uniq | tail -n 400; exit $rc",
                        timeout=timeout, check=False)
    check(rc == 0, f"gctest: status {rc}: {out[-1500:]}")
    check(f"Using libooh, by {backend}" in out, f"not by {backend}: {out[:1500]}")
    check("Collector appears to work" in out, out[-500:])
    check("dirty bit errors" not in out, "a page that was written counted as clean")
    return out


def compared(level, backend, timeout):
    out = gctest(level, backend, "threads", timeout)
    counts = CHECKED.findall(out)
    check(counts, f"nothing was compared: {out[-500:]}")
    soft, only, missed = (int(n) for n in counts[-1])
    check(missed == 0 and soft > 1000, f"{soft} pages compared, {missed} missed")
    check(only < 5 * soft, f"{only} pages told that soft-dirty bits do not know, of {soft}: hardly a dirty bit")


@case("ooh/bdwgc-wp-async", topology="single", tags=("long",), timeout=400)
def wp_async(m):
    compared(m["L0"], "wp-async", 300)


@case("ooh/bdwgc-checksums", topology="single", tags=("long",), timeout=500)
def checksums(m):
    gctest(m["L0"], "wp-async", "checksums", 400)


@case("ooh/bdwgc-spml", topology="ooh", tags=("long",), timeout=500)
def spml(m):
    compared(m["guest"], "spml", 400)
    gctest(m["guest"], "spml", "checksums", 400)
