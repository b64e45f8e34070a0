# SPDX-License-Identifier: GPL-2.0
"""The byte stream between L0 and a real L1: device, driver and kernel of both ends. A
program on L0 (tests/kvm/span_port_channel.c --base) plays the controller of a guest and
sends back what it gets."""
import json

from kvmspan import ktap
from kvmspan.cases import case, check, equal
from kvmspan.span import Memory, RUN, wait_driver

ONE = {"topology": "channel"}
TOOL = "span_port_channel"
FUNCTION = "basename $(readlink -f /sys/class/span_port/span0/device)"
DRIVER = "/sys/bus/pci/drivers/span_port"


class Talker:
    """A program under way whose lines are waited for one after the other."""

    def __init__(self, level, command):
        self.level, self._at = level, 0
        self.p = level.spawn(f"exec {command}")

    def line(self, timeout=60):
        def there():
            return self.p.out.find(b"\n", self._at) >= 0 or self.p.over
        self.level.machine.pump(there, timeout, f"{self.level.name}: a line of {self.p.command}")
        end = self.p.out.find(b"\n", self._at)
        check(end >= 0, f"{self.level.name}: {self.p.command} ended: {self.p.text()}")
        line = self.p.out[self._at:end].decode()
        self._at = end + 1
        return line

    def until(self, word):
        """The first line that begins with word; those before it are passed over."""
        while True:
            line = self.line()
            if line.startswith(word):
                return line

    def say(self, text):
        self.p.input(text.encode() + b"\n")

    def ask(self, text, word):
        self.say(text)
        return self.until(word)

    def end(self):
        if not self.p.over:
            self.p.kill()
            self.p.wait(30)


class Base(Talker):
    def __init__(self, m):
        super().__init__(m["L0"], f"{TOOL} --base {RUN}/L1a.port")
        equal(self.line(), "ATTACHED", "the offer")
        self._l1 = m["L1a"]
        wait_driver(m, "L1a", "attached")

    def leave(self):
        self.end()
        wait_driver(self.level.machine, "L1a", "detached")


def settle(m):
    wait_driver(m, "L1a", "detached")


@case("mem/port-channel", tags=("fast", "debug"), timeout=300, **ONE)
def port_channel(m):
    """What span_port.h promises of the descriptor, with a megabyte through it and back."""
    settle(m)
    may = lambda: json.loads(m["L1a"].sh("spanctl --json info"))["may_own_vcpus"]     # noqa: E731
    equal(may(), False, "what spanctl says of an empty port")
    base = Base(m)
    equal(may(), True, "what spanctl says of the attachment")
    rc, out = m["L1a"].run(f"{TOOL} --echo", timeout=200, check=False)
    base.leave()
    return ktap.Output(out, rc)


@case("mem/port-channel-ends", tags=("fast", "debug"), timeout=300, **ONE)
def port_channel_ends(m):
    """A reader that waits when the guest is detached, revoked, or its controller ends."""
    settle(m)
    for how in ("detach", "revoke", "quit"):
        base = Base(m)
        holder = Talker(m["L1a"], f"{TOOL} --hold")
        equal(holder.line(), "HOLDS", "the stream")
        base.say(how)
        heard = set()
        while how == "detach" and not {"DETACHED 5", "STREAM 1 end"} <= heard:
            heard.add(base.line())      # in any order, and one more stream that never had a partner
        if how == "revoke":
            base.until("REVOKED")
        said = [holder.line() for _ in range(3)]
        gone = ["READ No such device", "WRITE No such device", "POLL hup err"]
        # told by the kernel, before or after the L1's QEMU has emptied the window
        told = [["READ end", "WRITE Broken pipe", "POLL hup"], ["READ end", "WRITE Broken pipe", gone[2]],
                ["READ end", *gone[1:]], gone]
        check(said in ([gone] if how == "detach" else told), f"{how}: {said}")
        holder.p.wait(30)
        base.leave()


