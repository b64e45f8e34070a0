# SPDX-License-Identifier: GPL-2.0
"""One guest, its vCPUs on several hypervisors at the same time."""
import random

from kvmspan import transfer as tr
from kvmspan.cases import case, check, equal
from kvmspan.journey import EASY, Journey
from kvmspan.span import bring, must_fail
from kvmspan.torture import KINDS, Torture, put

TOPOLOGY = {"topology": "transfer"}
# Debian's kernel lets a program use I/O ports, and tells what it does.
DEBIAN = {"topology": "transfer-cloud"}
DEBIAN_GUEST = {"kernel": "cloud", "memory": 192}
ONLINE = "/sys/devices/system/cpu/cpu1/online"


@case("vcpu/split", timeout=900, tags=("fast", "debug"), **TOPOLOGY)
def split(m):
    """vCPU 1 goes to L1a, comes back, goes again, then the seat follows, and vCPU 1 comes home alone."""
    tr.settle(m)
    j = Journey(m)
    for to, vcpus in (("L1a", [1]), ("L0", [1]), ("L1a", [1]), ("L1a", [0]), ("L0", [1]), ("L0", [0])):
        j.go(to, vcpus)
        j.check(f"with {tr.owners(m)}")
    j.end()


@case("vcpu/split-three", timeout=1500, tags=("long",), **TOPOLOGY)
def three(m):
    """vCPU 0 on L1a, 1 on L1b, 2 on L0, moved one by one while they work; interrupts go between all of them."""
    tr.settle(m, peers=("L1a", "L1b"), cpus=3)
    j = Journey(m)
    j.go("L1b", [1])
    j.check("vCPU 1 on L1b")
    j.go("L1a", [0])
    equal(tr.owners(m), ["L1a", "L1b", tr.BASE], "owners")
    j.check("on three hypervisors")
    before = counters(m)
    j.check("on three hypervisors")
    after = counters(m)
    for on in ("L1a", "L1b"):
        for way in ("irqs-to-l0", "irqs-to-l1"):
            check(after[on][way] > before[on][way], f"no interrupts {way} of {on}: {before} {after}")
    j.go("L1a", [1])
    j.check("two on L1a")
    j.go("L0")
    j.check("all on L0 again")
    j.end()


def counters(m):
    return {x["name"]: x for x in tr.state(m)["members"]}


@case("vcpu/split-devices", timeout=900, tags=("long",), **DEBIAN)
def devices(m):
    """A vCPU far from the seat uses its devices: ports, memory-mapped registers, interrupts of them."""
    tr.settle(m, **DEBIAN_GUEST)
    guest = m["guest"]
    port = put(guest, "port")
    here = guest.sh(f"{port} 1 w 0x0cf8 && {port} 1 l 0xcf8 && {port} 0 b 0x71")
    tr.transfer(m, "L1a", [1])
    there = guest.sh(f"{port} 1 w 0x0cf8 && {port} 1 l 0xcf8 && {port} 0 b 0x71")
    equal(there.split()[:2], here.split()[:2], "registers read by vCPU 1, at home and away")
    # PCI configuration of the host bridge, by vCPU 1.
    guest.run(f"{port} 1 l 0xcf8 0x80000000")
    equal(guest.sh(f"{port} 1 l 0xcfc"), "0x29c08086", "the host bridge's id, read by vCPU 1 on L1a")
    # The RAM of the real-time clock keeps what one vCPU writes for the other.
    guest.run(f"{port} 1 b 0x70 0x50; {port} 1 b 0x71 0x5a")
    guest.run(f"{port} 0 b 0x70 0x50")
    equal(guest.sh(f"{port} 0 b 0x71"), "0x5a", "what vCPU 1 wrote, read by vCPU 0")
    # The serial console, pinned to the far vCPU, with its level- or edge-triggered interrupt.
    guest.run("for i in 4 10 11; do [ ! -d /proc/irq/$i ] || echo 2 >/proc/irq/$i/smp_affinity; done; true")
    n = random.Random(1).randrange(10 ** 9)
    guest.run(f"for i in $(seq 20); do echo 'from afar {n}' >/dev/ttyS0; done")
    m.pump(lambda: console(m).count(f"from afar {n}") == 20, 60, "the console's lines")
    # A device's MSI-X at the far vCPU: the agent's own port.
    guest.run("for i in $(grep virtio /proc/interrupts | cut -d: -f1); do echo 2 >/proc/irq/$i/smp_affinity; done")
    first = irqs(guest, 1)
    for i in range(10):
        equal(guest.sh(f"echo {i}"), str(i), "the agent's answer with its interrupts at vCPU 1")
    check(irqs(guest, 1) > first, "no interrupt of virtio at vCPU 1")
    tr.transfer(m, "L0")


