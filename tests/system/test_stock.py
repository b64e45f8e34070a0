# SPDX-License-Identifier: GPL-2.0
"""What is not a Span guest behaves as with stock KVM.

The KVM selftests run with the stock modules and with ours in the same machine,
one after the other; a test may fail on the emulated machine (it has known
deviations), but it has to give the same result with both.
"""
import os
import re

from kvmspan import paths
from kvmspan.cases import case, check, equal

DIRECTORY = paths.build("tests", "selftests")
# In CPU seconds of the emulator; the emulator makes nested exits slow.
TIMEOUT = 60
# Too slow one level deeper, or they test what that level's kernel does not have.
NOT_NESTED = {"vmx_dirty_log_test", "vmx_invalid_nested_guest_state"}


def selftests():
    names = sorted(f for f in os.listdir(DIRECTORY) if not f.startswith(".")) if os.path.isdir(DIRECTORY) else []
    check(names, "no KVM selftests: run 'make selftests'")
    return names


def result_of(rc, out):
    """Exit status and the outcome of each subtest, without times and addresses."""
    lines = [re.sub(r"0x[0-9a-f]+|\d+\.\d+", "N", line) for line in out.splitlines()
             if re.match(r"(not )?ok \d|# Totals|1\.\.", line)]
    return rc, tuple(lines)


def run_all(level, names):
    results = {}
    for name in names:
        level.put(os.path.join(DIRECTORY, name), "/tmp/selftest", 0o755)
        rc, out = level.run("cd /tmp; exec ./selftest 2>&1", timeout=TIMEOUT, check=False)
        level.machine.log_line("selftests", f"== {level.name} {level.machine.modules} {name}: {rc}\n{out}")
        results[name] = result_of(rc, out)
    return results


def compare(stock, ours):
    worse = [f"{n}: stock {stock[n]}, ours {ours[n]}" for n in stock if stock[n] != ours[n]]
    check(not worse, "; ".join(worse))
    passed = [n for n in ours if ours[n][0] == 0]
    # Equal failures everywhere would prove nothing.
    check(len(passed) * 2 > len(ours), f"only {passed} pass at all: {ours}")


@case("stock/selftests-in-l0", topology="single", tags=("slow",), timeout=900, fresh=True)
def selftests_in_l0(m):
    results = {}
    for modules in ("stock", "span"):
        m.load_kvm(modules)
        results[modules] = run_all(m["L0"], selftests())
    compare(results["stock"], results["span"])


@case("stock/selftests-in-l1", topology="nested", tags=("slow",), timeout=1500, fresh=True, vms=())
def selftests_in_l1(m):
    results = {}
    names = [n for n in selftests() if n not in NOT_NESTED]
    for modules in ("stock", "span"):
        m.load_kvm(modules)
        m.start_vm("L1a")
        results[modules] = run_all(m["L1a"], names)
        m.kill_vm("L1a")
    compare(results["stock"], results["span"])


def nested_boot(m):
    equal(m["L2"].sh("hostname"), "L2", "L2's hostname")
    out = m["L2"].sh("i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; echo $i")
    equal(out, "1000", "work in L2")
    for name in ("L1a", "L2"):
        equal(m.qmp(name, "query-status")["status"], "running", f"{name} runs")
    check(m.exits("L2") > 1000, "L2 ran on L1a's KVM")


@case("stock/nested-boot", topology="nested", tags=("fast",), timeout=200)
def nested_boot_ours(m):
    nested_boot(m)


@case("stock/nested-boot-stock-modules", topology="nested", tags=("slow",), timeout=200, modules="stock")
def nested_boot_stock(m):
    nested_boot(m)


@case("stock/no-device-when-off", topology="single", tags=("fast",), modules="span", fresh=True)
def no_device_when_off(m):
    """Our modules without span=1: nothing of it is there."""
    l0 = m["L0"]
    check(l0.run("test -c /dev/kvm-span", check=False)[0] == 0, "with span=1 there is a /dev/kvm-span")
    m.load_kvm("span", "span=0")
    check(l0.run("test -e /dev/kvm-span", check=False)[0] != 0, "with span=0 there is no /dev/kvm-span")
    equal(l0.sh("cat /sys/module/kvm/parameters/span"), "N", "the parameter")
