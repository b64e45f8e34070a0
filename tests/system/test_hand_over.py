# SPDX-License-Identifier: GPL-2.0
"""The whole guest goes from L0 to an L1 and back, and its memory stays where it is: each sees the same page all
the time. What else a transfer keeps is in test_transfer.py."""
from kvmspan import handover
from kvmspan.cases import case, check, equal
from kvmspan.span import Chain, GuestPage, Memory, base_memory, bring, pattern, settle

TRIMMED = {"topology": "hand-over"}
DEBIAN = {"topology": "hand-over-debian"}


def exits_of_peer(m, on):
    """VM exits that the KVM of the L1 has counted for the guest."""
    out = m[on].sh(f"cat /sys/kernel/debug/kvm/{m['guest'].peers[on].pid}-*/exits")
    return sum(int(x) for x in out.split())


def uptime(m):
    return float(m["guest"].sh("cut -d' ' -f1 /proc/uptime"))


def there_and_back(m, route):
    settle(m)
    base = base_memory(m)
    page = GuestPage(m, base)
    kernel = m["guest"].sh("uname -rv")
    for name in sorted({r for r in route if r != "L0"}):
        bring(m, name, "rw", rights=[])
    views = {"L0": base, "L1a": Memory(m["L1a"])}
    chain = Chain(m)
    before = uptime(m)
    for number, to in enumerate(route, 1):
        where = f"on {to} (move {number})"
        handover.hand_over(m, to)
        chain.check(where)
        mark = pattern("moved")
        page.write(mark)
        for name, v in views.items():
            equal(v.read(page.offset, 16), mark, f"what the guest wrote {where}, in {name}")
        mark = pattern("fromL0")
        equal(base.write(page.offset, mark), "ok", "L0's write")
        equal(page.read(), mark, f"what L0 wrote, in the guest {where}")
        now = uptime(m)
        check(before < now < before + 20, f"the guest's clock went from {before} to {now} {where}")
        before = now
        if to != "L0":
            first = exits_of_peer(m, to)
            chain.check(where)
            check(exits_of_peer(m, to) > first, f"no exits of the guest {where}")
    equal(m["guest"].sh("uname -rv"), kernel, "the guest's kernel")
    chain.stop()


@case("mem/hand-over", timeout=300, tags=("fast", "debug"), **TRIMMED)
def hand_over(m):
    """A program's chained hashes stay right over L0 -> L1a -> L0 -> L1b -> L1a -> L0."""
    there_and_back(m, ["L1a", "L0", "L1b", "L1a", "L0"])


@case("mem/hand-over-debian", timeout=300, **DEBIAN)
def hand_over_debian(m):
    """The same with Debian's kernel in the guest, unmodified; the window is mapped in large pages."""
    there_and_back(m, ["L1a", "L0", "L1a", "L0"])
    check("Debian" in m["guest"].sh("uname -v"), "not Debian's kernel")
    out = m["L1a"].sh("spanctl list")
    m.log_line("spanctl", out)
