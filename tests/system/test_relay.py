# SPDX-License-Identifier: GPL-2.0
"""Interrupts between vCPUs of one guest on L0 and in two L1s. Kernels, ports and drivers are
real; a program at each place (tests/kvm/span_relay.c) plays the controller and the guest."""
from kvmspan import ktap
from kvmspan.cases import case, check, equal
from kvmspan.span import RUN, wait_driver

TOOL = "span_relay"
TOPOLOGY = {"topology": "relay"}
HERE, NOBODY, ELSEWHERE = 0, -1, -2
LDR, SPIV = 0xd0, 0xf0
LOGICAL = 1 << 2
NMI, LEVEL = 4 << 8, 3 << 14
EXCEPTION, EXIT, EOI_EXIT = 1000, 3000, 26


class Place:
    """The program on one level: a line to it, a line back."""

    def __init__(self, level, args):
        self.level, self._at = level, 0
        self.p = level.spawn(f"exec {TOOL} {args}")
        equal(self._line(), "ready", f"{TOOL} on {level.name}")

    def _line(self, timeout=60):
        p = self.p
        while True:
            self.level.machine.pump(lambda: p.out.find(b"\n", self._at) >= 0 or p.over, timeout,
                                    f"{self.level.name}: a line of {TOOL}")
            end = p.out.find(b"\n", self._at)
            check(end >= 0, f"{self.level.name}: {TOOL} ended: {p.text()}")
            line = p.out[self._at:end].decode()
            self._at = end + 1
            if line.startswith("= "):
                return line[2:]

    def do(self, *words, timeout=60):
        self.p.input(" ".join(str(w) for w in words).encode() + b"\n")
        return self._line(timeout)

    def number(self, *words):
        return int(self.do(*words), 0)

    def set(self, vcpu, owner):
        equal(self.do("set", vcpu, owner), "ok", f"{self.level.name}: set {vcpu} {owner}")

    def end(self):
        if not self.p.over:
            self.p.kill()
            self.p.wait(30)


class Guest:
    """Three vCPUs, at first all of L0."""

    def __init__(self, m):
        wait_driver(m, "L1a", "detached")
        wait_driver(m, "L1b", "detached")
        self.base = Place(m["L0"], f"--base {RUN}/L1a.port {RUN}/L1b.port")
        self.l1 = []
        for name in ("L1a", "L1b"):
            wait_driver(m, name, "attached")
            self.l1.append(Place(m[name], "--l1"))

    def give(self, vcpu, n):
        """As a transfer does, without the state: nobody's, here at the L1, the L1's."""
        self.base.set(vcpu, NOBODY)
        self.l1[n].set(vcpu, HERE)
        self.base.set(vcpu, f"p{n}")

    def take(self, vcpu, n):
        self.base.set(vcpu, NOBODY)
        self.l1[n].set(vcpu, ELSEWHERE)

    def end(self):
        for p in (*self.l1, self.base):
            p.end()


def guest(run):
    def body(m):
        g = Guest(m)
        try:
            return run(m, g)
        finally:
            g.end()
    body.__name__, body.__doc__ = run.__name__, run.__doc__
    return body


@case("vcpu/relay-errors", tags=("fast", "debug"), timeout=300, **TOPOLOGY)
def relay_errors(m):
    """What KVM_SPAN_RELAY refuses, in an L1 that has a port."""
    wait_driver(m, "L1a", "detached")
    base = Place(m["L0"], f"--base {RUN}/L1a.port")
    wait_driver(m, "L1a", "attached")
    try:
        rc, out = m["L1a"].run(f"{TOOL} --errors", timeout=120, check=False)
    finally:
        base.end()
    return ktap.Output(out, rc)