@case("vcpu/split-low-memory", timeout=600, tags=("long",), **TOPOLOGY)
def low_memory(m):
    """Where the firmware's ROM gave way to memory, all vCPUs see that memory, as the chipset was told, wherever they are."""
    tr.settle(m)
    guest = m["guest"]
    oncpu = put(guest, "oncpu")

    def seen(cpu):
        # 0xc0000 to 0xfffff, in pieces of 32 KiB.
        return guest.sh("for at in 192 200 208 216 224 232 240 248; do "
                        f"{oncpu} {cpu} dd if=/dev/mem bs=4096 skip=$at count=8 2>/dev/null | md5sum; done").split()[::2]
    before = seen(0)
    check(len(set(before)) > 1, f"there is nothing in it: {before}")
    for to, vcpus in (("L1a", [1]), ("L0", [1]), ("L1a", [0]), ("L1a", [1]), ("L0", [0]), ("L0", [1])):
        tr.transfer(m, to, vcpus)
        for cpu in (0, 1):
            equal(seen(cpu), before, f"checksums, read by vCPU {cpu}, owners {tr.owners(m)}")


def console(m):
    with open(m.path("guest.console"), encoding="utf-8", errors="replace") as f:
        return f.read()


def irqs(guest, cpu):
    """Interrupts of virtio devices that a CPU has taken."""
    return sum(int(line.split()[1 + cpu]) for line in guest.sh("grep virtio /proc/interrupts").splitlines())


@case("vcpu/split-offline", timeout=900, tags=("long",), **TOPOLOGY)
def offline(m):
    """The guest takes a CPU offline and online again while it is on another hypervisor, and after it came back."""
    tr.settle(m)
    j = Journey(m)
    guest = m["guest"]
    for to in ("L1a", "L0"):
        j.go(to, [1])
        guest.run(f"echo 0 >{ONLINE}", timeout=200)
        equal(guest.sh("nproc"), "1", f"CPUs, vCPU 1 on {to}")
        j.torture.check(f"with one CPU, vCPU 1 on {to}", alive=[k for k in KINDS if k != "debugreg"], cpus=[0])
        guest.run(f"echo 1 >{ONLINE}", timeout=200)
        equal(guest.sh("nproc"), "2", f"CPUs again, vCPU 1 on {to}")
        j.check(f"with two CPUs again, vCPU 1 on {to}")
    # Off, then away, then on: INIT and SIPI find it at its new place.
    guest.run(f"echo 0 >{ONLINE}", timeout=200)
    j.go("L1a", [1])
    guest.run(f"echo 1 >{ONLINE}", timeout=200)
    equal(guest.sh("nproc"), "2", "CPUs, vCPU 1 started on L1a")
    j.check("vCPU 1 was started on L1a")
    j.go("L0", [1])
    text = guest.sh("dmesg | grep -i -E 'tsc|clocksource' | tail -5")
    check("unstable" not in text and "warp" not in text, text)
    j.end()


# Says nothing meanwhile, since the seat moves.
ONOFF = ("rm -f /tmp/enough /tmp/onoff; while [ ! -e /tmp/enough ]; do "
         f"echo 0 >{ONLINE} && echo 1 >{ONLINE} || exit 1; echo . >>/tmp/onoff; done")


@case("vcpu/split-hotplug", timeout=1500, tags=("long",), **TOPOLOGY)
def hotplug(m):
    """The guest takes CPU 1 offline and online all the time, while both vCPUs go about: INIT and SIPI meet every step of a move."""
    tr.settle(m, peers=("L1a", "L1b"))
    j = Journey(m)
    guest = m["guest"]
    p = guest.spawn(ONOFF)
    tr.quiet(m)
    rng = random.Random(3)
    for _ in range(24):
        to = rng.choice(("L0", "L1a", "L1b"))
        vcpus = rng.choice([v for v in ([1], [0], [0, 1]) if any(j.owners[n] != tr.where(to) for n in v)] or [None])
        if vcpus:
            j.hop(to, vcpus)
        m.sleep(round(rng.random() * 0.1, 4))
    j.look("while CPU 1 comes and goes")
    guest.run("touch /tmp/enough")
    m.pump(lambda: p.over, 200, "the end of it")
    rc, out = p.wait()
    equal(rc, 0, f"exit status ({out[-300:]})")
    times = int(guest.sh("wc -l </tmp/onoff"))
    m.log_line("hotplug", f"{times} times")
    check(times >= 6, f"it was offline {times} times only")
    equal(guest.sh("nproc"), "2", "CPUs in the end")
    j.check("when both CPUs are there to stay")
    if j.owners != [tr.BASE] * 2:
        j.go("L0")
    j.end()


