# SPDX-License-Identifier: GPL-2.0
"""The machine: L0 in the emulator, its VMs, and how to use them from a test.

    m = Machine("two-l1", kernel="trimmed", modules="span")
    m.boot()                        # L0 and every VM of the topology
    rc, out = m["L1a"].run("spanctl list")
    m.qmp("guest", "span-attach", {...})
    m.wait_event("guest", "SPAN_PEER_LOST")
    m.close()

Everything happens in the caller's thread, in pump(): it lets the emulator run,
takes what the agents send and returns when the caller's condition is true.
"""
import json
import os
import re
import shlex
import shutil
import time

from . import handover, image, paths, wire
from .bochs import Bochs, MachineError
from .controller import RUN, AgentError, Controller, QMPError
from .topology import Topology

# The same on L0 and in an L1, so that the guest can go from one to the other.
GUEST_CPU = ("Skylake-Client-noTSX-IBRS,enforce,host-phys-bits=on,vmx=off,kvm-asyncpf=off,kvm-asyncpf-int=off,"
             "kvm-steal-time=off,kvm-pv-eoi=off")
# And whose vCPUs may run on several of them at once: nothing that only one host can keep, and the TSC as its clock
# (with TSC_ADJUST, or Linux would compare it with a clock that stands while the seat is under way).
SPLIT_CPU = GUEST_CPU + ",kvmclock=off,kvm-pv-tlb-flush=off,kvm-pv-sched-yield=off,invtsc=on,tsc-adjust=on"
RIGHTS = ["notify", "block", "deny", "log"]
SMALL = 16384          # files up to this size go by the serial line
# loglevel=5: warnings reach the console, and so the verdict, and survive a crash.
QUIET = ("quiet loglevel=5 mitigations=off reboot=t cryptomgr.notests no_timer_check "
         "random.trust_cpu=on audit=0 lsm= nowatchdog panic=-1")
# What CRIU asks the kernel about sockets by, and what it probes for.
CRIU_MODULES = "inet_diag unix_diag tcp_diag udp_diag raw_diag netlink_diag tun veth".split()
# Boot-time work of Debian's kernel that a test machine can do without; on an
# emulator it costs some ten CPU seconds per level.
BLACKLIST = ",".join("""
    jent_mod_init crypto_kdf108_init load_system_certificate_list bpf_rstat_kfunc_init bpf_key_sig_kfuncs_init
    bpf_kprobe_multi_kfuncs_init kfunc_init bpf_map_iter_init bpf_prog_iter_init
    bpf_cgroup_iter_init cpumask_kfunc_init crypto_kfunc_init bpf_fs_kfuncs_init
    bpf_kfunc_init xdp_metadata_init bpf_sockmap_iter_init bpf_sk_storage_map_iter_init
    bpf_prog_test_run_init bpf_dummy_struct_ops_init bpf_tcp_ca_kfunc_init
    bpf_mptcp_kfunc_init cubictcp_register bpf_ksym_iter_register bpf_link_iter_init
    bpf_crypto_skcipher_init trace_eval_init trace_eval_sync init_kprobe_trace
    lockup_detector_check""".split())
SUSPECT = re.compile(
    r"WARNING:|BUG:|Oops|KASAN|UBSAN|kmemleak:.*new suspected|lockdep|possible (recursive|circular)|"
    r"hung task|blocked for more than|general protection|Call Trace|Kernel panic|"
    r"unable to handle|suspicious RCU|sleeping function called|double fault|segfault at")


class CommandError(MachineError):
    """A command that had to succeed did not."""

    def __init__(self, level, command, rc, out):
        super().__init__(f"{level}: '{command}' gave {rc}: {out.strip()[-2000:]}")
        self.rc, self.out = rc, out


class TimedOut(MachineError):
    pass


