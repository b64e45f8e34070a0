# SPDX-License-Identifier: GPL-2.0
"""The guest under torture on its way over the hypervisors."""
from . import transfer as tr
from .cases import check, equal
from .torture import Torture

# In an L1 each exit costs fifty times as much: the program does less there.
EASY = 15000


def kvm_exits(m, on):
    """VM exits that an L1's KVM has counted for the guest."""
    out = m[on].sh(f"cat /sys/kernel/debug/kvm/{m['guest'].peers[on].pid}-*/exits")
    return sum(int(x) for x in out.split())


class Journey:
    """The guest under torture, and what has to be true of it wherever it is."""

    def __init__(self, m, pause_us=EASY):
        self.m = m
        self.cpus = m["guest"].spec.cpus
        self.torture = Torture(m, pause_us)
        self.offsets = tr.tsc_offsets(m)
        self.boots = m["guest"].endpoint.boots
        self.owners = tr.owners(m)
        equal(len(set(self.offsets)), 1, f"TSC offsets of the guest's vCPUs ({self.offsets})")

    def go(self, to, vcpus=None, **options):
        m = self.m
        data = tr.transfer(m, to, vcpus, **options)
        moved = range(self.cpus) if vcpus is None else vcpus
        self._moved(to, moved, data)
        self.look(f"after a transfer to {to}")
        return data

    def hop(self, to, vcpus=None):
        """As go(), and then nothing is asked but the guest's next move: for very many in a row."""
        m = self.m
        moved = range(self.cpus) if vcpus is None else vcpus
        after = len(m.events("guest"))
        data = tr.wait(m, tr.start(m, to, vcpus), after)
        equal(data["status"], "completed", f"status of a transfer of {list(moved)} to {to} ({data})")
        self._moved(to, moved, data)
        if 0 in moved:
            tr.seat(m, tr.where(to))

    def _moved(self, to, vcpus, data):
        for n in vcpus:
            self.owners[n] = tr.where(to)
        self.m.log_line("transfers", f"{to} {list(vcpus)}: {data}")

    def look(self, what):
        """All that must be so wherever the vCPUs are."""
        equal(tr.owners(self.m), self.owners, f"owners {what}")
        equal(tr.tsc_offsets(self.m), self.offsets, f"TSC offsets {what}")

    def check(self, what):
        before = {on: kvm_exits(self.m, on) for on in set(tr.owners(self.m)) - {tr.BASE}}
        self.torture.check(what)
        for on, n in before.items():
            check(kvm_exits(self.m, on) > n, f"no exits of the guest on {on}, {what}")
        return self.torture.last

    def end(self):
        last = self.torture.stop()
        equal(last["sum"], 0, f"errors in the guest ({last['first']})")
        equal(self.m["guest"].endpoint.boots, self.boots, "boots of the guest")
        if self.m["guest"].spec.kvmclock == "off":
            equal(tr.clock(self.m), "tsc", "the guest's clock")
        return last