@case("vcpu/split-boot", timeout=900, tags=("long",), **TOPOLOGY)
def boot(m):
    """A guest that starts with its vCPU 1, which waits for a SIPI, in an L1: firmware and Linux find it there."""
    for delay in (0, 0.01, 0.05):
        tr.settle(m)
        guest = m["guest"]
        boots = guest.endpoint.boots
        m.qmp("guest", "system_reset")
        m.sleep(delay)
        number = tr.start(m, "L1a", [1])
        equal(tr.wait(m, number)["status"], "completed", f"status of a transfer {delay} s after the reset")
        check(guest.endpoint.boots == boots, f"the guest was up {delay} s after the reset")
        m.wait_reboot("guest", boots)
        equal(tr.owners(m), [tr.BASE, "L1a"], "owners")
        equal(guest.sh("nproc"), "2", f"CPUs, vCPU 1 in an L1 {delay} s after the reset")
        t = Torture(m, EASY)
        t.check("started with vCPU 1 in an L1")
        equal(t.stop()["sum"], 0, "errors")
        tr.transfer(m, "L0", [1])


@case("vcpu/split-xapic", timeout=900, tags=("long",), **TOPOLOGY)
def xapic(m):
    """Without x2APIC: registers in memory, and two accesses for one interrupt."""
    # Without the hypercall for IPIs, too.
    tr.settle(m, peers=("L1a", "L1b"), flags="x2apic=off,kvm-pv-ipi=off")
    check("x2apic" not in m["guest"].sh("cat /proc/cpuinfo"), "the guest has an x2APIC")
    j = Journey(m)
    for to, vcpus in (("L1a", [1]), ("L1b", [0]), ("L0", [0]), ("L0", [1])):
        j.go(to, vcpus)
        j.check(f"with {tr.owners(m)}")
    j.end()


@case("vcpu/split-ipi", timeout=2000, tags=("long",), **TOPOLOGY)
def ipi(m):
    """Fixed and lowest priority, physical and logical (x2APIC, flat, clusters), broadcast, shorthands: from and to any vCPU anywhere."""
    for flags, modes in (("kvm-pv-ipi=off", ("x2apic",)), ("x2apic=off,kvm-pv-ipi=off", ("flat", "cluster"))):
        tr.settle(m, peers=("L1a", "L1b"), flags=flags)
        guest = m["guest"]
        program = put(guest, "ipi")
        guest.run("echo on >/sys/module/msr/parameters/allow_writes")
        for step in (None, ("L1a", [1]), ("L1b", [0]), ("L0", [1]), ("L1b", [1]), ("L0", [0, 1])):
            if step:
                tr.transfer(m, *step)
            for mode, cpu in ((mode, cpu) for mode in modes for cpu in (0, 1)):
                rc, out = guest.run(f"{program} {cpu} 2 {mode}", timeout=300, check=False)
                equal(rc, 0, f"{mode}, sent by vCPU {cpu}, owners {tr.owners(m)}: {out}")
                m.log_line("ipi", f"{mode} from {cpu}, {tr.owners(m)}\n{out}")


TRACED = "/sys/kernel/tracing"


def userspace_exits(level, command):
    """How often vCPUs of this level's VMs left KVM while the command (a function) ran."""
    level.run(f"mountpoint -q {TRACED} || mount -t tracefs tracefs {TRACED}; cd {TRACED} && echo >trace && "
              "echo 1 >events/kvm/kvm_userspace_exit/enable")
    command()
    level.run(f"echo 0 >{TRACED}/events/kvm/kvm_userspace_exit/enable")
    return int(level.sh(f"grep -c kvm_userspace_exit: {TRACED}/trace || true"))


