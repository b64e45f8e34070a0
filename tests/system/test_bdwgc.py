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
    if variant == "checksums":
        level.run("mkdir -p /lib64 /lib/x86_64-linux-gnu")
        for name, where in (("ld-linux-x86-64.so.2", "lib64"), ("libc.so.6", "lib/x86_64-linux-gnu")):
            level.put(os.path.join(paths.IMAGES, "userland", "lib/x86_64-linux-gnu", name), f"/{where}/{name}", 0o755)
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


def others(level, backend, timeout):
    """What else "make check" runs, each in incremental mode and with soft-dirty bits beside."""
    directory = paths.build("bdwgc", "threads")
    if not os.path.isdir(directory):
        raise Skip("no build/bdwgc: run scripts/build-bdwgc")
    names = [n for n in sorted(os.listdir(directory)) if n != "gctest"]
    check(len(names) > 8, f"only {names}")
    compared_pages = 0
    for name in names:
        level.put(os.path.join(directory, name), f"/tmp/{name}")
        rc, out = level.run(f"GC_ENABLE_INCREMENTAL=1 OOH_BACKEND={backend} GC_OOH_CHECK=1 GC_PRINT_STATS=1 /tmp/{name} >/tmp/gc.log 2>&1; rc=$?; "
                            f"rm /tmp/{name}; grep -c 'Using libooh, by {backend}' /tmp/gc.log; grep GC_OOH_CHECK: /tmp/gc.log | tail -n 1; "
                            "tail -n 5 /tmp/gc.log; exit $rc", timeout=timeout, check=False)
        check(rc == 0 and out[0] != "0", f"{name}: status {rc}: {out}")
        counts = CHECKED.findall(out)
        if counts:
            check(counts[-1][2] == "0", f"{name}: pages were missed: {out}")
            compared_pages += int(counts[-1][0])
    check(compared_pages > 100, f"only {compared_pages} pages were compared in all of {len(names)} programs")


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


@case("ooh/bdwgc-check-wp-async", topology="single", tags=("long",), timeout=500)
def check_wp_async(m):
    others(m["L0"], "wp-async", 200)


@case("ooh/bdwgc-check-spml", topology="ooh", tags=("long",), timeout=700)
def check_spml(m):
    others(m["guest"], "spml", 300)