class Process:
    """A command under way on a level."""

    def __init__(self, level, command, on_output=None, pty=False):
        self.level, self.command = level, command
        self.out, self.err = bytearray(), bytearray()
        self.rc = None
        self._failed = None
        self._on_output = on_output
        self._endpoint = level.endpoint
        self._id = level.endpoint.new_id(self._frame)
        level.machine.processes.append(self)
        level.endpoint.send(wire.EXEC, self._id, command.encode(), flags=1 if pty else 0)

    def _frame(self, kind, flags, payload):
        if kind == wire.DATA:
            (self.err if flags & 1 else self.out).extend(payload)
            if self._on_output:
                self._on_output(payload)
        elif kind == wire.EXIT:
            self.rc = int.from_bytes(payload, "little")
        elif kind == wire.ERROR:
            self._failed = payload.decode(errors="replace")

    @property
    def done(self):
        return self.rc is not None or self._failed is not None

    @property
    def over(self):
        """Done, or its VM is not the one any more that it ran in."""
        return self.done or self.level.lost or self.level.endpoint is not self._endpoint

    def input(self, data):
        for i in range(0, len(data), wire.CHUNK):
            self._endpoint.send(wire.INPUT, self._id, data[i:i + wire.CHUNK])

    def close_input(self):
        self._endpoint.send(wire.INPUT, self._id)

    def kill(self):
        self._endpoint.send(wire.KILL, self._id)

    def text(self):
        return (self.out + self.err).decode(errors="replace")

    def wait(self, timeout=60):
        """Returns (exit status, output). timeout: emulator CPU seconds."""
        m = self.level.machine
        try:
            m.pump(lambda: self.over, timeout, f"{self.level.name}: '{self.command}'")
        except TimedOut:
            m.limit(None)
            self.kill()
            m.pump(lambda: self.over, 20, "the kill of it", fail=False)
            raise TimedOut(f"{self.level.name}: '{self.command}' took more than {timeout} CPU s; "
                           f"output so far: {self.text()[-2000:]}") from None
        if not self.done:
            raise MachineError(f"{self.level.name} went away during '{self.command}': {self.level.lost or 'restarted'}")
        if self._failed is not None:
            raise AgentError(f"{self.level.name}: {self._failed}")
        self.level.endpoint.forget(self._id)
        if self in m.processes:
            m.processes.remove(self)
        return self.rc, self.text()


class Level:
    """L0 or a VM, as seen through its agent."""

    def __init__(self, machine, spec):
        self.machine, self.spec, self.name = machine, spec, spec.name
        self.endpoint = None
        self.lost = None       # why the agent is not reachable any more

    def spawn(self, command, on_output=None, pty=False):
        self._check()
        return Process(self, command, on_output, pty)

    def run(self, command, timeout=60, check=True):
        """Run a shell command; (exit status, output). check: raise if not 0."""
        rc, out = self.spawn(command).wait(timeout)
        if check and rc:
            raise CommandError(self.name, command, rc, out)
        return rc, out

    def sh(self, command, timeout=60):
        """The output of a command that has to succeed, without the last newline."""
        return self.run(command, timeout)[1].rstrip("\n")

    def _check(self):
        if self.lost:
            raise MachineError(f"{self.name} is not reachable: {self.lost}")
        if not self.endpoint:
            raise MachineError(f"{self.name} is not running")

    def request(self, kind, payload=b"", timeout=60, collect=None, then=None):
        """One request and its answer; DATA goes to collect."""
        self._check()
        result = []

        def handler(k, _flags, p):
            if k == wire.DATA and collect:
                collect(p)
            elif k in (wire.OK, wire.END, wire.ERROR):
                result.append((k, p))

        i = self.endpoint.new_id(handler)
        self.endpoint.send(kind, i, payload)
        if then:
            then(i)
        self.machine.pump(lambda: result or self.lost, timeout, f"{self.name}: request {kind}")
        self.endpoint.forget(i)
        if not result:
            raise MachineError(f"{self.name} went away: {self.lost}")
        k, p = result[0]
        if k == wire.ERROR:
            raise AgentError(f"{self.name}: {p.decode(errors='replace')}")
        return int.from_bytes(p, "little")

    def put_bytes(self, data, path, mode=0o644):
        def rest(i):
            for at in range(0, len(data), wire.CHUNK):
                self.endpoint.send(wire.DATA, i, data[at:at + wire.CHUNK])
            self.endpoint.send(wire.END, i)
        self.request(wire.PUT, mode.to_bytes(4, "little") + path.encode(), then=rest)

    def get_bytes(self, path, timeout=120):
        out = bytearray()
        self.request(wire.GET, path.encode(), timeout, collect=out.extend)
        return bytes(out)

    def put(self, source, path, mode=None):
        """Copy a host file here; big ones go by the shared disk."""
        mode = mode or os.stat(source).st_mode & 0o777
        if os.path.getsize(source) <= SMALL:
            with open(source, "rb") as f:
                return self.put_bytes(f.read(), path, mode)
        return self._put_big(source, path, mode)

    def get(self, path, target):
        with open(target, "wb") as f:
            f.write(self.get_bytes(path))

    def dmesg(self):
        return self.run("dmesg", check=False)[1]