@case("mem/port-channel-unbind", tags=("fast", "debug"), timeout=300, **ONE)
def port_channel_unbind(m):
    """The driver leaves its device, and the module goes and comes: both ends are told, and start anew."""
    settle(m)
    base, l1 = Base(m), m["L1a"]
    holder = Talker(l1, f"{TOOL} --hold")
    equal(holder.line(), "HOLDS", "the stream")
    function = l1.sh(FUNCTION)
    l1.run(f"echo {function} >{DRIVER}/unbind", timeout=60)
    equal([holder.line() for _ in range(3)], ["READ No such device", "WRITE No such device", "POLL hup err"], "unbind")
    equal(base.until("STREAM"), "STREAM 1 end", "L0's end")
    holder.p.wait(30)
    l1.run(f"echo {function} >{DRIVER}/bind")
    rc, out = l1.run(f"{TOOL} --echo", timeout=200, check=False)
    equal(rc, 0, out)
    for _ in range(2):
        l1.run("rmmod span_port && insmod /lib/modules/span_port.ko")
        l1.run(f"{TOOL} --cost", timeout=120)
    # the function is reset: streams stay, and no wake-up is lost
    holder = Talker(l1, f"{TOOL} --hold")
    equal(holder.line(), "HOLDS", "the stream")
    l1.run("echo 1 >/sys/class/span_port/span0/device/reset", timeout=60)
    base.leave()
    check(holder.line() in ("READ end", "READ No such device"), "the end after a reset")


@case("mem/port-channel-l1-killed", tags=("fast", "debug"), timeout=300, fresh=True, **ONE)
def port_channel_l1_killed(m):
    """An L1 goes without a word, first its kernel, then its QEMU: L0's end is told."""
    settle(m)
    base = Base(m)
    holder = Talker(m["L1a"], f"{TOOL} --hold")
    equal(holder.line(), "HOLDS", "the stream")
    m.kill_vm("L1a")
    equal(base.until("STREAM"), "STREAM 1 end", "L0's end")
    check("CHANNEL" in base.until("CHANNEL"), "a stream to an L1 that is gone")
    base.end()
    m.start_vm("L1a")
    base = Base(m)
    rc, out = m["L1a"].run(f"{TOOL} --echo", timeout=200, check=False)
    base.leave()
    return ktap.Output(out, rc)


@case("mem/port-channel-garbage", tags=("fast", "debug"), timeout=400, **ONE)
def port_channel_garbage(m):
    """An L1 writes at random into the shared pages and rings; L0 lives, and so does the next stream."""
    settle(m)
    base, l1 = Base(m), m["L1a"]
    for seed in (20000, 20001, 20003):
        l1.run(f"{TOOL} --garbage {seed}", timeout=120)
    check("COUNT" in base.ask("count", "COUNT"), "L0's end")
    rc, out = l1.run(f"{TOOL} --echo", timeout=200, check=False)
    base.leave()
    equal(rc, 0, f"after the garbage: {out}")
    base = Base(m)
    rc, out = l1.run(f"{TOOL} --echo", timeout=200, check=False)
    base.leave()
    return ktap.Output(out, rc)


@case("mem/port-channel-hole", tags=("fast", "debug"), timeout=200, **ONE)
def port_channel_hole(m):
    """Where no shared pages are, reads give ones and writes go nowhere."""
    settle(m)
    room = Memory(m["L1a"], "--size 524288 /sys/class/span_port/span0/device/resource5")
    for at in (0x20000, 0x40000, 0x48000, 0x6fff8, 0x70000, 0x7fff8):
        equal(room.write(at, bytes(8)), "ok", "writing to a hole")
        equal(room.read(at, 8), b"\xff" * 8, f"BAR 5 at {at:#x}")
    base = Base(m)
    equal(room.read(0x40000, 8), bytes(8), "the posts of a new attachment")
    equal(room.read(0x3fff8, 8), b"\xff" * 8, "before the shared pages")
    equal(room.read(0x70000, 8), b"\xff" * 8, "behind the shared pages")
    base.leave()
    equal(room.read(0x40000, 8), b"\xff" * 8, "after the attachment")
    room.close()


@case("mem/port-channel-cost", tags=("fast",), timeout=200, **ONE)
def port_channel_cost(m):
    """Figures, in instructions; they are far from what would hurt, or something is wrong."""
    settle(m)
    base = Base(m)
    out = m["L1a"].sh(f"{TOOL} --cost", timeout=120)
    base.leave()
    cost = {k: int(v) for k, v in (line.split() for line in out.splitlines())}
    print(f"# round trip {cost['round_trip']} instructions, {cost['bytes_per_million']} bytes per million")
    check(cost["round_trip"] < 1000000, f"a round trip takes {cost['round_trip']} instructions")
    check(cost["bytes_per_million"] > 20000, f"{cost['bytes_per_million']} bytes per million instructions")
