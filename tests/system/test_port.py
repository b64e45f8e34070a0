# SPDX-License-Identifier: GPL-2.0
"""The L1's end: the driver of the span-port and the programs that use it."""
import contextlib
import json

from kvmspan import ktap
from kvmspan.cases import case, check, equal

TOPOLOGY = "two-l1"
DEV = "/dev/span0"


def attach(m, name, access):
    m.qmp("guest", "span-attach", {"guest": "span0", "name": name, "port": f"/run/span/{name}.port", "access": access})
    m[name].run(f"spanctl wait {DEV} --attached --timeout 10")


def detach(m, name):
    return m.qmp("guest", "span-detach", {"guest": "span0", "name": name})


def end(m, name):
    """Detach it if it is attached; the machine is shared with other tests."""
    if any(p["name"] == name for s in m.qmp("guest", "query-span") for p in s["members"]):
        detach(m, name)
        m[name].run(f"spanctl wait {DEV} --detached --timeout 10")


@contextlib.contextmanager
def attached(m, name, access="rw"):
    end(m, name)
    attach(m, name, access)
    try:
        yield m[name]
    finally:
        if not m[name].lost:
            end(m, name)


def status(level, command, timeout=60):
    return level.run(command, timeout=timeout, check=False)


@case("mem/port-tool", topology=TOPOLOGY, tags=("fast", "debug"), timeout=200)
def port_tool(m):
    l1 = m["L1a"]
    end(m, "L1a")
    equal(status(l1, f"spanctl read {DEV} 0 16")[0], 3, "reading while detached")
    equal(status(l1, f"spanctl wait {DEV} --attached --timeout 0.1")[0], 4, "a wait that ends by its timeout")
    equal(json.loads(l1.sh("spanctl --json list"))[0]["attached"], False, "list while detached")
    watch = l1.spawn(f"spanctl follow {DEV} --count 3 --timeout 60")
    m.pump(lambda: "}" in watch.text() or watch.done, 30, "the first line of follow")
    with attached(m, "L1a"):
        info = json.loads(l1.sh(f"spanctl --json info {DEV}"))
        equal((info["access"], info["bytes"]), ("rw", m["guest"].spec.memory << 20), "access and size")
        text = "written by L1a and read there again"
        l1.run(f"printf '%s' '{text}' >/tmp/t && spanctl write {DEV} 0x5000 @/tmp/t")
        equal(l1.sh(f"spanctl read {DEV} 0x5000 {len(text)} -o -"), text, "what was written")
        # the same by the window's pages and by a mapping of another process
        equal(json.loads(l1.sh(f"spanctl --json scan {DEV} '{text}' -c 1"))["offsets"], [0x5000], "offsets of it")
        l1.run(f"spanctl ping {DEV} -c 100 >/tmp/pings && [ $(wc -l </tmp/pings) = 100 ]")
        equal(status(l1, f"spanctl read {DEV} {info['bytes']} 1")[0], 2, "reading behind the end")
    rc, out = watch.wait(60)
    equal((rc, [json.loads(line)["access"] for line in out.splitlines()]), (0, ["none", "rw", "none"]), "watch")


@case("mem/port-asks-to-be-detached", topology=TOPOLOGY, tags=("fast", "debug"), timeout=200)
def port_asks(m):
    with attached(m, "L1a") as l1:
        before = len(m.events("guest"))
        l1.run(f"spanctl detach {DEV} --timeout 20")
        equal(l1.sh("cat /sys/class/span_port/span0/access"), "none", "access")
        m.wait_event("guest", "SPAN_DETACHED", 20, after=before)


