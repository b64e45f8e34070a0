#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What QEMU's loaders of device state bear (x-span-fuzz), on the host and without KVM: qtest as accelerator.

Each byte of each section is spoiled once, then more of them at random; what loads is run for a moment. SPAN_FUZZ_STATE_ROUNDS and
SPAN_FUZZ_SEED make it longer, or another one. KTAP.
"""
import json
import os
import socket
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("KVM_SPAN_BUILD", os.path.join(TOP, "build"))
QEMU = os.environ.get("SPAN_QEMU", os.path.join(BUILD, "qemu", "qemu-system-x86_64"))
FIRMWARE = os.path.join(BUILD, "qemu", "firmware")
ROUNDS = int(os.environ.get("SPAN_FUZZ_STATE_ROUNDS", "3000"))
SEED = int(os.environ.get("SPAN_FUZZ_SEED", "1"), 0)
MACHINE = ["-machine", "q35,sata=off,smbus=off,usb=off,hpet=off,vmport=off,smm=off,graphics=off", "-accel", "qtest", "-smp", "2", "-m", "64",
           "-nodefaults", "-no-user-config", "-display", "none", "-rtc", "clock=vm", "-L", FIRMWARE, "-bios", "qboot.rom",
           "-serial", "null", "-chardev", "null,id=ag", "-device", "virtio-serial-pci,id=vs0,max_ports=2",
           "-device", "virtserialport,chardev=ag,name=a", "-device", "virtio-rng-pci", "-device", "virtio-net-pci,romfile=",
           "-blockdev", "null-co,node-name=d0,size=1048576", "-device", "virtio-blk-pci,drive=d0", "-global", "apic-common.vapic=off", "-object", "x-span-fuzz,id=base"]


class Qemu:
    def __init__(self, directory):
        paths = [os.path.join(directory, name) for name in ("qmp", "qtest")]
        listeners = [socket.socket(socket.AF_UNIX) for _ in paths]
        for listener, path in zip(listeners, paths):
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(60)
        with open(os.path.join(directory, "log"), "wb") as log:
            self.process = subprocess.Popen([QEMU, *MACHINE, "-qmp", f"unix:{paths[0]}", "-qtest", f"unix:{paths[1]}",
                                             "-qtest-log", "none"], stdout=log, stderr=log)
        # In the order in which QEMU connects.
        self.qtest = listeners[1].accept()[0].makefile("rw")
        self.file = listeners[0].accept()[0].makefile("rw")
        self.file.readline()
        self.qmp("qmp_capabilities")

    def grow_old(self, seconds):
        """That much of the guest's time passes, with all its timers."""
        self.qtest.write(f"clock_step {seconds * 10**9}\n")
        self.qtest.flush()
        reply = self.qtest.readline()
        if not reply.startswith("OK "):
            raise RuntimeError(f"clock_step: {reply}")

    def qmp(self, command, **arguments):
        try:
            self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self.file.flush()
            for line in self.file:
                reply = json.loads(line)
                if "event" not in reply:
                    return reply
        except OSError:
            pass
        raise EOFError(f"QEMU ended ({self.process.wait()}) during {command}")


def fuzz(qemu, number, **options):
    """The status at the end; asking for it waits while QEMU is busy."""
    name = f"f{number}"
    reply = qemu.qmp("object-add", **{"qom-type": "x-span-fuzz", "id": name, "run": True, **options})
    if "error" in reply:
        raise RuntimeError(reply["error"]["desc"])
    while True:
        status = qemu.qmp("qom-get", path=f"/objects/{name}", property="status")["return"]
        if status != "under way":
            return status


# The exact state has to load at the end of each: also that of a machine that has run for hours.
CASES = (("each-byte", 0, {"bytes": True, "seed": SEED}), ("at-random", 0, {"rounds": ROUNDS, "seed": SEED + 1}),
         ("hours-old", 3 * 3600, {"rounds": ROUNDS // 4, "seed": SEED + 2}))


def main():
    print(f"TAP version 13\n1..{len(CASES)}")
    bad = 0
    for number, (name, age, options) in enumerate(CASES, 1):
        with tempfile.TemporaryDirectory() as directory:
            try:
                qemu = Qemu(directory)
                if age:
                    qemu.grow_old(age)
                status = fuzz(qemu, number, **options)
                qemu.qmp("quit")
                code = qemu.process.wait(60)
                if code:
                    status = f"failed: QEMU's exit status is {code}"
            except (EOFError, RuntimeError, OSError) as e:
                status = f"failed: {e}"
            ok = status.startswith("done")
            bad += not ok
            if not ok:
                with open(os.path.join(directory, "log"), encoding="utf-8", errors="replace") as f:
                    for line in f.readlines()[-5:]:
                        print(f"# {line.rstrip()}")
            print(f"{'ok' if ok else 'not ok'} {number} {name} # {status}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
