# SPDX-License-Identifier: GPL-2.0
"""Everything at once, at random: where the guest runs, who is attached, who watches what."""
import itertools
import random

from kvmspan import handover
from kvmspan.cases import case, check, equal
from kvmspan.span import Chain, GuestPage, Memory, attached, base_memory, bring, info, settle, take
from kvmspan.watch import Dirty, Protect, Watch

L1S = ("L1a", "L1b")
_numbers = itertools.count(0x7e0000001)


class Stress:
    """The model: who is attached, where the guest is, what is watched, and so whether a write arrives."""

    def __init__(self, m, seed):
        self.m, self.rng = m, random.Random(seed)
        settle(m)
        self.base = base_memory(m)
        self.pages = [GuestPage(m, self.base) for _ in range(4)]
        self.values = [self.base.number(p.offset) for p in self.pages]
        self.chain = Chain(m)
        self.seat, self.attached = "L0", set()
        self.views = {}        # L1: a mapping of its window
        self.watches = []      # (L1, page index or None, command, whether writes of others arrive)

    # What may be done now.
    def operations(self):
        ops = [(self.guest_writes, 6), (self.l0_writes, 2)]
        free = [n for n in L1S if n not in self.attached]
        if free:
            ops.append((self.attach, 4))
        if self.attached:
            ops += [(self.l1_writes, 3), (self.move, 3)]
            if len(self.watches) < 4:
                ops.append((self.watch, 6))
            if self.others():
                ops += [(self.detach, 1), (self.kill, 1)]
        if self.watches:
            ops.append((self.unwatch, 3))
        return ops

    def others(self):
        """L1s that are attached and do not run the guest."""
        return sorted(n for n in self.attached if n != self.seat)

    def step(self):
        ops = self.operations()
        operation = self.rng.choices([o for o, _ in ops], [w for _, w in ops])[0]
        return operation.__name__ + " " + str(operation())

    # What has to be among the operations whatever the seed.
    def to_l1a(self):
        if "L1a" not in self.attached:
            self.attach("L1a")
        return self.move("L1a")

    def to_l0(self):
        return self.move("L0")

    def kill_one(self):
        if not self.others():
            self.attach()
        return self.kill()

    def arrives(self, index):
        return all(lets for _, i, _, lets in self.watches if i == index)

    def written(self, index, number, arrives, what):
        if arrives:
            self.values[index] = number
        page = self.pages[index]
        want = self.values[index]
        equal(self.base.number(page.offset), want, f"page {index} in L0 after {what}")
        for name, v in self.views.items():
            equal(v.number(page.offset), want, f"page {index} in {name} after {what}")
        equal(page.tool.number(0), want, f"page {index} in the guest after {what}")

    def guest_writes(self):
        i, n = self.rng.randrange(len(self.pages)), next(_numbers)
        equal(self.pages[i].tool.store(0, n), "ok", "the guest's write")
        self.written(i, n, self.arrives(i), f"a write by the guest on {self.seat}")
        return i

    def l0_writes(self):
        """By the controller: goes past every watch."""
        i, n = self.rng.randrange(len(self.pages)), next(_numbers)
        equal(self.base.store(self.pages[i].offset, n), "ok", "L0's write")
        self.written(i, n, True, "a write by L0")
        return i

    def l1_writes(self):
        name = self.rng.choice(sorted(self.attached))
        i, n = self.rng.randrange(len(self.pages)), next(_numbers)
        self.views[name].store(self.pages[i].offset, n)
        # Its own subscriptions do not stop it, protections do.
        lets = all(ok for who, page, w, ok in self.watches
                   if page == i and (who != name or isinstance(w, Protect)))
        self.written(i, n, lets, f"a write by {name}")
        return f"{name} {i}"

    def attach(self, name=None):
        name = name or self.rng.choice([n for n in L1S if n not in self.attached])
        bring(self.m, name, "rw")
        self.attached.add(name)
        self.views[name] = Memory(self.m[name])
        return name

    def detach(self):
        name = self.rng.choice(self.others())
        handover.stop_peer(self.m, name)
        self.views.pop(name).close()
        if self.rng.random() < 0.5:
            for w in [w for w in self.watches if w[0] == name]:
                self.end(w)
        take(self.m, name)
        for w in [w for w in self.watches if w[0] == name]:
            w[2].p.wait(60)
            self.watches.remove(w)
        self.attached.remove(name)
        return name

    def kill(self):
        """SIGKILL of an L1's QEMU while the guest writes a page that it watches, if it does; it boots and comes back."""
        name = self.rng.choice(self.others())
        mine = [w for w in self.watches if w[0] == name]
        # What it protects is denied at once while it is there, so what it watches otherwise.
        protected = {w[1] for w in mine if isinstance(w[2], Protect)}
        asked = sorted({w[1] for w in mine} - protected) or sorted(set(range(len(self.pages))) - protected)
        i = self.rng.choice(asked) if asked else None
        n = next(_numbers)
        # It does not answer any more, and then is not there any more: which it was when asked is a matter of luck.
        self.m.kill_vm(name, "STOP")
        if i is not None:
            self.pages[i].tool.start(f"x 0 {n}")
        self.m.sleep(self.rng.choice((0, 0.005)))
        events = len(self.m.events("guest"))
        self.m.kill_vm(name)
        self.m.wait_event("guest", "SPAN_PEER_LOST", after=events)
        self.watches = [w for w in self.watches if w not in mine]
        self.attached.remove(name)
        self.views.pop(name)
        if i is not None:
            equal(self.pages[i].tool.finish(), "ok", "the guest's write")
            self.written(i, n, self.arrives(i), f"a write by the guest on {self.seat} while {name} was killed")
        for w in mine:
            n = next(_numbers)
            equal(self.pages[w[1]].tool.store(0, n), "ok", "the guest's write")
            self.written(w[1], n, self.arrives(w[1]), f"a write of a page that {name} watched when it was killed")
        equal(attached(self.m), self.attached, "attached")
        equal(info(self.m)["watches"], len(self.watches), f"watches after {name} was killed")
        self.chain.check(f"after {name} was killed")
        self.m.restart_vm(name)
        self.attach(name)
        return f"{name} with {len(mine)} watches"

    def move(self, to=None):
        to = to or self.rng.choice([x for x in ("L0", *sorted(self.attached)) if x != self.seat])
        handover.hand_over(self.m, to)
        self.seat = to
        self.chain.check(f"on {to}")
        return to

    def watch(self):
        name = self.rng.choice(sorted(self.attached))
        i = self.rng.randrange(len(self.pages))
        page, level = self.pages[i].page, self.m[name]
        kind = self.rng.choice(["block", "deny", "notify", "protect", "log"])
        if kind == "protect":
            w = Protect(level, "r", page)
        elif kind == "log":
            w = Dirty(level, 0.2, f"{page}+4")
            w.next(120)
        else:
            w = Watch(level, "--write", page, {"block": "--block", "deny": "--block --answer deny",
                                               "notify": "--notify"}[kind])
        self.watches.append((name, i, w, kind not in ("deny", "protect")))
        return f"{name} {kind} {i}"

    def unwatch(self):
        w = self.rng.choice(self.watches)
        self.end(w)
        return w[0]

    def end(self, w):
        # With signals of all kinds.
        if self.rng.random() < 0.5:
            w[2].abandon()
        else:
            w[2].end()
        self.watches.remove(w)

    def finish(self):
        for w in list(self.watches):
            self.end(w)
        for i in range(len(self.pages)):
            n = next(_numbers)
            equal(self.pages[i].tool.store(0, n), "ok", "the guest's write")
            self.written(i, n, True, "all watches have ended")
        state = info(self.m)
        equal((state["watches"], state["pending"]), (0, 0), "watches and waiting accesses that are left")
        equal(attached(self.m), self.attached, "attached")
        self.chain.check("at the end")
        self.chain.stop()


@case("event/random-operations", topology="hand-over", tags=("slow",), timeout=1500)
def random_operations(m, seed=20261121, operations=150):
    """Hand-over, attach, detach, kill, watches, writes from all sides against a model. Replay: the seed."""
    s = Stress(m, seed)
    done = []
    sure = {operations // 4: "to_l1a", operations // 2: "kill_one", operations * 3 // 4: "to_l0"}
    try:
        for n in range(operations):
            done.append(f"{sure[n]} {getattr(s, sure[n])()}" if n in sure else s.step())
            m.log_line("stress", f"{n} {done[-1]}")
            if n % 10 == 9:
                s.chain.check(f"after {n + 1} operations")
        s.finish()
    except Exception as e:
        raise AssertionError(f"seed {seed}, after {done[-8:]}: {e}") from e
    kinds = {d.split()[0] for d in done}
    missing = {o.__name__ for o in (s.guest_writes, s.l0_writes, s.l1_writes, s.attach, s.detach, s.kill, s.move,
                                    s.watch, s.unwatch)} - kinds
    check(not missing, f"none of the {operations} operations was {', '.join(sorted(missing))}")