@case("vcpu/relay", tags=("fast", "debug"), timeout=300, **TOPOLOGY)
@guest
def relay(_m, g):
    """Each of three hypervisors has one vCPU; interrupts go from each to each."""
    base, (a, b) = g.base, g.l1
    g.give(1, 0)
    g.give(2, 1)
    for place, vcpu in ((a, 1), (b, 2)):
        equal(place.do("idle", vcpu), "ok", "idle")
    equal(base.do("msi", 1, 0, 0x41), "ok", "L0 to L1a")
    equal(a.number("wait", 1), 1, "L0 to L1a")
    equal(a.do("msi", 2, 0, 0x42), "ok", "L1a to L1b")
    equal(b.number("wait", 1), 1, "L1a to L1b")
    for sender, vector in ((a, 0x43), (b, 0x44)):
        equal(sender.do("msi", 0, 0, vector), "ok", "an L1 to L0")
        equal(base.number("irr", 0, vector), 1, "an L1 to L0")
    equal(b.do("msi", 0xff, 0, 0x45), "ok", "to all")
    equal((base.number("irr", 0, 0x45), a.number("wait", 2), b.number("wait", 2)), (1, 2, 2), "to all")
    equal(b.do("msi", 1, 0, NMI), "ok", "an NMI")
    a.number("wait", 3)
    equal(a.number("stop", 1), EXCEPTION + 2, "an NMI from L1b to L1a")

    # level-triggered, where no route says that the EOI matters
    for i in range(2):
        a.do("idle", 1)
        equal(base.do("msi", 1, 0, LEVEL | 0x61), "ok", "level-triggered")
        equal(a.number("wait", 3 + i), 3 + i, "level-triggered")
        equal(a.number("stop", 1), EXIT + EOI_EXIT, "the EOI")


@case("vcpu/relay-identity", tags=("fast", "debug"), timeout=300, **TOPOLOGY)
@guest
def relay_identity(_m, g):
    """How a vCPU is addressed is known everywhere when its write is done."""
    base, (a, b) = g.base, g.l1
    equal(base.number("store", 0, LDR, 0x1 << 24), 0, "vCPU 0's")
    g.give(1, 0)
    equal(a.number("reg", 0, LDR), 0x1 << 24, "of vCPU 0, learned with the first vCPU")
    g.give(2, 1)
    equal(a.number("store", 1, LDR, 0x2 << 24), 0, "the write")
    equal((base.number("reg", 1, LDR), b.number("reg", 1, LDR)), (0x2 << 24,) * 2, "L1a's, on L0 and at L1b")
    equal(b.number("store", 2, LDR, 0x4 << 24), 0, "the write")
    equal((base.number("reg", 2, LDR), a.number("reg", 2, LDR)), (0x4 << 24,) * 2, "L1b's, on L0 and at L1a")
    equal(base.number("store", 0, LDR, 0x10 << 24), 0, "the write")
    equal((a.number("reg", 0, LDR), b.number("reg", 0, LDR)), (0x10 << 24,) * 2, "L0's, at both")
    equal(b.do("msi", 0x12, LOGICAL, 0x51), "ok", "to two logical ids")
    equal((base.number("irr", 0, 0x51), a.number("irr", 1, 0x51), b.number("irr", 2, 0x51)), (1, 1, 0), "arrived")
    # switched off by software: no destination any more
    equal(a.number("store", 1, SPIV, 0xff), 0, "the write")
    equal(b.number("reg", 1, SPIV), 0xff, "off, at L1b")
    # a new relay learns all again
    g.take(2, 1)
    equal(b.do("relay"), "ok", "a new relay")
    g.give(2, 1)
    equal((b.number("reg", 0, LDR), b.number("reg", 1, SPIV)), (0x10 << 24, 0xff), "at the new relay")


@case("vcpu/relay-kept", tags=("fast", "debug"), timeout=300, **TOPOLOGY)
@guest
def relay_kept(_m, g):
    """Interrupts for a vCPU that is on its way come to where it is next, from all sides."""
    base, (a, b) = g.base, g.l1
    g.give(1, 0)
    g.give(2, 1)
    base.set(1, NOBODY)
    for place, vector in ((base, 0x51), (a, 0x52), (b, 0x53)):
        equal(place.do("msi", 1, 0, vector), "ok", "on the way")
    # L1a believed that it had it still: that one is in its state
    equal((a.number("irr", 1, 0x51), a.number("irr", 1, 0x52), a.number("irr", 1, 0x53)), (0, 1, 0), "at L1a")
    a.set(1, ELSEWHERE)
    equal(a.do("msi", 1, 0, 0x54), "ok", "from where it was")
    b.set(1, HERE)
    equal(b.do("msi", 1, 0, 0x55), "ok", "from where it will be")
    base.set(1, "p1")
    equal([b.number("irr", 1, v) for v in (0x51, 0x53, 0x54, 0x55)], [1] * 4, "at L1b")
    equal(base.number("irr", 1, 0x51), 0, "on L0")
    # an L1 that says that it has not what L0 says that it has: nothing goes round in circles
    b.set(1, ELSEWHERE)
    equal(base.do("msi", 1, 0, 0x56), "ok", "to one who has it not")
    before = base.do("info", 1)
    base.level.machine.sleep(0.05)
    equal(base.do("info", 1), before, "posts of L1b")
    base.set(1, NOBODY)
    base.set(1, HERE)
    equal(base.number("irr", 1, 0x56), 1, "at the next owner")


