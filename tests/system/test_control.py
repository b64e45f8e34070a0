# SPDX-License-Identifier: GPL-2.0
"""A guest that is partly elsewhere: what its monitors refuse, limits, disks, state that is wrong."""
from kvmspan import transfer as tr
from kvmspan.cases import case, check, equal
from kvmspan.journey import EASY, Journey
from kvmspan.span import bring, must_fail
from kvmspan.stopat import StopAt
from kvmspan.torture import Torture, put

TOPOLOGY = {"topology": "transfer"}
NET = ["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n0,romfile="]
BLOCKS = 512
DISK = "/run/disk.img"


def human(controller, line):
    return controller.qmp("human-monitor-command", {"command-line": line})


QMP = (("stop", None), ("cont", None), ("inject-nmi", None), ("dump-guest-memory", {"paging": False, "protocol": "file:/run/x"}),
       ("memsave", {"val": 0, "size": 16, "filename": "/run/x"}), ("pmemsave", {"val": 0, "size": 16, "filename": "/run/x"}),
       ("migrate", {"uri": "exec:cat >/run/x"}), ("xen-save-devices-state", {"filename": "/run/x"}),
       ("xen-load-devices-state", {"filename": "/run/x"}), ("device_add", {"driver": "virtio-rng-pci"}),
       ("snapshot-load", {"job-id": "j0", "tag": "t", "vmstate": "d", "devices": []}))
HMP = ("loadvm t", "savevm t", "gdbserver unix:/run/gdb,server=on,wait=off", "info registers", "info lapic", "info mem", "info tlb",
       "x /4x 0", "gva2gpa 0", "i /b 0x71", "o /b 0x70 0")


def refuses(m, controller, words):
    for command, arguments in QMP:
        must_fail(lambda c=command, a=arguments: controller.qmp(c, a), words)
    for line in HMP:
        out = human(controller, line)
        check(words in out, f"'{line}' was not refused with '{words}': {out}")
    check(controller.qmp("query-status")["running"], "the machine was stopped by a command that was refused")


@case("vcpu/guards", timeout=400, **TOPOLOGY)
def guards(m):
    """What wants the whole machine is refused before it does anything, by the base while vCPUs are elsewhere, by a peer always."""
    tr.settle(m)
    j = Journey(m)
    j.go("L1a", [1])
    refuses(m, m["guest"].base, "vCPU 1 of 'span0' is with another hypervisor")
    refuses(m, m["guest"].peers["L1a"], "the guest belongs to its base")
    j.check("after commands that were refused")
    j.go("L0", [1])
    j.end()
    # With all vCPUs there they do what they always did.
    check("RIP=" in human(m["guest"].base, "info registers"), "no registers of a guest that is here")
    check("LVT" in human(m["guest"].base, "info lapic"), "no APIC of a guest that is here")


@case("vcpu/limit-each", timeout=600, tags=("long",), **TOPOLOGY)
def limit_each(m):
    """Of two vCPUs on an L1 the one that was lent for a time comes back; a limit of an earlier stay ends no later one."""
    tr.settle(m)
    j = Journey(m)
    j.go("L1a", [0])
    after = len(m.events("guest"))
    first = j.go("L1a", [1], limit_ms=300)
    m.pump(lambda: any(e["event"] == "SPAN_TRANSFER" and e["data"]["id"] != first["id"] and
                       e["data"]["status"] == "completed" for e in m.events("guest")[after:]), 200, "vCPU 1 to come back")
    equal(tr.owners(m), ["L1a", tr.BASE], "owners when the time of vCPU 1 was over")
    j.check("when vCPU 1 had come back")
    j.go("L1a", [1], limit_ms=400)
    j.go("L0", [1])
    j.go("L1a", [1])
    m.sleep(0.6)
    equal(tr.owners(m), ["L1a", "L1a"], "owners after the time of an earlier stay")
    j.check("after the time of an earlier stay")
    j.go("L0")
    j.end()


