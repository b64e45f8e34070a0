# SPDX-License-Identifier: GPL-2.0
"""The whole guest goes from one hypervisor to another, by what stock QEMU has.

Its QEMU on L0 stays and keeps the policy and the memory. In the L1 runs a QEMU
of the same machine, a peer, stopped, with the window as its RAM. Only the state
of vCPUs and devices goes over (xen-save-devices-state); the memory is where it
is. At any time one of the two is running, the other is stopped.

The host's way to the agent in the guest is one byte stream that changes its
carrier. Both QEMUs keep their connection, so that the guest sees nothing.
"""
from . import wire
from .bochs import MachineError
from .controller import RUN, Controller

# Loading devices' state fails with the section that says which machine it is from, as saving leaves it out.
OPTIONS = ["-global", "migration.send-configuration=off"]


def stem(name, on):
    return f"{name}@{on}"


def memory_of_peer(spec):
    return ["-object", f"memory-backend-file,id=mem0,mem-path=/dev/span0,size={spec.memory}M,share=on,"
            "align=2M,merge=off,dump=off"]


def start_peer(m, vm, on, extra=("-S",), cpu=None):
    """A QEMU of the same machine in an L1, stopped. The L1 must be attached."""
    s = stem(vm.name, on)
    peer = Controller(m, s, s, m[on])
    peer.pid = m.launch(m[on], s, m._qemu_command(vm.spec, on, cpu) + list(extra))
    # Before the state is loaded: its device is in reset and tells no guest about it.
    vm.connect_controller(peer)
    vm.peers[on] = peer
    return peer


def stop_peer(m, vm, on):
    """End the QEMU in the L1. A guest that it runs is lost with it."""
    peer = vm.peers.pop(on, None)
    if not peer:
        return
    if not m[on].lost:
        m[on].run(f"kill -9 {peer.pid}; while kill -0 {peer.pid} 2>/dev/null; do sleep 0.01; done")
    peer.disconnect()
    if vm.seat is peer:
        vm.lost = f"its QEMU in {on} was ended"


def _quiesce(vm):
    """Stop the guest when no byte is under way to or from its agent."""
    vm.request(wire.PING)
    vm.seat.qmp("stop")
    seen = None
    while seen != vm.endpoint.received:
        seen = vm.endpoint.received
        vm.seat.qmp("query-status")


def hand_over(m, vm, to):
    source = vm.seat
    target = vm.base if to == vm.host.name else vm.peers.get(to) or start_peer(m, vm, to)
    if target is source:
        return
    path = f"{RUN}/{vm.name}.state"
    _quiesce(vm)
    try:
        source.qmp("xen-save-devices-state", {"filename": path, "live": False})
        target.level.put_bytes(source.level.get_bytes(path), path, 0o600)
        target.qmp("xen-load-devices-state", {"filename": path})
    except MachineError:
        source.qmp("cont")
        raise
    target.qmp("cont")
    vm.seat = target
