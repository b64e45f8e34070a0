# SPDX-License-Identifier: GPL-2.0
"""One emulator process: com1 to a file, com2 to a socket, a shared disk.

Time only passes while somebody waits for the machine: the process is stopped
(SIGSTOP) in between. All deadlines are in CPU seconds of the emulator, so a
busy host makes a test slower but does not make it fail.
"""
import os
import select
import signal
import socket
import subprocess

from . import paths

MAILBOX_BYTES = 63 * 16 * 512 * 520  # 256 MiB, whole cylinders
RC = """\
display_library: nogui
vga: realtime=0
megs: {memory}
romimage: file={bochs}/bios.bin
vgaromimage: file={bochs}/vgabios.bin
cpu: model=corei7_icelake_u, count={cpus}, ips=20000000, quantum=32, reset_on_triple_fault=0, ignore_bad_msrs=1{features}
clock: sync=none, time0=946681200
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
boot: cdrom
ata0-master: type=cdrom, path={iso}, status=inserted
ata0-slave: type=disk, mode=flat, path={mailbox}, cylinders=520, heads=16, spt=63
com1: enabled=1, mode=file, dev={console}
com2: enabled=1, mode=socket-client, dev=localhost:{port}
log: {directory}/bochs.log
panic: action=report
error: action=ignore
info: action=report
debug: action=ignore
pci: enabled=1, chipset=i440fx
"""
_TICK = os.sysconf("SC_CLK_TCK")


class MachineError(Exception):
    """The machine or a level of it does not work."""


class Bochs:
    def __init__(self, directory, iso, memory, cpus, features=None):
        self.directory = directory
        self.console = os.path.join(directory, "L0.console")
        self.mailbox = os.path.join(directory, "mailbox.img")
        self._out = bytearray()
        self._proc = self._sock = None
        self._cpu = 0.0
        bochs = paths.build("bochs")
        if not os.path.exists(os.path.join(bochs, "bochs")):
            raise MachineError("there is no build/bochs/bochs: run 'make bochs'")
        with open(self.mailbox, "wb") as f:
            f.truncate(MAILBOX_BYTES)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            listener.settimeout(30)
            rc = os.path.join(directory, "bochsrc")
            with open(rc, "w", encoding="utf-8") as f:
                f.write(RC.format(memory=memory, cpus=cpus, bochs=bochs, iso=iso,
                                  features=f', add_features="{features}"' if features else "",
                                  mailbox=self.mailbox, console=self.console,
                                  port=listener.getsockname()[1], directory=directory))
            with open(os.path.join(directory, "bochs.out"), "wb") as out:
                # The emulator must not outlive us, stopped and unseen.
                self._proc = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", os.path.join(bochs, "bochs"), "-q", "-f", rc],
                    stdin=subprocess.DEVNULL,
                    stdout=out, stderr=subprocess.STDOUT, cwd=directory,
                    env=dict(os.environ, BXSHARE=bochs, TERM="dumb",
                             BX_SAVE_DIR=os.path.join(directory, "save")))
            try:
                self._sock, _ = listener.accept()
            except OSError as e:
                self.close()
                raise MachineError(f"the emulator did not connect ({e}), see {directory}/bochs.out") from e
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def pid(self):
        return self._proc.pid

    def alive(self):
        return self._proc is not None and self._proc.poll() is None

    def cpu(self):
        """CPU seconds used so far."""
        try:
            with open(f"/proc/{self._proc.pid}/stat", encoding="ascii") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            self._cpu = (int(fields[11]) + int(fields[12])) / _TICK
        except (OSError, IndexError):
            pass  # it has ended: keep what we saw last
        return self._cpu

    def send(self, data):
        self._out += data

    def run(self):
        self._signal(signal.SIGCONT)

    def stop(self):
        self._signal(signal.SIGSTOP)

    def _signal(self, number):
        if self.alive():
            self._proc.send_signal(number)

    def exchange(self, wait=0.2, extra=()):
        """Send what is due; return (bytes that came in, extra fds that are ready)."""
        ready, writable, _ = select.select([self._sock, *extra],
                                           [self._sock] if self._out else [], [], wait)
        if writable:
            try:
                del self._out[:self._sock.send(self._out)]
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
        data = b""
        if self._sock in ready:
            try:
                data = self._sock.recv(65536)
                # Bochs sends single bytes: do not let a late ACK hold them back.
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            except (BlockingIOError, ConnectionResetError):
                pass
        return data, [f for f in ready if f is not self._sock]

    def mailbox_write(self, source, offset=0):
        """Copy a host file into the shared disk; returns its size."""
        size = os.path.getsize(source)
        if offset + size > MAILBOX_BYTES:
            raise MachineError(f"{source}: {size} bytes do not fit the mailbox")
        with open(source, "rb") as f, open(self.mailbox, "r+b") as box:
            box.seek(offset)
            while True:
                block = f.read(1 << 20)
                if not block:
                    return size
                box.write(block)

    def mailbox_read(self, target, size, offset=0):
        with open(self.mailbox, "rb") as box, open(target, "wb") as f:
            box.seek(offset)
            while size:
                block = box.read(min(size, 1 << 20))
                f.write(block)
                size -= len(block)

    def close(self):
        if self._sock:
            self._sock.close()
        if self.alive():
            self._proc.kill()
        if self._proc:
            self._proc.wait()
        for f in (self.mailbox, self.mailbox + ".lock"):
            if os.path.exists(f):
                os.unlink(f)
