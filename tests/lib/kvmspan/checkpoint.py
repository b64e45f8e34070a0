# SPDX-License-Identifier: GPL-2.0
"""Redis in a VM, dumped by CRIU step by step (topology criu)."""
import struct

from . import torture
from .cases import check, equal

IMAGES = "/tmp/images"
PAGE = 4096
MODULES = "inet_diag unix_diag tcp_diag udp_diag raw_diag netlink_diag"


def prepare(vm):
    vm.run(f"ip link set lo up; mkdir -p /tmp; for m in {MODULES}; do "
           "[ -e /sys/module/$m ] || insmod /lib/modules/$m.ko || exit 1; done; "
           "[ -e /sys/module/ooh ] || insmod /lib/modules/ooh.ko; "
           f"killall -9 redis-benchmark redis-server criu 2>/dev/null; usleep 100000; rm -rf {IMAGES} /tmp/redis; "
           f"mkdir -p {IMAGES} /tmp/redis")


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7f) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            return value, at


def pagemap(data):
    """(pages of its own, pages that its parent has) of a pagemap image: two magic numbers, a head, entries of protobuf."""
    at = 8
    own = parent = 0
    first = True
    while at < len(data):
        size, = struct.unpack_from("<I", data, at)
        at += 4
        end = at + size
        fields = {}
        while at < end:
            key, at = varint(data, at)
            check(key & 7 == 0, "a pagemap image has only numbers")
            fields[key >> 3], at = varint(data, at)
        if not first:
            pages = fields.get(5) or fields[2]
            # in_parent, or PE_PARENT of flags
            if fields.get(3) or fields.get(4, 0) & 1:
                parent += pages
            else:
                own += pages
        first = False
    return own, parent


class Redis:
    def __init__(self, vm, keys):
        self.vm, self.n = vm, 0
        prepare(vm)
        vm.run("cd /tmp/redis && setsid redis-server --port 0 --unixsocket /tmp/redis/s --save '' --appendonly no --daemonize yes "
               "--enable-debug-command yes --logfile /tmp/redis/log --pidfile /tmp/redis/pid --dir /tmp/redis </dev/null")
        vm.run("for i in 1 2 3 4 5 6 7 8 9; do redis-cli -s /tmp/redis/s ping | grep -q PONG && exit 0; usleep 100000; done; exit 1")
        self.pid = int(vm.sh("cat /tmp/redis/pid"))
        self.fill("key", keys)

    def ask(self, words):
        return self.vm.sh(f"redis-cli -s /tmp/redis/s {words}", timeout=120)

    def fill(self, prefix, keys, size=300):
        equal(self.ask(f"debug populate {keys} {prefix} {size}"), "OK", "DEBUG POPULATE")

    def load(self):
        """Somebody who writes all the time."""
        return self.vm.spawn("exec redis-benchmark -s /tmp/redis/s -t set -r 2000 -n 1000000000 -d 200 -c 3 -q >/dev/null 2>&1")

    def criu(self, action, options="", parent=None, directory=None, wrong=False):
        """The next dump; its directory. parent: the number of it; default: the last one."""
        self.n += 1
        where = directory or f"{IMAGES}/{self.n}"
        parent = self.n - 1 if parent is None else parent
        prev = f"--prev-images-dir {IMAGES}/{parent}" if parent else ""
        # --prev-images-dir is relative to the images.
        prev = prev.replace(IMAGES, "..") if not directory else prev.replace(IMAGES, "../images")
        rc, out = self.vm.run(f"mkdir -p {where} && criu {action} -t {self.pid} -D {where} {prev} {options} --track-mem -v4 -o log "
                              f"--manage-cgroups=ignore; rc=$?; [ $rc = 0 ] || tail -n 15 {where}/log; exit $rc",
                              timeout=200, check=False)
        check((rc != 0) == wrong, f"criu {action} {options}: status {rc}: {out}")
        return where

    def pages(self, where):
        own, parent = pagemap(self.vm.get_bytes(f"{where}/pagemap-{self.pid}.img"))
        size = sum(int(n) for n in self.vm.sh(f"stat -c %s {where}/pages-*.img").split())
        check(size >= own * PAGE, f"{own} pages of the pagemap, but {size} bytes of them")
        return own, parent

    def full_dump(self, name):
        """All its memory, without a parent; it stays stopped. The directory."""
        where = f"{IMAGES}/{name}"
        self.vm.run(f"mkdir {where} && criu dump -t {self.pid} -D {where} --leave-stopped -v4 -o log --manage-cgroups=ignore || "
                    f"{{ tail -n 15 {where}/log; exit 1; }}", timeout=200)
        return where

    def same(self, one, other):
        """The memory is the same in both dumps, holes looked up in their parents; its pages."""
        rc, out = self.vm.run(f"{torture.put(self.vm, 'same-pages')} {self.pid} {one} {other}", timeout=100, check=False)
        check(rc == 0, f"pages of {one} and {other}, and how many are not the same: {out}")
        return int(out.split()[0])

    def restore(self, where):
        """After a dump that left it stopped: that has the same in each page as a dump of everything. On with it, its digest; killed,
        restored; the same memory again, and the same digest. How many pages there are."""
        full = self.full_dump("full")
        pages = self.same(where, full)
        self.vm.run(f"kill -CONT {self.pid}")
        digest, size = self.ask("debug digest"), self.ask("dbsize")
        self.vm.run(f"kill -9 {self.pid}; i=0; while [ -d /proc/{self.pid} ]; do usleep 10000; i=$((i+1)); [ $i -lt 500 ] || exit 1; done")
        self.vm.run(f"criu restore -d -s -D {where} -v4 -o rlog --manage-cgroups=ignore || {{ tail -n 15 {where}/rlog; exit 1; }}",
                    timeout=200)
        self.same(full, self.full_dump("restored"))
        self.vm.run(f"kill -CONT {self.pid}")
        equal(self.ask("dbsize"), size, "keys after the restore")
        equal(self.ask("debug digest"), digest, "the digest after the restore")
        equal(self.ask("set alive yes"), "OK", "a SET after the restore")
        return pages
