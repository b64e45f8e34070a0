# SPDX-License-Identifier: GPL-2.0
"""The guest's controllers in L1s, and its vCPUs on the way from one to another by span-transfer.

Its QEMU on L0, the base, stays and keeps the policy and the memory. In an L1 runs a QEMU of
the same machine, a peer, with the window as its RAM and nothing running at first.

The host's way to the agent in the guest is one byte stream, which goes to the QEMU that has
the seat (vCPU 0 and the devices). Every controller keeps its connection, so
that the guest sees nothing when the seat moves. What is under way in a socket of the old one
would come late: so nothing is, when the seat moves.
"""
import contextlib

from . import wire
from .bochs import MachineError
from .controller import Controller

GUEST = "span0"
BASE = "base"
ENDS = ("completed", "failed", "cancelled")


class TransferError(MachineError):
    """A transfer did not come to a good end; .event is what was told."""

    def __init__(self, text, event):
        super().__init__(text)
        self.event = event


def stem(name, on):
    return f"{name}@{on}"


def memory_of_peer(spec):
    return ["-object", f"memory-backend-file,id=mem0,mem-path=/dev/span0,size={spec.memory}M,share=on,"
            "align=2M,merge=off,dump=off"]


def start_qemu(m, on, extra=("-S",), cpu=None):
    """A QEMU of the guest's machine in an L1, stopped. The L1 must be attached."""
    vm = m["guest"]
    s = stem(vm.name, on)
    peer = Controller(m, s, s, m[on])
    peer.pid = m.launch(m[on], s, m._qemu_command(vm.spec, on, cpu) + list(extra))
    # Before it gets any state: its device is in reset and tells no guest about it.
    vm.connect_controller(peer)
    vm.peers[on] = peer
    return peer


def start_peer(m, on, extra=(), cpu=None):
    """A controller of the guest in an attached L1: same machine, nothing running, ready to own vCPUs."""
    return start_qemu(m, on, ["-incoming", "defer", "-object", "span-peer,id=peer0,memdev=mem0,vcpus=on", *extra], cpu)


def stop_peer(m, on):
    """End the QEMU in the L1. A guest whose seat it has is lost with it."""
    vm = m["guest"]
    peer = vm.peers.pop(on, None)
    if not peer:
        return
    if not m[on].lost:
        m[on].run(f"kill -9 {peer.pid}; while kill -0 {peer.pid} 2>/dev/null; do sleep 0.01; done")
    peer.disconnect()
    if vm.seat is peer:
        vm.lost = f"its QEMU in {on} was ended"


def where(to):
    """The name that QMP has for a level."""
    return BASE if to in ("L0", BASE) else to


def state(m):
    return m.qmp("guest", "query-span")[0]


def owners(m):
    """Who has each vCPU, by index: "base", the name of an L1, or None when nobody has it."""
    known = state(m).get("vcpus")
    if known is None:
        return [BASE] * m["guest"].spec.cpus
    return [v.get("owner") for v in sorted(known, key=lambda v: v["vcpu"])]


def seat(m, owner):
    """The agent's way in the guest goes to this owner of vCPU 0."""
    vm = m["guest"]
    vm.seat = vm.base if owner in (BASE, None) else vm.peers[owner]
    # The loss of an owner that is none any more is not the guest's.
    if not vm.seat.ended and not vm.base.ended:
        vm.lost = None


def follow(m):
    """The agent's way in the guest goes to who has vCPU 0, as QMP says."""
    owner = owners(m)[0]
    seat(m, owner)
    return owner


def quiet(m):
    """No byte is under way to or from the agent in the guest."""
    vm = m["guest"]
    vm.request(wire.PING)


def start(m, to, vcpus=None, **options):
    """Begin; the id of the transfer."""
    arguments = {"guest": GUEST, "to": where(to), **{k.replace("_", "-"): v for k, v in options.items()}}
    if vcpus is not None:
        arguments["vcpus"] = list(vcpus)
    return m.qmp("guest", "span-transfer", arguments)["id"]


def wait(m, number, after=0, timeout=120, status=ENDS):
    """Data of the event that tells the transfer's end, or one of the statuses asked for."""
    vm = m["guest"]

    def found():
        return next((e["data"] for e in vm.events[after:] if e["event"] == "SPAN_TRANSFER" and
                     e["data"]["id"] == number and e["data"]["status"] in status), None)
    m.pump(lambda: found() or vm.base.ended, timeout, f"the end of transfer {number} ({', '.join(status)})")
    data = found()
    if not data:
        raise MachineError("the guest's QEMU on L0 ended during a transfer")
    return data


def transfer(m, to, vcpus=None, timeout=120, **options):
    """vCPUs (all) to L0 or an L1; data of the event that says so. Raises TransferError."""
    vm = m["guest"]
    quiet(m)
    after = len(vm.events)
    data = wait(m, start(m, to, vcpus, **options), after, timeout)
    follow(m)
    if data["status"] != "completed":
        raise TransferError(f"transfer to {to}: {data['status']}: {data.get('reason')}", data)
    return data


def wait_peer(m, on, want=("ready",), timeout=60):
    """Until the base and the controller in that L1 have come to terms; what the base says of it."""
    for _ in range(100):
        member = next(x for x in state(m)["members"] if x["name"] == on)
        controller = member.get("controller", {"state": "none"})
        if controller["state"] in want:
            return controller
        m.sleep(0.02)
    raise MachineError(f"the controller in {on} is '{controller}', not {' or '.join(want)}")


def hand_over(m, to):
    """All of the guest goes to L0 or to an attached L1, where a controller is started if there is none."""
    vm = m["guest"]
    if where(to) == owners(m)[0]:
        return
    if where(to) != BASE and to not in vm.peers:
        start_peer(m, to)
        wait_peer(m, to)
    transfer(m, to)


def go_home(m):
    """The guest runs on L0, and there is no other QEMU of it."""
    vm = m["guest"]
    if not vm.lost and vm.seat is not vm.base:
        transfer(m, "L0")
    for on in list(vm.peers):
        stop_peer(m, on)


@contextlib.contextmanager
def frozen(m):
    """No vCPU of the guest runs; all are at one place. Not for long: its base would take a stopped peer for lost."""
    peer = m["guest"].seat
    if peer is m["guest"].base:
        peer.qmp("stop")
        yield
        peer.qmp("cont")
        return
    peer.level.run(f"kill -STOP {peer.pid}; until ! grep -q 'State:.[^T]' /proc/{peer.pid}/task/*/status; do sleep 0.002; done")
    yield
    peer.level.run(f"kill -CONT {peer.pid}")