@case("vcpu/split-in-kernel", timeout=600, tags=("long",), **TOPOLOGY)
def in_kernel(m):
    """Interrupts between hypervisors go through kernels only: no QEMU runs for one, on L0 or in the L1."""
    times = 400
    tr.settle(m, flags="kvm-pv-ipi=off")
    guest = m["guest"]
    program, oncpu = put(guest, "ipi"), put(guest, "oncpu")
    guest.run("echo on >/sys/module/msr/parameters/allow_writes")
    tr.transfer(m, "L1a", [1])
    for cpu, place in ((0, "L0"), (1, "L1a")):
        # What does need QEMU is counted.
        reads = userspace_exits(m[place], lambda c=cpu: guest.run(
            f"for i in 1 2 3; do {oncpu} {c} cat /sys/bus/pci/devices/0000:00:00.0/config >/dev/null; done"))
        check(reads >= 3, f"{reads} returns to user space on {place} for reads of a device by vCPU {cpu}")
    for cpu in (0, 1):
        count = {}

        def send(c=cpu):
            guest.run(f"{program} {c} 2 x2apic {times}", timeout=300)

        def within(c=count):
            c["L1a"] = userspace_exits(m["L1a"], send)
        before = counters(m)["L1a"]
        count["L0"] = userspace_exits(m["L0"], within)
        after = counters(m)["L1a"]
        way = ("irqs-to-l1", "irqs-to-l0")[cpu]
        check(after[way] - before[way] >= times, f"{after[way] - before[way]} interrupts from vCPU {cpu}")
        m.log_line("ipi", f"{times} interrupts from vCPU {cpu}: returns to user space {count}")
        # The command's way to the agent and back takes some, however many interrupts there are.
        check(max(count.values()) < times / 4, f"{times} interrupts from vCPU {cpu}: returns to user space {count}")
    tr.transfer(m, "L0")


@case("vcpu/split-pv", timeout=900, tags=("long",), **TOPOLOGY)
def paravirtual(m):
    """What KVM does for a guest by memory of one host: its vCPUs are not split, and the reason names what to leave out."""
    for feature in ("kvm-pv-tlb-flush", "kvm-pv-sched-yield"):
        tr.settle(m, flags=f"{feature}=on")
        tr.refused(m, "L1a", [1], [f"{feature}=off"])
        # All together they can go.
        tr.transfer(m, "L1a")
        tr.refused(m, "L0", [1], [f"{feature}=off"])
        tr.transfer(m, "L0")
    for feature in ("kvm-steal-time", "kvm-pv-eoi", "kvm-asyncpf"):
        tr.new_guest(m, **{**tr.PLAIN, "flags": f"{feature}=on"})
        error = must_fail(lambda: bring(m, "L1a", "rw", rights=[]))
        check(f"{feature}=off" in str(error), f"the error does not name what to leave out: {error}")


@case("vcpu/split-tsc", timeout=900, tags=("long",), **DEBIAN)
def tsc_check(m):
    """Without TSC_ADJUST Linux compares the clocks of two CPUs when one comes online: they agree over hypervisors."""
    tr.settle(m, flags="tsc-adjust=off", **DEBIAN_GUEST)
    guest = m["guest"]
    guest.run("echo 'file arch/x86/kernel/tsc_sync.c +p' >/sys/kernel/debug/dynamic_debug/control")
    for number, to in enumerate(("L0", "L1a", "L0"), 1):
        if tr.owners(m)[1] != tr.where(to):
            tr.transfer(m, to, [1])
        guest.run(f"echo 0 >{ONLINE} && echo 1 >{ONLINE}", timeout=300)
        equal(int(guest.sh("dmesg | grep -c 'TSC synchronization .*: passed'")), number, f"checks passed, vCPU 1 on {to}")
        text = guest.sh("dmesg | grep -i -E 'unstable|warp' || true")
        equal(text, "", "what the guest says of its TSC")
        tr.wait_tsc(m)


@case("vcpu/split-nmi", timeout=600, tags=("long",), expect=(r"^guest: ",), **TOPOLOGY)
def nmi(m):
    """NMIs go to vCPUs elsewhere: the guest asks all its CPUs for a backtrace, from either."""
    tr.settle(m)
    guest = m["guest"]
    oncpu = put(guest, "oncpu")
    for owner in ("L0", "L1a"):
        if owner != "L0":
            tr.transfer(m, owner, [1])
        for cpu in (0, 1):
            before = [int(n) for n in guest.sh("grep NMI: /proc/interrupts").split()[1:3]]
            # The one that asks prints its own trace without an NMI.
            guest.run(f"{oncpu} {cpu} sh -c 'echo l >/proc/sysrq-trigger'", timeout=200)
            after = [int(n) for n in guest.sh("grep NMI: /proc/interrupts").split()[1:3]]
            check(after[1 - cpu] > before[1 - cpu], f"no NMI for CPU {1 - cpu} from CPU {cpu}, vCPU 1 on {owner}: {before} {after}")
    t = Torture(m, EASY)
    t.check("after NMIs")
    equal(t.stop()["sum"], 0, "errors")
    tr.transfer(m, "L0")