class L0(Level):
    def _put_big(self, source, path, mode):
        size = self.machine.bochs.mailbox_write(source)
        arg = (0).to_bytes(8, "little") + size.to_bytes(8, "little") + mode.to_bytes(4, "little")
        self.request(wire.DISKPUT, arg + b"/dev/sda\0" + path.encode(), timeout=120)

    def get(self, path, target):
        size = int(self.sh(f"stat -c %s {shlex.quote(path)}"))
        if size <= SMALL:
            return super().get(path, target)
        arg = (0).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little") + bytes(4)
        size = self.request(wire.DISKGET, arg + b"/dev/sda\0" + path.encode(), timeout=120)
        return self.machine.bochs.mailbox_read(target, size)


class VM(Level):
    def __init__(self, machine, spec):
        super().__init__(machine, spec)
        self.events = []
        self.base = None       # its QEMU on the level that it was started on
        self.peers = {}        # and those in L1s, by the L1's name
        self.seat = None       # the one that runs it now
        self.tsc_offset = self.tsc_offset_pid = None   # of an L1, see transfer.py
        self.lost = "not started"

    @property
    def host(self):
        """The level whose QEMU started this one."""
        return self.machine[self.spec.on or "L0"]

    @property
    def pid(self):
        """Of the QEMU that it was started in."""
        return self.base.pid if self.base else None

    # The agent inside the VM.
    def _put_big(self, source, path, mode):
        seat = self.seat
        staged = f"/tmp/put.{self.name}"
        seat.level.put(source, staged)

        def send(i):
            arg = seat.agent.id.to_bytes(4, "little") + staged.encode()
            # That level's agent makes DATA and END frames with the id of this request,
            # which is the id that the VM's agent knows the file by.
            seat.level.endpoint.send(wire.SENDFILE, i, arg)
        self.request(wire.PUT, mode.to_bytes(4, "little") + path.encode(), timeout=120, then=send)
        seat.level.run(f"rm {staged}")

    def connect(self, pid):
        self.endpoint = wire.Endpoint(lambda data: self.seat.agent.send(data))
        self.base = self.seat = Controller(self.machine, self.name, self.name, self.host, self.events)
        self.base.pid = pid
        self.connect_controller(self.base)
        self.lost = None

    def connect_controller(self, controller):
        controller.connect(lambda data: self.endpoint.feed(data), lambda: self._ended(controller))

    def _ended(self, controller):
        if controller is self.seat or controller is self.base:
            self.lost = "its QEMU has ended"

    def disconnect(self, why):
        self.lost = why
        for c in [self.base, *self.peers.values()]:
            if c:
                c.disconnect()
        self.peers = {}
        self.seat = self.base
        for vm in self.machine.levels.values():
            peer = getattr(vm, "peers", {}).pop(self.name, None)
            if peer and vm.seat is peer:
                vm.lost = f"it ran on {self.name}, which is not there: {why}"

    def qmp_raw(self, command, arguments=None, timeout=60):
        """The whole reply of the base's monitor: {"return": ...} or {"error": ...}."""
        if not self.base:
            raise MachineError(f"{self.name}: no QMP connection")
        return self.base.qmp_raw(command, arguments, timeout)

    def qmp(self, command, arguments=None, timeout=60):
        if not self.base:
            raise MachineError(f"{self.name}: no QMP connection")
        return self.base.qmp(command, arguments, timeout)