@case("vcpu/fence-again", timeout=600, tags=("long",), **TOPOLOGY)
def fence_again(m):
    """The kernel does not cut off a lost owner at once: the guest stands still until it does, then the policy is followed."""
    tr.settle(m, policy={"on-peer-loss": "reset"})
    tr.transfer(m, "L1a", [1])
    guest = m["guest"]
    boots, after = guest.endpoint.boots, len(m.events("guest"))
    spot = StopAt(m["L0"], guest.base.pid, "span_kernel_revoke", "return", -5)
    m["L1a"].run(f"kill -9 {guest.peers['L1a'].pid}")
    m.wait_event("guest", "STOP", after=after)
    check(spot.hit, "no fence")
    told = [e["event"] for e in m.events("guest")[after:]]
    check("SPAN_PEER_LOST" not in told, f"lost before it was cut off: {told}")
    e = m.wait_event("guest", "SPAN_PEER_LOST", after=after, timeout=200)
    equal((e["data"]["name"], e["data"]["reason"], e["data"]["vcpus"]), ("L1a", "controller", [1]), "who was lost")
    tr.follow(m)
    m.wait_reboot("guest", boots)
    equal(tr.owners(m), [tr.BASE] * 2, "owners after the reset")
    guest.peers.pop("L1a").disconnect()


def disk(options, more=""):
    return ["-blockdev", f"node-name=f0,{options}", "-device", f"virtio-blk-pci,id=disk0,drive=f0,share-rw=on{more}"]


def restart(m, extra):
    """The guest anew, with a disk; the L1s are attached to it again."""
    guest = m["guest"]
    m["L0"].run(f"kill -9 {guest.base.pid}; while kill -0 {guest.base.pid} 2>/dev/null; do sleep 0.01; done")
    guest.disconnect("restarted")
    m.start_vm("guest", extra=extra)
    tr.wait_tsc(m)
    tr.note_offset(m, "L1a")


@case("vcpu/stopped-there", timeout=600, tags=("long",), **TOPOLOGY)
def stopped_there(m):
    """A disk on L1a is full and the guest stops itself there: it can be taken back, and what it wrote is written on L0."""
    tr.settle(m, peers=())
    guest = m["guest"]
    m["L0"].run(f"truncate -s 4M {DISK}")
    restart(m, disk(f"driver=file,filename={DISK}"))
    bring(m, "L1a", "rw", rights=[])
    m["L1a"].run(f"mkdir -p /run/small && mount -t tmpfs -o size=64k small /run/small && truncate -s 4M /run/small/disk.img")
    tr.start_peer(m, "L1a", disk("driver=file,filename=/run/small/disk.img", ",werror=stop"))
    tr.wait_peer(m, "L1a")
    j = Journey(m)
    j.go("L1a")
    p = guest.spawn("dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null && echo written")
    peer = guest.peers["L1a"]
    m.pump(lambda: any(e["event"] == "STOP" for e in peer.events), 100, "the guest to stop itself on L1a")
    equal(peer.qmp("query-status")["status"], "io-error", "status there")
    after = len(m.events("guest"))
    equal(tr.wait(m, tr.start(m, "L0"), after)["status"], "completed", "status of the transfer")
    equal(tr.follow(m), tr.BASE, "owner of vCPU 0")
    rc, text = p.wait(100)
    equal((rc, text.strip()), (0, "written"), "what the guest's write came to")
    j.check("after an error of a disk elsewhere")
    # What stopped there can begin anew there.
    j.go("L1a")
    j.check("on L1a again")
    j.go("L0")
    j.end()
    guest.lost = "it has a disk"
    tr.stop_peer(m, "L1a")