@case("mem/port-reload", topology=TOPOLOGY, tags=("fast", "debug"), timeout=200)
def port_reload(m):
    """The module goes while a guest is attached and finds it again when it comes back."""
    with attached(m, "L1a") as l1:
        holder = l1.spawn(f"exec 3<{DEV}; echo open; exec sleep 1000")
        m.pump(lambda: "open" in holder.text() or holder.done, 30, "the open file")
        check(status(l1, "rmmod span_port")[0] != 0, "the module went from under an open file")
        holder.kill()
        holder.wait(30)
        before = l1.sh(f"spanctl read {DEV} 0 65536 -o - | sha256sum")
        for _ in range(3):
            l1.run("rmmod span_port && [ ! -e /dev/span0 ] && insmod /lib/modules/span_port.ko")
        equal(json.loads(l1.sh(f"spanctl --json info {DEV}"))["access"], "rw", "access after the reload")
        equal(l1.sh(f"spanctl read {DEV} 0 65536 -o - | sha256sum"), before, "the first 64 KiB")
        l1.run(f"spanctl ping {DEV} -c 10")


@case("mem/port-unbind", topology=TOPOLOGY, tags=("fast", "debug"), timeout=200)
def port_unbind(m):
    """The PCI function is taken away with files and mappings open: SIGBUS and ENODEV, no more."""
    with attached(m, "L1a") as l1:
        p = l1.spawn("span_port_dev --after-detach")
        m.pump(lambda: "READY" in p.text() or p.done, 60, "the program's mappings")
        function = l1.sh("basename $(readlink -f /sys/class/span_port/span0/device)")
        l1.run(f"echo {function} >/sys/bus/pci/drivers/span_port/unbind")
        rc, out = p.wait(60)
        l1.run(f"echo {function} >/sys/bus/pci/drivers/span_port/bind")
        l1.run(f"spanctl read {DEV} 0 16")
    return ktap.Output(out[out.index("TAP version"):] if "TAP version" in out else out, rc)


@case("mem/span-ps", topology=TOPOLOGY, tags=("fast",), timeout=400)
def span_ps(m):
    """The guest's processes from raw memory, one of which its own ps does not show."""
    guest = m["guest"]
    guest.run("mkdir -p /tmp/empty")
    hidden, shown = (int(guest.sh(f"sleep {n} </dev/null >/dev/null 2>&1 & echo $!")) for n in (7777, 8888))
    guest.run(f"mount --bind /tmp/empty /proc/{hidden}")
    ps = guest.sh("ps -o pid,ppid,comm")
    try:
        with attached(m, "L1b", "ro") as l1:
            l1.put_bytes((ps + "\n").encode(), "/tmp/ps")
            rc, out = status(l1, f"span-ps --json --verify --hidden-from /tmp/ps {DEV} 2>/tmp/err", 300)
            equal((rc, l1.sh("cat /tmp/err").split()[:1]), (0, ["verified:"]), "exit status and message")
    finally:
        guest.run(f"umount /proc/{hidden}; kill {hidden} {shown}", check=False)
    compare(json.loads(out), ps, hidden, shown)


def compare(found, ps, hidden, shown):
    by_pid = {p["pid"]: p for p in found["processes"]}
    check(found["consistent"], "the list was not consistent")
    equal(by_pid[hidden]["args"], "sleep 7777", "command line of the hidden process")
    check(by_pid[hidden]["hidden"], "it is not marked as hidden")
    check(not by_pid[shown]["hidden"], "a process that ps shows is marked as hidden")
    lines = [line.split(None, 2) for line in ps.splitlines()[1:]]
    # ps itself and its shell are gone by now
    lasting = [(int(a), int(b), c) for a, b, c in lines if int(a) in by_pid]
    check(len(lasting) >= len(lines) - 3, f"of {len(lines)} processes in ps only {len(lasting)} were found")
    for pid, ppid, comm in lasting:
        name = by_pid[pid]["comm"]
        # the guest's /proc appends to a kworker's name what it works at
        equal((by_pid[pid]["ppid"], name), (ppid, comm[:len(name)] if name.startswith("kworker/") else comm),
              f"process {pid}")