@case("vcpu/relay-moves", tags=("fast", "debug"), timeout=400, **TOPOLOGY)
@guest
def relay_moves(_m, g):
    """L1a sends while the vCPU goes round between the others: all arrive, once each."""
    base, (a, b) = g.base, g.l1
    g.give(1, 0)
    seen = []
    vector = 0x20
    while vector < 0x100:
        at_b = []
        for step in (lambda: base.set(2, NOBODY), lambda: b.set(2, HERE), lambda: base.set(2, "p1"),
                     lambda: base.set(2, NOBODY), lambda: b.set(2, ELSEWHERE), lambda: base.set(2, HERE)):
            for _ in range(3):
                if vector < 0x100:
                    equal(a.do("msi", 2, 0, vector), "ok", "sent")
                    at_b.append(vector)
                    vector += 1
            step()
        seen += [v for v in at_b if b.number("irr", 2, v)]
    home = [v for v in range(0x20, 0x100) if base.number("irr", 2, v)]
    equal(sorted(seen + home), list(range(0x20, 0x100)), "where they came to")
    check(seen and home, f"{len(seen)} at L1b, {len(home)} on L0")


@case("vcpu/relay-ends", tags=("fast", "debug"), timeout=400, fresh=True, **TOPOLOGY)
@guest
def relay_ends(m, g):
    """Revoked, detached, killed: the vCPUs are nobody's, and nothing that was posted is lost."""
    base, (a, b) = g.base, g.l1
    g.give(1, 0)
    g.give(2, 1)
    equal(base.do("revoke", 0), "ok", "revoke")
    equal(base.do("msi", 1, 0, 0x61), "ok", "to nobody")
    equal(a.do("msi", 0, 0, 0x62), "ok", "by a revoked one")
    equal(base.number("irr", 0, 0x62), 0, "a revoked one's")
    check("vcpus 0 " in base.do("info", 0), "it owns some")
    equal(base.do("set", 1, "p0"), "Permission denied", "to a revoked one")
    base.set(1, HERE)
    equal(base.number("irr", 1, 0x61), 1, "at its next owner")
    base.do("detach", 0)
    equal(a.do("set", 2, HERE), "No such device", "a relay whose attachment is over")
    equal(a.do("msi", 0, 0, 0x63), "ok", "with nowhere to go")
    m.kill_vm("L1b")
    equal(base.do("msi", 2, 0, 0x64), "ok", "to one that is gone")
    base.do("revoke", 1)
    base.set(2, HERE)
    equal(base.number("irr", 2, 0x64), 1, "what it did not take")
    m.start_vm("L1b")


@case("vcpu/relay-cost", tags=("slow",), timeout=300, **TOPOLOGY)
@guest
def relay_cost(_m, g):
    """What an interrupt costs its sender, by the TSC: on the same hypervisor and to the others."""
    base, (a, _b) = g.base, g.l1
    g.give(1, 0)
    g.give(2, 1)
    figures = {
        "L0 to itself": base.number("cost", 0, 200), "L0 to L1a": base.number("cost", 1, 200),
        "L1a to itself": a.number("cost", 1, 200), "L1a to L0": a.number("cost", 0, 200),
        "L1a to L1b": a.number("cost", 2, 200),
    }
    for what, tsc in figures.items():
        print(f"# {what}: {tsc} TSC per MSI, system call included")
    check(figures["L1a to L1b"] < 100 * figures["L1a to itself"], str(figures))