RESETS = ("/tmp/oncpu {cpu} sh -c 'echo b >/proc/sysrq-trigger'", "/tmp/port {cpu} b 0xcf9 6")


@case("vcpu/split-reset", timeout=1500, tags=("long",), expect=(r"sysrq: ",), **DEBIAN)
def reset(m):
    """A reset by any vCPU, at the seat or not: the whole guest begins anew on L0 and can be split again."""
    for cpu, how in ((0, RESETS[1]), (1, RESETS[1]), (1, RESETS[0])):
        tr.settle(m, **DEBIAN_GUEST)
        guest = m["guest"]
        put(guest, "port")
        put(guest, "oncpu")
        tr.transfer(m, "L1a", [1])
        boots = guest.endpoint.boots
        guest.spawn(how.format(cpu=cpu))
        # The agent's way follows the seat, which is on L0 throughout.
        m.wait_reboot("guest", boots)
        equal(tr.owners(m), [tr.BASE] * 2, f"owners after a reset by vCPU {cpu}")
        equal(guest.sh("nproc"), "2", "CPUs after the reset")
        tr.wait_tsc(m)
    tr.transfer(m, "L1a", [1])
    t = Torture(m, EASY)
    t.check("split again after a reset")
    t.stop()
    tr.transfer(m, "L0")


@case("vcpu/split-shutdown", timeout=900, tags=("long",), **DEBIAN)
def shutdown(m):
    """A shutdown by the vCPU on an L1, with the seat on L0 or there, too: the base's QEMU says so and ends."""
    for vcpus in ([1], [0, 1]):
        tr.settle(m, **DEBIAN_GUEST)
        guest = m["guest"]
        put(guest, "port")
        tr.transfer(m, "L1a", vcpus)
        after = len(m.events("guest"))
        # ACPI's way: sleep type 0, sleep enable.
        guest.spawn("/tmp/port 1 w 0x604 0x2000")
        m.wait_event("guest", "SHUTDOWN", after=after)
        m.pump(lambda g=guest: g.base.ended, 60, "the end of the base's QEMU")
        check(not m["L1a"].lost and not m["L0"].lost, "L1a is not there any more")
        m["L1a"].run("true")


@case("vcpu/split-hostile-pages", timeout=900, tags=("long",), **TOPOLOGY)
def hostile_pages(m):
    """An L1 without vCPUs writes random bytes into the pages it shares with L0: the guest and the others notice nothing."""
    tr.settle(m, peers=("L1a", "L1b"))
    j = Journey(m)
    j.go("L1a", [1])
    scribble = put(m["L1b"], "scribble")
    for seed in range(1, 4):
        out = m["L1b"].sh(f"{scribble} {seed} 3000", timeout=200)
        m.log_line("scribble", out)
        j.check(f"while L1b writes nonsense (seed {seed})")
    j.go("L0")
    # Attached anew it has clean pages.
    tr.stop_peer(m, "L1b")
    tr.take(m, "L1b")
    tr.settle(m, peers=("L1a", "L1b"))
    j.go("L1b")
    j.check("on L1b, attached anew")
    j.go("L0")
    j.end()


@case("vcpu/split-hostile-owner", timeout=900, tags=("long",), expect=(r"^guest: ", r"^L1b: "), **TOPOLOGY)
def hostile_owner(m):
    """One that has a vCPU and writes nonsense harms itself and the guest, nobody else; L0 can throw it out."""
    tr.settle(m, peers=("L1a", "L1b"))
    tr.transfer(m, "L1b", [1])
    scribble = put(m["L1b"], "scribble")
    for seed in range(5, 8):
        p = m["L1b"].spawn(f"{scribble} {seed} 3000")
        m.pump(lambda q=p: q.over, 200, "scribble on L1b")
        if not m["L1b"].lost:
            p.wait()
        m["L0"].run("true")
        m["L1a"].run("true")
    attached = {x["name"] for x in tr.state(m)["members"]}
    if "L1b" in attached:
        m.qmp("guest", "span-detach", {"guest": "span0", "name": "L1b", "timeout-ms": 500})
    check("L1b" not in {x["name"] for x in tr.state(m)["members"]}, "L1b is still attached")
    m["guest"].lost = "an L1 that had a vCPU of it has gone mad"
    if m["L1b"].lost is None:
        m["L1b"].lost = "it has gone mad"