@case("vcpu/disk-nbd", timeout=1200, tags=("long",), **TOPOLOGY)
def disk_nbd(m):
    """A disk of the base, which exports it: the guest writes, syncs and reads while its vCPUs and the seat go about."""
    tr.settle(m, peers=())
    guest = m["guest"]
    m.kill_vm("L1a")
    m.start_vm("L1a", extra=NET)
    m["L0"].run("ip addr add 10.0.0.1/24 dev tap0; ip link set tap0 up; ip link set lo up")
    m["L1a"].run("ip addr add 10.0.0.2/24 dev eth0 && ip link set eth0 up")
    m["L0"].run(f"rm -f {DISK}; truncate -s {BLOCKS * 4096} {DISK}")
    restart(m, disk(f"driver=file,filename={DISK}"))
    m.qmp("guest", "nbd-server-start", {"addr": {"type": "inet", "data": {"host": "10.0.0.1", "port": "10809"}}})
    m.qmp("guest", "block-export-add", {"type": "nbd", "id": "e0", "node-name": "f0", "name": "disk", "writable": True})
    bring(m, "L1a", "rw", rights=[])
    tr.start_peer(m, "L1a", disk("driver=nbd,server.type=inet,server.host=10.0.0.1,server.port=10809,export=disk"))
    tr.wait_peer(m, "L1a")
    j = Journey(m)
    program = put(guest, "disk-check")
    p = guest.spawn(f"exec {program} /dev/vda 11 {BLOCKS}")
    rounds = goes_on(m, p, 0, "on L0")
    for to, vcpus in (("L1a", None), ("L0", None), ("L1a", [1]), ("L1a", [0]), ("L0", [1]), ("L0", [0])):
        j.go(to, vcpus)
        rounds = goes_on(m, p, rounds, f"with {tr.owners(m)}")
        j.check(f"with {tr.owners(m)}")
    rounds = ask(m, p, "q")[0]
    equal(p.wait()[0], 0, "exit status of what writes to the disk")
    j.end()
    guest.run("echo 3 >/proc/sys/vm/drop_caches")
    guest.sh(f"{program} /dev/vda 11 {BLOCKS} {rounds}")
    m["L0"].sh(f"{put(m['L0'], 'disk-check')} {DISK} 11 {BLOCKS} {rounds}")
    m.log_line("transfers", f"{rounds} writes to the disk")
    guest.lost = "it has a disk"
    m.kill_vm("L1a")


def ask(m, p, what):
    """Rounds and errors so far of disk-check."""
    taken = len(p.out)
    p.input(what.encode() + b"\n")
    m.pump(lambda: b"\n" in p.out[taken:] or p.over, 200, "an answer of disk-check")
    check(b"\n" in p.out[taken:], f"disk-check ended: {p.text()[-300:]}")
    rounds, errors = (int(x) for x in p.out[taken:].split()[:2])
    equal(errors, 0, "errors of the disk")
    return rounds, errors


def goes_on(m, p, rounds, where):
    for _ in range(60):
        now = ask(m, p, "r")[0]
        if now > rounds + 5:
            return now
        m.sleep(0.05)
    check(False, f"nothing is written {where}")
    return rounds


@case("vcpu/transfer-stock-l1", timeout=600, tags=("long",), topology="transfer-stock")
def stock_l1(m):
    """An L1 whose KVM is the stock one: the whole guest goes there and back, some of its vCPUs cannot."""
    tr.settle(m)
    check(m["L1a"].run("test -e /dev/kvm-span", check=False)[0], "KVM in L1a is ours")
    j = Journey(m)
    tr.refused(m, "L1a", [1], ["does not pass interrupts on"])
    tr.refused(m, "L1a", [0], ["does not pass interrupts on"])
    for _ in range(2):
        j.go("L1a")
        j.check("on a stock L1")
        tr.refused(m, "L0", [1], ["does not pass interrupts on"])
        j.go("L0")
        j.check("back on L0")
    j.end()


