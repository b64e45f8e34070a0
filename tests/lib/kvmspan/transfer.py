# SPDX-License-Identifier: GPL-2.0
"""vCPUs of the guest go from one hypervisor to another, by span-transfer.

The host's way to the agent in the guest is one byte stream, which goes to the QEMU that has
the seat (vCPU 0 and the devices). Every controller keeps its connection, so
that the guest sees nothing when the seat moves. What is under way in a socket of the old one
would come late: so nothing is, when the seat moves.
"""
import itertools

from . import handover, wire
from .bochs import MachineError
from .cases import check
from .controller import RUN, QMPError
from .span import GUEST, bring, take

BASE = "base"
_drivers = itertools.count(1)


class TransferError(MachineError):
    """A transfer did not come to a good end; .event is what was told."""

    def __init__(self, text, event):
        super().__init__(text)
        self.event = event


def where(to):
    """The name that QMP has for a level."""
    return BASE if to in ("L0", BASE) else to


def start_peer(m, on, extra=(), name="guest", cpu=None):
    """A controller of the guest in an attached L1: same machine, nothing running, ready to own vCPUs."""
    return handover.start_peer(m, m[name], on, cpu=cpu, extra=[
        "-incoming", "defer", "-object", "span-peer,id=peer0,memdev=mem0,vcpus=on", *extra])


def stop_peer(m, on, name="guest"):
    handover.stop_peer(m, m[name], on)


def state(m):
    return m.qmp("guest", "query-span")[0]


def owners(m):
    """Who has each vCPU, by index: "base", the name of an L1, or None when nobody has it."""
    known = state(m).get("vcpus")
    if known is None:
        return [BASE] * m["guest"].spec.cpus
    return [v.get("owner") for v in sorted(known, key=lambda v: v["vcpu"])]


def cancel(m, number):
    m.qmp("guest", "span-cancel", {"guest": GUEST, "id": number})


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


ENDS = ("completed", "failed", "cancelled")


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


def tsc_offsets(m):
    """Of each vCPU where it is: guest's TSC minus L0's, exact; all the same for ever."""
    vm = m["guest"]
    result = []
    for n, owner in enumerate(owners(m)):
        if owner == BASE:
            result.append(_offset(m["L0"], vm.base.pid, n))
        else:
            # The two add up: L0's for the L1, and the L1's for the guest.
            result.append(m[owner].tsc_offset + _offset(m[owner], vm.peers[owner].pid, n))
    return result


def _note_offset(m, on):
    """An L1's own: to be read while it runs no guest, since then L0's KVM shows the sum."""
    if m[on].tsc_offset_pid != m[on].pid:
        m[on].tsc_offset, m[on].tsc_offset_pid = _offset(m["L0"], m[on].pid, 0), m[on].pid


def _offset(level, pid, vcpu):
    return int(level.sh(f"cat /sys/kernel/debug/kvm/{pid}-*/vcpu{vcpu}/tsc-offset"))


def refused(m, to, vcpus=None, words=(), **options):
    """It has to be refused at once, or to fail, with words that say why; nothing has changed. The reason."""
    before = owners(m)
    try:
        transfer(m, to, vcpus, **options)
    except (QMPError, TransferError) as e:
        reason = str(e)
    else:
        raise AssertionError(f"a transfer to {to} of {vcpus} was done")
    for w in words:
        check(w in reason, f"the error does not mention '{w}': {reason}")
    check(owners(m) == before, f"owners were {before} and are {owners(m)}")
    return reason


# Where a test begins.

PLAIN = {"cpus": 2, "kvmclock": "off", "kernel": "trimmed", "memory": 128, "flags": None}


def _guest_as_wanted(m, spec):
    vm = m["guest"]
    if not vm.lost and vm.base.ended:
        vm.lost = "its QEMU has ended"
    if vm.lost or m.policy_used != m.policy() or any(getattr(vm.spec, k) != v for k, v in spec.items()):
        return False
    return vm.base.qmp("query-status")["running"] or owners(m)[0] not in (BASE, None)


def new_guest(m, **spec):
    """The guest starts anew, with other keys of its topology line if there are any."""
    vm = m["guest"]
    for on in list(vm.peers):
        stop_peer(m, on)
    for k, v in spec.items():
        setattr(vm.spec, k, v)
    m.restart_vm("guest")


def clock(m):
    """The guest's clock source."""
    source = m["guest"].sh("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
    # Before it takes the TSC for good, Linux compares it with a clock that must be read fast; with the debug
    # kernel on L0 no device is read fast enough, ever. What it has until then is the TSC all the same.
    return "tsc" if m.kernel == "debug" and source == "tsc-early" else source


def wait_tsc(m):
    """Linux has decided that the TSC is good for a clock."""
    for _ in range(20):
        source = clock(m)
        if source == "tsc":
            return
        m.sleep(0.2)
    raise AssertionError(f"the guest's clock is {source}")


def wait_peer(m, on, want=("ready",), timeout=60):
    """Until the base and the controller in that L1 have come to terms; what the base says of it."""
    for _ in range(100):
        member = next(x for x in state(m)["members"] if x["name"] == on)
        controller = member.get("controller", {"state": "none"})
        if controller["state"] in want:
            return controller
        m.sleep(0.02)
    raise AssertionError(f"the controller in {on} is '{controller}', not {' or '.join(want)}")


def settle(m, peers=("L1a",), policy=None, **spec):
    """The guest, as in PLAIN but for these keys, runs on L0; in each of these L1s waits a controller, in the others none."""
    vm = m["guest"]
    spec = {**PLAIN, **spec}
    m.policy_extra = policy or {}
    for on in peers:
        if m[on].lost:
            m.restart_vm(on)
    if not _guest_as_wanted(m, spec):
        new_guest(m, **spec)
    elif owners(m) != [BASE] * spec["cpus"]:
        transfer(m, "L0")
    if spec["kvmclock"] == "off":
        wait_tsc(m)
    attached = {x["name"] for x in state(m)["members"] if x["state"] == "attached"}
    for on in [o for o in vm.peers if o not in peers or o not in attached]:
        stop_peer(m, on)
    for on in attached - set(peers):
        take(m, on)
    for on in peers:
        if on not in attached:
            bring(m, on, "rw", rights=[])
        _note_offset(m, on)
        if on not in vm.peers:
            start_peer(m, on)
    for on in peers:
        wait_peer(m, on)