class Machine:
    def __init__(self, topology, kernel="trimmed", modules="span", directory=None, log=None):
        self.topology = Topology(topology)
        self.kernel = {"stock": "cloud"}.get(kernel, kernel)
        self.modules = modules
        self.policy_extra = {} # of the guest's policy, beside its members
        self.policy_used = None        # when the guest was started
        self.directory = directory or os.path.join(
            paths.RESULTS, f"{topology}-{kernel}-{modules}-{os.getpid()}")
        self.log = log or (lambda text: None)
        self.levels = {}
        self.bochs = None
        self.dead = None
        self._limit = None     # CPU second at which the test under way has to be over
        self._files = {}
        self._followed = set() # files of levels that come to the host as they grow
        self.processes = []    # commands that nobody has waited for yet
        self._t0 = time.monotonic()
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)

    def __getitem__(self, name):
        try:
            return self.levels[name]
        except KeyError:
            raise MachineError(f"no level '{name}' in topology {self.topology.name}") from None

    # Time.
    def limit(self, seconds):
        """From now on, pump() raises TimedOut after that many CPU seconds in total."""
        self._limit = self.bochs.cpu() + seconds if seconds and self.bochs else None

    def pump(self, until, timeout=60, what="something", fail=True, extra=(), on_extra=None):
        """Let the machine run until the condition holds. Deadline in CPU seconds."""
        if self.dead:
            raise MachineError(self.dead)
        b = self.bochs
        start = heard = b.cpu()
        wall = time.monotonic()
        pinged = False
        b.run()
        try:
            while not until():
                data, ready = b.exchange(extra=extra)
                if ready and on_extra:
                    on_extra(ready)
                cpu = b.cpu()
                if data:
                    heard, pinged = cpu, False
                    self["L0"].endpoint.feed(data)
                if not b.alive():
                    self._die(f"the emulator ended while waiting for {what}")
                if cpu - start > timeout or time.monotonic() - wall > 20 * timeout + 60:
                    if not fail:
                        return False
                    raise TimedOut(f"no answer after {cpu - start:.0f} CPU s: {what}")
                if self._limit and cpu > self._limit:
                    raise TimedOut(f"the test took too long, last waiting for {what}")
                # Heartbeat: silence is fine as long as L0's agent answers.
                if cpu - heard > 25 and not pinged and self["L0"].endpoint.hello:
                    pinged, heard = True, cpu
                    self["L0"].endpoint.send(wire.PING, self._ping)
                elif cpu - heard > 25 and pinged:
                    self._die(f"L0 does not answer any more, while waiting for {what}")
            return True
        finally:
            b.stop()

    def end_processes(self):
        """Kill the commands that a test left behind."""
        left = [p for p in self.processes if not p.over]
        self.processes = []
        for p in left:
            p.kill()
        self.pump(lambda: all(p.over for p in left), 60, "the end of left commands", fail=False)

    def _die(self, why):
        tail = ""
        try:
            with open(self.bochs.console, encoding="utf-8", errors="replace") as f:
                tail = f.read()[-1500:]
        except OSError:
            pass
        self.dead = f"{why}; end of L0's console:\n{tail}"
        raise MachineError(self.dead)

    # Files and logs of this run.
    def path(self, name):
        return os.path.join(self.directory, name)

    def log_line(self, name, line):
        f = self._files.get(name)
        if not f:
            f = self._files[name] = open(self.path(name), "a", encoding="utf-8", buffering=1)
        f.write(line + "\n")

    def _console_sink(self, name):
        f = self._files.get(name + ".sink")
        if not f:
            f = self._files[name + ".sink"] = open(self.path(name), "wb", buffering=0)
        return lambda kind, flags, payload: f.write(payload)

    # Images.
    def _module_dir(self, kernel, modules):
        if modules == "stock":
            return paths.build("images", "modules", "cloud") if kernel == "cloud" \
                else paths.build("kernel", kernel + ".out", "stock")
        return paths.build("kvm", kernel + ".out")

    def _modules(self, cpio, kernel, modules, where=""):
        """kvm.ko and its kind; a stripped copy is preferred where there is one."""
        stock = self._module_dir(kernel, "stock")
        for name in ("irqbypass", "kvm", "kvm-intel"):
            d = stock if name == "irqbypass" else self._module_dir(kernel, modules)
            for f in (f"stripped/{name}.ko", f"{name}.ko"):
                if os.path.exists(os.path.join(d, f)):
                    cpio.file(f"lib/modules/{where}{name}.ko", os.path.join(d, f))
                    break
            else:
                if name != "irqbypass":
                    raise MachineError(f"no {name}.ko in {d}: run 'make kvm' (or use --modules stock)")
        if kernel == "cloud" and where == "stock/":  # L0's disk
            early = "scsi_common scsi_mod libata sd_mod ata_piix".split()
            for name in early:
                cpio.file(f"lib/modules/{name}.ko", os.path.join(stock, name + ".ko"))
            cpio.data("etc/modules-early", "".join(m + "\n" for m in early).encode())

    def _base(self, path, host_modules=None):
        c = image.Cpio(path)
        for d in ("proc", "sys", "dev", "tmp", "run", "root", "bin", "lib/modules", "etc", "usr/local/bin"):
            c.directory(d)
        c.device("dev/console", 5, 1)
        c.data("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        c.file("init", os.path.join(paths.MACHINE, "init"), 0o755)
        for name in ("busybox", "agent", "memtool"):
            source = os.path.join(paths.IMAGES, name)
            if not os.path.exists(source):
                raise MachineError(f"no {source}: run 'make images'")
            c.file("bin/" + name, source, 0o755)
        return c

    def _hypervisor(self, c):
        c.file("bin/qemu-system-x86_64", paths.build("qemu", "qemu-system-x86_64"), 0o755)
        c.tree("usr/share/qemu", paths.build("qemu", "firmware"))

    def _kernel_of(self, spec):
        if spec.kernel:
            return {"stock": "cloud"}.get(spec.kernel, spec.kernel)
        # A debug build costs five times the instructions: in L0 only.
        return "trimmed" if self.kernel == "debug" and spec.role != "L0" else self.kernel

    def _programs(self, c):
        for d in (paths.build("guest-tools"), paths.build("tests", "kvm")):
            for f in sorted(os.listdir(d)) if os.path.isdir(d) else ():
                source = os.path.join(d, f)
                if os.path.isfile(source) and os.access(source, os.X_OK):
                    c.file("usr/local/bin/" + f, source, 0o755)

    def _ooh(self, c, kernel):
        """What a VM needs to track its own processes."""
        ko = paths.build("ooh-module", kernel + ".out", "ooh.ko")
        if not os.path.exists(ko):
            raise MachineError(f"no {ko}: run 'make ooh-module'")
        c.file("lib/modules/ooh.ko", ko)
        for name in ("zsmalloc", "lz4_compress", "lz4hc_compress", "zram"):  # for tests that swap
            ko = os.path.join(self._module_dir(kernel, "stock"), name + ".ko")
            if os.path.exists(ko):
                c.file(f"lib/modules/{name}.ko", ko)
        self._programs(c)

    def _initrd_name(self, spec):
        if self._vms_on(spec.name):
            return f"{spec.name}.cpio"
        kernel = self._kernel_of(spec)
        if spec.role == "l1":
            return f"l1-{kernel}-{self._modules_of(spec)}.cpio"
        return f"{'ooh' if spec.ooh else 'vm'}-{kernel}-{spec.userland or 'busybox'}.cpio"

    def _modules_of(self, spec):
        """Which KVM an L1 has; on a machine with stock modules it is stock, too."""
        return (spec.modules or "stock") if self.modules == "span" else "stock"

    def _vms_on(self, name):
        return [s for s in self.topology.vms if (s.on or "L0") == name]

    def _vm_images(self, c, host):
        """What a level needs to start its VMs: their kernels and initramfs images."""
        done = set()
        for spec in self._vms_on(host):
            k = self._kernel_of(spec)
            source = os.path.join(paths.IMAGES, "kernel", k + ".vmlinux")
            if not os.path.exists(source):
                raise MachineError(f"no {source}: run 'make images'")
            name = self._initrd_name(spec)
            if k not in done:
                c.file(f"img/{k}.vmlinux", source)
            if name not in done:
                part = self.path(f"{host}.{name}")
                self._vm_image(part, spec, k)
                c.file(f"img/{name}", part)
                os.unlink(part)
            done |= {k, name}

    def _vm_image(self, path, spec, kernel):
        c = self._base(path)
        if spec.role == "l1":
            self._hypervisor(c)
            self._modules(c, kernel, self._modules_of(spec))
            port = paths.build("port", kernel + ".out", "span_port.ko")
            if os.path.exists(port):
                c.file("lib/modules/span_port.ko", port)
            self._programs(c)
        if spec.ooh:
            self._ooh(c, kernel)
        if spec.userland:
            c.tree("", os.path.join(paths.IMAGES, "userland"))
        if spec.userland == "criu":
            c.tree("", os.path.join(paths.IMAGES, "userland-criu"))
            criu = paths.build("criu", "criu")
            if not os.path.exists(criu):
                raise MachineError(f"no {criu}: run 'make criu'")
            c.file("usr/local/bin/criu", criu, 0o755)
            c.tree("usr/local/lib/zdtm", paths.build("criu", "zdtm"))
            for name in CRIU_MODULES:
                c.file(f"lib/modules/{name}.ko", os.path.join(paths.IMAGES, "modules", kernel, name + ".ko"))
        self._vm_images(c, spec.name)
        c.close()

    def _build_images(self):
        spec = self.topology.l0
        kernel = self._kernel_of(spec)
        initrd = self.path("L0.cpio")
        c = self._base(initrd)
        self._hypervisor(c)
        self._modules(c, kernel, "stock", "stock/")
        if self.modules == "span":
            self._modules(c, kernel, "span", "span/")
        self._programs(c)
        self._vm_images(c, "L0")
        c.close()
        bz = paths.build("images", "kernel", "cloud.bzImage") if kernel == "cloud" \
            else paths.build("kernel", kernel + ".out", "bzImage")
        if not os.path.exists(bz):
            raise MachineError(f"no {bz}: run 'make kernel images'")
        image.boot_cd(self.path("boot.iso"), bz, initrd, self._cmdline(spec))
        os.unlink(initrd)

    def _cmdline(self, spec):
        kernel = self._kernel_of(spec)
        words = [QUIET, f"span.level={spec.name}"]
        if spec.kvmclock != "off":
            # One whose clock is the TSC checks it, as on anybody's machine.
            words.append("tsc=reliable")
        if spec.role == "L0":
            words.append("console=ttyS0,115200 nokaslr")
        else:
            words.append("console=ttyS0")
        if kernel == "cloud":
            words.append("8250.nr_uarts=2 initcall_blacklist=" + BLACKLIST)
        return " ".join(words)

    # Boot.
    def boot(self, vms=True):
        """Start L0, load KVM, start every VM of the topology (or the named ones)."""
        self._build_images()
        l0 = L0(self, self.topology.l0)
        self.levels = {"L0": l0}
        for spec in self.topology.vms:
            self.levels[spec.name] = VM(self, spec)
        self.bochs = Bochs(self.directory, self.path("boot.iso"), self.topology.l0.memory,
                           self.topology.l0.cpus, self.topology.l0.flags)
        l0.endpoint = wire.Endpoint(self.bochs.send)
        self._ping = l0.endpoint.new_id(lambda *a: None)
        self.log("L0 boots")
        self.pump(lambda: l0.endpoint.hello, 120 if self.kernel != "debug" else 600, "the boot of L0")
        os.unlink(self.path("boot.iso"))
        self.load_kvm(self.modules)
        names = [s.name for s in self.topology.vms] if vms is True else list(vms or ())
        for host in ["L0"] + names:
            here = [n for n in names if self[n].host.name == host]
            for name in here:
                self.start_vm(name, wait=False)
            for name in here:
                self.wait_vm(name)
        return self

    def load_kvm(self, modules, parameters=""):
        """(Re)load KVM at L0: "stock" or "span". No VM may run."""
        span = "span=1" if modules == "span" else ""
        # The emulator reports a VMX preemption timer that KVM finds too fast.
        self["L0"].run(
            "for m in kvm_intel kvm irqbypass; do [ ! -d /sys/module/$m ] || rmmod $m || exit 1; done; "
            f"cd /lib/modules/{modules} && {{ [ ! -f irqbypass.ko ] || insmod irqbypass.ko; }} && "
            f"insmod kvm.ko {span} {parameters} && insmod kvm-intel.ko nested=1", timeout=60)
        self.modules = modules

    # VMs.
    def policy(self):
        members = []
        for s in self.topology.vms:
            if not s.access or s.access == "none":
                continue
            member = {"name": s.name, "access": s.access}
            if s.rights:
                member["rights"] = RIGHTS if s.rights == "all" else s.rights.split(",")
            if s.deadline:
                member["max-deadline-us"] = s.deadline
            if s.vcpus:
                member["vcpus"] = True if s.vcpus == "all" else [int(n) for n in s.vcpus.split(",")]
            members.append(member)
        return {"members": members, **self.policy_extra}

    def _qemu_command(self, spec, peer_on=None, cpu=None):
        """peer_on: for a second controller of the guest, in that L1, with the window as its memory."""
        k = self._kernel_of(spec)
        n = spec.name if not peer_on else handover.stem(spec.name, peer_on)
        machine = "q35,sata=off,smbus=off,usb=off,hpet=off,vmport=off,smm=off,graphics=off"
        if spec.irqchip:
            machine += f",kernel-irqchip={ {'kernel': 'on'}.get(spec.irqchip, spec.irqchip)}"
        words = ["qemu-system-x86_64", "-L", "/usr/share/qemu", "-name", n, "-nodefaults", "-display", "none",
                 "-no-user-config", "-accel", "kvm", "-smp", str(spec.cpus), "-m", f"{spec.memory}M",
                 "-cpu", cpu or self.cpu_of(spec)]
        if spec.role == "guest":
            # For vCPUs that move: S3 would put one node to sleep, and the RTC goes by the devices' clock.
            words += ["-rtc", "clock=vm", "-global", "ICH9-LPC.disable_s3=1"]
        if spec.irqchip == "split":
            words += ["-global", "kvm-apic.vapic=off"]
        if peer_on:
            machine += ",memory-backend=mem0"
            words += handover.memory_of_peer(spec)
        elif spec.role == "guest" and self.modules == "span":
            machine += ",memory-backend=mem0"
            words += ["-object", f"memory-backend-memfd,id=mem0,size={spec.memory}M,share=on,seal=on",
                      "-object", f"span-guest,id=span0,memdev=mem0,policy={RUN}/policy.json"]
        words += ["-machine", machine, "-bios", "bios-256k.bin" if spec.role == "l1" else "qboot.rom"]
        if not peer_on:
            # A peer has no kernel: QEMU would load it into the guest's memory.
            words += ["-kernel", f"/img/{k}.vmlinux", "-initrd", f"/img/{self._initrd_name(spec)}",
                      "-append", self._cmdline(spec)]
        words += ["-chardev", f"file,id=con,path={RUN}/{n}.console", "-serial", "chardev:con",
                  "-chardev", f"socket,id=ag,path={RUN}/{n}.agent,server=on,wait=off",
                  # Its state has all the ports that it could have.
                  "-device", "virtio-serial-pci,id=vs0,max_ports=2",
                  "-device", "virtserialport,chardev=ag,name=org.kvm-span.agent",
                  "-qmp", f"unix:{RUN}/{n}.qmp,server=on,wait=off",
                  "-pidfile", f"{RUN}/{n}.pid"]
        if spec.window and spec.window != "none" and self.modules == "span":
            words += ["-chardev", f"socket,id=sp0,path={RUN}/{n}.port,server=on,wait=off",
                      "-device", f"span-port-pci,id=port0,chardev=sp0,window-size={spec.window}"]
        return words

    def cpu_of(self, spec):
        if spec.role == "guest" or spec.kvmclock == "off":
            return ",".join([SPLIT_CPU if spec.kvmclock == "off" else GUEST_CPU] + ([spec.flags] if spec.flags else []))
        # A guest that wants an invariant TSC gets it on an L1 that has one.
        wanted = any(s.kvmclock == "off" for s in self.topology.vms)
        return "host,host-phys-bits=on" + (",migratable=off" if wanted else "") + \
            (",kvm-ooh=on" if spec.ooh and self.modules == "span" else "") + \
            (",kvm-ooh-epml=on" if spec.ooh and "epml" in (self.topology.l0.flags or "") else "")

    def launch(self, level, stem, words):
        """Start a QEMU on a level; its pid, once its sockets are there."""
        command = shlex.join(words)
        self.log_line("commands", f"{stem} on {level.name}: {command}")
        level.run(f"rm -f {RUN}/{stem}.*; : >{RUN}/{stem}.console; "
               f"setsid {command} </dev/null >{RUN}/{stem}.log 2>&1 & "
               f"for i in $(seq 1 200); do [ -S {RUN}/{stem}.qmp ] && [ -s {RUN}/{stem}.pid ] && exit 0; "
               f"kill -0 $! || break; sleep 0.01; done; cat {RUN}/{stem}.log; exit 1", timeout=120)
        for part in ("console", "log"):
            if (level.endpoint, stem, part) not in self._followed:
                self._followed.add((level.endpoint, stem, part))
                i = level.endpoint.new_id(self._console_sink(f"{stem}.{part}"))
                level.endpoint.send(wire.FOLLOW, i, f"{RUN}/{stem}.{part}".encode())
        return int(level.sh(f"cat {RUN}/{stem}.pid"))

    def start_vm(self, name, wait=True, extra=()):
        vm = self[name]
        if vm.spec.role == "guest" and self.modules == "span":
            self.policy_used = self.policy()
            vm.host.put_bytes(json.dumps(self.policy_used).encode(), f"{RUN}/policy.json", 0o600)
        vm.connect(self.launch(vm.host, name, self._qemu_command(vm.spec) + list(extra)))
        if wait:
            self.wait_vm(name)
        return vm

    def wait_vm(self, name, timeout=200):
        """Wait for the agent inside, then load the modules of an L1."""
        vm = self[name]
        self.pump(lambda: vm.endpoint.hello or vm.lost, timeout, f"the boot of {name}")
        if vm.lost:
            raise MachineError(f"{name} did not boot: {vm.lost}; {vm.host.run(f'cat {RUN}/{name}.log')[1]}")
        if vm.spec.role == "l1":
            span = "span=1" if self._modules_of(vm.spec) == "span" else ""
            vm.run(f"cd /lib/modules; [ ! -f irqbypass.ko ] || insmod irqbypass.ko && insmod kvm.ko {span} && "
                   "insmod kvm-intel.ko && { [ ! -f span_port.ko ] || insmod span_port.ko; } && "
                   # Off by default on a machine as small as that.
                   "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled", timeout=100)
        if vm.spec.ooh:
            vm.run("cd /lib/modules; for m in zsmalloc lz4_compress lz4hc_compress zram; do "
                   "[ ! -f $m.ko ] || insmod $m.ko || exit 1; done; "
                   "insmod ooh.ko && echo madvise >/sys/kernel/mm/transparent_hugepage/enabled", timeout=60)
        self.log(f"{name} is up")
        return vm

    def wait_reboot(self, name, boots, timeout=200):
        """Wait until the level's agent has said hello more than boots times."""
        vm = self[name]
        self.pump(lambda: vm.endpoint.boots > boots or vm.lost, timeout, f"the reboot of {name}")
        return self.wait_vm(name)

    def kill_vm(self, name, signal="KILL"):
        """Signal the VM's QEMU process."""
        vm = self[name]
        vm.host.run(f"kill -{signal} {vm.pid}")
        if signal == "KILL":
            vm.host.run(f"while kill -0 {vm.pid} 2>/dev/null; do sleep 0.01; done")
            vm.disconnect("killed")
            vm.base.pid = None

    def restart_vm(self, name):
        vm = self[name]
        if vm.pid and not vm.host.lost:
            # Of a VM that is lost too, the QEMU may be there.
            vm.host.run(f"kill -9 {vm.pid} 2>/dev/null; while kill -0 {vm.pid} 2>/dev/null; do sleep 0.01; done")
        vm.disconnect("restarted")
        return self.start_vm(name)

    # Measuring and looking.
    def qmp(self, name, command, arguments=None, timeout=60):
        return self[name].qmp(command, arguments, timeout)

    def events(self, name):
        return self[name].events

    def wait_event(self, name, event, timeout=60, after=0):
        """The first event of that name with index >= after."""
        vm = self[name]

        def found():
            return next((e for e in vm.events[after:] if e["event"] == event), None)
        self.pump(found, timeout, f"{name}: event {event}")
        return found()

    def sleep(self, seconds):
        """Let seconds of guest time pass (busy: 12 CPU s each)."""
        self["L0"].run(f"sleep {seconds}", timeout=60 + 40 * seconds)

    def tsc(self):
        """L0's time stamp counter: the number of emulated instructions."""
        return self["L0"].request(wire.TSC)

    def exits(self, name):
        """VM exits of a VM so far, over its vCPUs."""
        out = self[name].host.sh(f"cat /sys/kernel/debug/kvm/{self[name].pid}-*/exits")
        return sum(int(x) for x in out.split())

    # Verdict.
    def suspects(self):
        """Lines of the levels' kernel logs that mean trouble."""
        found = []
        consoles = [f[:-len(".console")] for f in os.listdir(self.directory) if f.endswith(".console")]
        for name in [n for n in self.levels if n in consoles] + sorted(set(consoles) - set(self.levels)):
            path = self.path(f"{name}.console")
            with open(path, encoding="utf-8", errors="replace") as f:
                found += [f"{name}: {line.strip()}" for line in f if SUSPECT.search(line)]
        return found

    def report_of(self, suspect, lines=15):
        """The kernel log from that line of suspects() on."""
        name, _, text = suspect.partition(": ")
        tail = self.console_tail(name, None)
        at = max((i for i, line in enumerate(tail) if line.strip() == text), default=len(tail))
        return [f"{name}: {line}" for line in tail[at:at + lines]]

    def console_tail(self, name, lines=10):
        """The last lines of a level's console, as far as there is one."""
        try:
            with open(self.path(f"{name}.console"), encoding="utf-8", errors="replace") as f:
                return [line.rstrip() for line in f][-(lines or 0):]
        except OSError:
            return []

    def collect(self):
        """Kernel logs into the run's directory. Levels that are gone have their console."""
        for level in self.levels.values():
            if self.dead or level.lost or not level.endpoint or not level.endpoint.hello:
                continue
            try:
                with open(self.path(f"{level.name}.dmesg"), "w", encoding="utf-8") as f:
                    f.write(level.dmesg())
            except MachineError as e:
                self.log_line("collect.errors", str(e))

    def close(self):
        if self.bochs:
            self.log(f"{self.bochs.cpu():.0f} CPU s of emulator, {time.monotonic() - self._t0:.0f} s")
            self.bochs.close()
            self.bochs = None
        for f in self._files.values():
            f.close()
        self._files = {}
        for f in ("boot.iso", "L0.cpio"):
            if os.path.exists(self.path(f)):
                os.unlink(self.path(f))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