@case("vcpu/wrong-state", timeout=900, **TOPOLOGY)
def wrong_state(m):
    """The base loads its own state with something wrong in it, some hundred times: it refuses or takes it, and the guest goes on."""
    tr.settle(m)
    t = Torture(m, EASY)
    for number, options in enumerate(({"rounds": 150}, {"rounds": 150, "only": "cpu"}, {"rounds": 60, "only": "apic"})):
        m.qmp("guest", "object-add", {"qom-type": "x-span-fuzz", "id": f"f{number}", "seed": number + 1, **options})
        for _ in range(400):
            status = m.qmp("guest", "qom-get", {"path": f"/objects/f{number}", "property": "status"})
            if status != "under way":
                break
            m.sleep(0.05)
        m.log_line("wrong-state", f"{options}: {status}")
        check(status.startswith("done"), f"wrong state {options}: {status}")
        m.qmp("guest", "object-del", {"id": f"f{number}"})
        t.check(f"after wrong state {options}")
    tr.transfer(m, "L1a")
    t.check("on L1a after wrong state on L0")
    tr.transfer(m, "L0")
    equal(t.stop()["sum"], 0, "errors")


def orphan(m, what):
    """The state of both vCPUs is with the base; who had them is gone, who should have got them does nothing. Events from here on."""
    tr.settle(m, peers=("L1a", "L1b"), policy={"on-peer-loss": "reset"})
    t = Torture(m, EASY)
    tr.transfer(m, "L1a")
    guest, after = m["guest"], len(m.events("guest"))
    spot = StopAt(m["L1b"], guest.peers["L1b"].pid, "span_node_load_start", "stop")
    injected = StopAt(m["L0"], guest.base.pid, *what) if what else None
    number = tr.start(m, "L1b", timeout_ms=1000)
    m.pump(lambda: spot.hit, 100, "the new owner to begin to load")
    m["L1a"].run(f"kill -9 {guest.peers['L1a'].pid}")
    data = tr.wait(m, number, after)
    equal(data["status"], "failed", "status")
    check(not injected or injected.hit, f"the base did not get to {what}")
    return t, after


def orphan_ends(m, boots):
    """The vCPUs were lost, and the policy says that the guest begins anew."""
    guest = m["guest"]
    tr.follow(m)
    m.wait_reboot("guest", boots)
    equal(tr.owners(m), [tr.BASE] * 2, "owners after the reset")
    guest.lost = "L1s that had it are lost"


def drop_peers(m):
    for on in ("L1a", "L1b"):
        m["guest"].peers.pop(on).disconnect()
        m.kill_vm(on)


@case("vcpu/orphan-run", timeout=600, tags=("long",), **TOPOLOGY)
def orphan_run(m):
    """Both the old and the new owner are lost before the new one runs: the base goes on with the exact state."""
    t, after = orphan(m, None)
    tr.follow(m)
    equal(tr.owners(m), [tr.BASE] * 2, "owners")
    t.check("run by the base with the state that it had")
    lost = [e["data"] for e in m.events("guest")[after:] if e["event"] == "SPAN_PEER_LOST" and e["data"]["name"] == "L1a"]
    equal([e["vcpus"] for e in lost], [[]], "what was lost with L1a")
    equal(t.stop()["sum"], 0, "errors")
    drop_peers(m)


@case("vcpu/orphan-not-fenced", timeout=600, tags=("long",), **TOPOLOGY)
def orphan_not_fenced(m):
    """As before, but the kernel does not cut off the old owner at once: nobody may run that state, it is lost."""
    _, after = orphan(m, ("span_kernel_revoke", "return", -5))
    boots = m["guest"].endpoint.boots
    e = m.wait_event("guest", "SPAN_PEER_LOST", after=after, timeout=200)
    equal((e["data"]["name"], e["data"]["vcpus"]), ("L1a", [0, 1]), "who was lost")
    orphan_ends(m, boots)
    drop_peers(m)


@case("vcpu/orphan-not-loaded", timeout=600, tags=("long",), **TOPOLOGY)
def orphan_not_loaded(m):
    """As before, and the base's own KVM does not take the state: it is lost, and the base lives."""
    _, after = orphan(m, ("kvm_vcpu_ioctl", "return", -5))
    boots = m["guest"].endpoint.boots
    m.pump(lambda: any(e["event"] == "SPAN_PEER_LOST" and e["data"]["vcpus"] == [0, 1] for e in m.events("guest")[after:]),
           200, "the loss of both vCPUs")
    orphan_ends(m, boots)
    drop_peers(m)
