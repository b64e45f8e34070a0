# SPDX-License-Identifier: GPL-2.0
"""Topology files: who is there, how big, who may do what with the guest.

One line per level, "#" starts a comment:

    L0     memory=1536 cpus=1
    guest  memory=256 kernel=cloud
    L1a    memory=384 window=512M access=rw
"""
import os

from . import paths

DIRECTORY = os.path.join(paths.MACHINE, "topologies")
KEYS = {
    "memory": int,     # MiB
    "cpus": int,
    "irqchip": str,    # of a guest: kernel (all of it in KVM) or split; default: kernel
    "kvmclock": str,   # of a guest: on (and what else KVM offers its guests) or off; default: on
    "kernel": str,     # trimmed, cloud, debug; default: the run's
    "userland": str,   # of a guest: debian for Debian's programs beside busybox, criu for CRIU and Redis, too; default: busybox alone
    "modules": str,    # stock, span: which KVM; default: the run's at L0, stock in an L1
    "window": str,     # size of the span-port's window; none: no port
    "access": str,     # ro, rw: what the guest's policy grants; none: no entry
    "rights": str,     # and which rights: notify, block, deny, log, with commas, or all
    "flags": str,      # more CPU flags, with commas; of L0: features of the emulated CPU (epml)
    "deadline": int,   # longest one of its watches, microseconds
    "vcpus": str,      # of an L1: which vCPUs the guest's policy lets it have: all, or numbers with commas; default: none
    "ooh": int,        # 1: the VM may track its processes (kvm-ooh) and has ooh.ko and our programs
    "on": str,         # the level whose QEMU runs it; default: L0
    "role": str,       # guest, l1, plain: default by name
}
DEFAULTS = {
    "L0": {"memory": 1536, "cpus": 1},
    "guest": {"memory": 256, "cpus": 1},
    "l1": {"memory": 384, "cpus": 1},
    "plain": {"memory": 256, "cpus": 1},
}


def chosen(name, default):
    """A number from .config (make menuconfig), else the default of Kconfig."""
    try:
        with open(os.path.join(paths.TOP, ".config"), encoding="utf-8") as f:
            for line in f:
                if line.startswith(f"CONFIG_{name}="):
                    return int(line.partition("=")[2])
    except FileNotFoundError:
        pass
    return default


class TopologyError(Exception):
    pass


class Level:
    def __init__(self, name, values):
        self.name = name
        role = values.get("role") or ("guest" if name == "guest" else
                                      "l1" if name.startswith("L1") else "plain")
        self.role = "L0" if name == "L0" else role
        merged = dict(DEFAULTS[self.role])
        if self.role == "L0":
            merged = {"memory": chosen("MACHINE_MEMORY", merged["memory"]),
                      "cpus": chosen("MACHINE_CPUS", merged["cpus"])}
        merged.update(values)
        for key in KEYS:
            setattr(self, key, merged.get(key))
        self.role = "L0" if name == "L0" else role


class Topology:
    def __init__(self, name):
        self.name = name
        self.levels = {}
        path = os.path.join(DIRECTORY, name + ".topo")
        try:
            with open(path, encoding="utf-8") as f:
                lines = f.read().splitlines()
        except FileNotFoundError:
            raise TopologyError(f"no topology '{name}'; there are: {', '.join(names())}") from None
        for number, line in enumerate(lines, 1):
            words = line.split("#")[0].split()
            if words:
                self._add(f"{path}:{number}", words[0], words[1:])
        if "L0" not in self.levels:
            raise TopologyError(f"{path}: no line for L0")

    def _add(self, where, name, words):
        values = {}
        for w in words:
            key, eq, value = w.partition("=")
            if not eq or key not in KEYS:
                raise TopologyError(f"{where}: '{w}': want key=value with one of {', '.join(KEYS)}")
            try:
                values[key] = KEYS[key](value)
            except ValueError:
                raise TopologyError(f"{where}: '{w}': want a number") from None
        if name in self.levels:
            raise TopologyError(f"{where}: {name} is there twice")
        if values.get("on", "L0") not in (*self.levels, "L0"):
            raise TopologyError(f"{where}: {name} is on {values['on']}, which is not above it")
        self.levels[name] = Level(name, values)

    @property
    def l0(self):
        return self.levels["L0"]

    @property
    def vms(self):
        return [v for v in self.levels.values() if v.role != "L0"]

    @property
    def guest(self):
        return next((v for v in self.vms if v.role == "guest"), None)


def names():
    return sorted(f[:-5] for f in os.listdir(DIRECTORY) if f.endswith(".topo"))
