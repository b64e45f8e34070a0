# SPDX-License-Identifier: GPL-2.0
"""Boot images: a cpio archive in the kernel's newc format, and the boot CD."""
import os
import shutil
import stat
import subprocess
import tempfile


class Cpio:
    """An initramfs, written file by file. Directories appear by themselves."""

    def __init__(self, path):
        self._f = open(path, "wb")
        self._ino = 0
        self._dirs = set()
        self.size = 0

    def _pad(self):
        n = -self._f.tell() % 4
        self._f.write(b"\0" * n)

    def _header(self, name, mode, size, rdev=(0, 0)):
        self._ino += 1
        raw = name.encode() + b"\0"
        fields = (self._ino, mode, 0, 0, 1, 0, size, 0, 0, rdev[0], rdev[1], len(raw), 0)
        self._f.write(b"070701" + b"".join(b"%08X" % v for v in fields) + raw)
        self._pad()

    def _parents(self, name):
        parent = os.path.dirname(name)
        if not parent or parent in self._dirs:
            return
        self._parents(parent)
        self._dirs.add(parent)
        self._header(parent, stat.S_IFDIR | 0o755, 0)

    def directory(self, name):
        self._parents(name.strip("/") + "/x")

    def device(self, name, major, minor):
        name = name.strip("/")
        self._parents(name)
        self._header(name, stat.S_IFCHR | 0o600, 0, (major, minor))

    def data(self, name, content, mode=0o644):
        name = name.strip("/")
        self._parents(name)
        self._header(name, stat.S_IFREG | mode, len(content))
        self._f.write(content)
        self._pad()

    def file(self, name, source, mode=None):
        name = name.strip("/")
        self._parents(name)
        st = os.stat(source)
        self._header(name, stat.S_IFREG | (mode or st.st_mode & 0o777), st.st_size)
        with open(source, "rb") as f:
            shutil.copyfileobj(f, self._f, 1 << 20)
        self._pad()

    def link(self, name, target):
        name = name.strip("/")
        self._parents(name)
        self._header(name, stat.S_IFLNK | 0o777, len(target))
        self._f.write(target.encode())
        self._pad()

    def tree(self, name, source):
        for where, dirs, files in os.walk(source):
            for f in sorted(files + [d for d in dirs if os.path.islink(os.path.join(where, d))]):
                path = os.path.join(where, f)
                there = os.path.join(name, os.path.relpath(path, source))
                if os.path.islink(path):
                    self.link(there, os.readlink(path))
                else:
                    self.file(there, path)

    def close(self):
        self._header("TRAILER!!!", 0, 0)
        self._f.write(b"\0" * (-self._f.tell() % 512))
        self.size = self._f.tell()
        self._f.close()


def boot_cd(path, kernel, initrd, cmdline):
    """An ISO image that boots kernel and initrd by isolinux."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as d:
        boot = os.path.join(d, "isolinux")
        os.mkdir(boot)
        for f in ("/usr/lib/ISOLINUX/isolinux.bin", "/usr/lib/syslinux/modules/bios/ldlinux.c32"):
            shutil.copy(f, boot)
        with open(os.path.join(boot, "isolinux.cfg"), "w", encoding="ascii") as f:
            f.write("DEFAULT l\nPROMPT 0\nTIMEOUT 0\nLABEL l\n KERNEL /vmlinuz\n"
                    f" INITRD /initrd\n APPEND {cmdline}\n")
        os.link(initrd, os.path.join(d, "initrd"))
        shutil.copy(kernel, os.path.join(d, "vmlinuz"))
        subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-o", path,
                        "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat",
                        "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", d],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
