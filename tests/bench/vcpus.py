# SPDX-License-Identifier: GPL-2.0
"""Transfers of vCPUs, interrupts and messages between hypervisors, and work on L0 and on an L1, with Span and without."""
import json
import statistics

from faults import NET, Talk
from kvmspan import transfer as tr
from kvmspan.controller import RUN
from kvmspan.machine import Machine
from kvmspan.span import wait_driver

MONITOR = f"{RUN}/guest.bench"
ROUNDS = 5
TURNS = 101
NUMBERS = 60000
MIXES = 20
WORK = ("quicksort", "mix")


def values(text):
    return {k: int(v) for k, v in (line.split() for line in text.splitlines())}


def work(level, exits):
    """Instructions of all levels, and exits to L0 while it worked, for each kind of work.

    On one CPU: the emulated machine has one, and a second vCPU that spins for what the first one
    has, while that waits for its turn, would be all that is seen."""
    level.run("echo 0 >/sys/devices/system/cpu/cpu1/online")
    result = {}
    # Faults of first touch are measured elsewhere.
    level.run("/tmp/guest-work touch 1", timeout=900)
    for kind, n in zip(WORK, (NUMBERS, MIXES)):
        before = exits()
        result[kind] = values(level.sh(f"/tmp/guest-work {kind} {n}", timeout=900))[kind]
        result[kind + "_exits"] = exits() - before
    return result


def pingpong(m, level):
    level.run(f"/tmp/guest-work pingpong {TURNS}", timeout=300)
    v = values(level.sh(f"/tmp/guest-work pingpong {TURNS}", timeout=300))
    m.log_line("pingpong", f"{level.name}: {v}")
    return v


def transfers(m, to):
    """Of both vCPUs to an L1 and back, several times: the figures of each way, and of a vCPU alone."""
    result = {}
    for way, vcpus in (("there", ""), ("back", ""), ("there1", "1"), ("back1", "1")):
        result[way] = {"tsc": [], "downtime": [], "bytes": []}
    for _ in range(ROUNDS):
        for way, vcpus in (("there", ""), ("back", ""), ("there1", "1"), ("back1", "1")):
            tr.quiet(m)
            out = m["L0"].sh(f"transfer-tsc {MONITOR} {to if 'there' in way else tr.BASE} {vcpus}", timeout=120)
            tr.follow(m)
            tsc, event = out.split(" ", 2)[1:]
            data = json.loads(event)["data"]
            result[way]["tsc"].append(int(tsc))
            result[way]["downtime"].append(data["downtime-us"])
            result[way]["bytes"].append(data["bytes"])
            m.sleep(0.02)
    return {way: {k: int(statistics.median(v)) for k, v in r.items()} for way, r in result.items()}


def stop_and_copy(m):
    """The same guest moved by QEMU's migration, stopped, to another QEMU on L0: milliseconds, bytes."""
    vm = m["single"]
    vm.spec.flags = "invtsc=off"                    # which QEMU does not migrate
    m.restart_vm("single")
    words = m._qemu_command(vm.spec)
    path = f"{RUN}/single.migration"
    m.launch(m["L0"], "target", [w.replace(f"{RUN}/single.", f"{RUN}/target.") for w in words] +
             ["-incoming", f"unix:{path}"])
    m["L0"].run(f"for i in $(seq 200); do [ -S {path} ] && exit 0; sleep 0.01; done; exit 1")
    vm.qmp("migrate-set-parameters", {"max-bandwidth": 1 << 40})
    vm.qmp("stop")
    vm.qmp("migrate", {"uri": f"unix:{path}"})
    for _ in range(200):
        info = vm.qmp("query-migrate")
        if info["status"] in ("completed", "failed"):
            break
        m.sleep(0.05)
    if info["status"] != "completed":
        raise RuntimeError(f"migration: {info}")
    m["L0"].run(f"kill -9 $(cat {RUN}/target.pid)")
    return info["total-time"], info["ram"]["transferred"]


def message_rows(m):
    """64 bytes from L1a to L0 and back: by the stream between controllers, and by UDP over virtio-net."""
    m["L0"].run("ip addr add 10.0.0.1/24 dev tap0 && ip link set tap0 up")
    m["L1a"].run("ip addr add 10.0.0.2/24 dev eth0 && ip link set eth0 up")
    server = m["L0"].spawn("udp-echo 7")
    m.sleep(0.3)
    rows = {"udp": int(m["L1a"].sh(f"udp-echo 10.0.0.1 7 {TURNS}"))}
    server.kill()
    base = Talk(m["L0"], f"exec span_port_channel --base {RUN}/L1a.port")
    base.line()
    wait_driver(m, "L1a", "attached")
    rows.update(values(m["L1a"].sh("span_port_channel --cost")))
    base.say("quit")
    wait_driver(m, "L1a", "detached")
    return rows


def exits_of(m, *names):
    return lambda: sum(m.exits(n) for n in names)


def plain_rows(m, program):
    """Without Span: on L0, and nested on L1a."""
    rows = {}
    m.start_vm("single")
    m["single"].put(program, "/tmp/guest-work", 0o755)
    rows["single"] = pingpong(m, m["single"])
    rows["single"].update(work(m["single"], exits_of(m, "single")))
    rows["migration_ms"], rows["migration_bytes"] = stop_and_copy(m)
    m.kill_vm("single")
    m.start_vm("L1a", extra=NET)
    rows["message"] = message_rows(m)
    m.start_vm("nested")
    m["nested"].put(program, "/tmp/guest-work", 0o755)
    rows["nested"] = pingpong(m, m["nested"])
    rows["nested"].update(work(m["nested"], exits_of(m, "L1a")))
    m.kill_vm("nested")
    return rows


def span_rows(m, program):
    rows = {}
    m.start_vm("guest", extra=["-qmp", f"unix:{MONITOR},server=on,wait=off"])
    tr.wait_tsc(m)
    m["guest"].put(program, "/tmp/guest-work", 0o755)
    m.start_vm("L1b")
    for on in ("L1a", "L1b"):
        tr.bring(m, on, "rw", rights=[])
        tr.start_peer(m, on)
        tr.wait_peer(m, on)
    rows["local"] = pingpong(m, m["guest"])
    rows["transfers"] = transfers(m, "L1a")
    tr.transfer(m, "L1a")
    rows["local1"] = pingpong(m, m["guest"])
    tr.transfer(m, "L0", [1])
    rows["remote"] = pingpong(m, m["guest"])        # vCPU 0 on L1a, 1 on L0
    tr.transfer(m, "L1b", [1])
    rows["remote_l1"] = pingpong(m, m["guest"])     # vCPU 0 on L1a, 1 on L1b
    tr.transfer(m, "L0")
    rows["span0"] = work(m["guest"], exits_of(m, "guest"))
    tr.transfer(m, "L1a")
    rows["span1"] = work(m["guest"], exits_of(m, "L1a"))
    tr.transfer(m, "L0")
    return rows


def add_all(figures, log, build):
    m = Machine("bench-vcpus", log=log)
    try:
        m.boot(vms=[])
        m["L0"].run("echo never >/sys/kernel/mm/transparent_hugepage/enabled")
        rows = plain_rows(m, build("guest-work"))
        rows.update(span_rows(m, build("guest-work")))
    finally:
        m.close()
    t = rows["transfers"]
    for way, label in (("there", "l0_to_l1"), ("back", "l1_to_l0")):
        figures.add(f"transfer_{label}", t[way]["tsc"], "instructions")
        figures.add(f"transfer_{label}_vcpu1", t[way + "1"]["tsc"], "instructions")
        figures.add(f"downtime_{label}_ms", t[way]["downtime"] / 1000, "ms", rows["migration_ms"])
        figures.add(f"downtime_{label}_vcpu1_ms", t[way + "1"]["downtime"] / 1000, "ms")
    figures.add("transfer_bytes", t["there"]["bytes"], "bytes", rows["migration_bytes"])
    figures.add("transfer_bytes_vcpu1", t["there1"]["bytes"], "bytes")
    figures.add("migration_stop_and_copy_ms", rows["migration_ms"], "ms")
    figures.add("seat_downtime_ms", max(t["there"]["downtime"], t["back"]["downtime"]) / 1000, "ms", most=10)
    for name, row, reference in (("ipi_span0", "local", "single"), ("ipi_span1", "local1", "nested")):
        figures.add(name, rows[row]["there"], "instructions", rows[reference]["there"])
    figures.add("ipi_remote_l1_to_l0", rows["remote"]["there"], "instructions", rows["local"]["there"])
    figures.add("ipi_remote_l0_to_l1", rows["remote"]["back"], "instructions", rows["local1"]["there"])
    figures.add("ipi_remote_l1_to_l1", rows["remote_l1"]["there"], "instructions", rows["local1"]["there"])
    for name, row in (("single", "single"), ("span0", "local"), ("nested", "nested"), ("span1", "local1"),
                      ("l0_l1", "remote"), ("l1_l1", "remote_l1")):
        figures.add(f"futex_pingpong_{name}", rows[row]["there"] + rows[row]["back"], "instructions")
    message = rows["message"]
    figures.add("message_vs_udp", message["round_trip"], "instructions", message["udp"], goal=0.17)
    figures.add("message_bytes_per_million", message["bytes_per_million"], "bytes")
    for name, row, reference, goal in (("span0_vs_single", "span0", "single", 1.005), ("span1_vs_nested", "span1", "nested", 1.01)):
        value, other = rows[row], rows[reference]
        for kind in WORK:
            figures.add(f"{name}_{kind}", value[kind], "instructions", other[kind], goal=goal)
            figures.add(f"{name}_{kind}_exits", value[kind + "_exits"], "exits", other[kind + "_exits"])
        figures.add(name, sum(value[k] for k in WORK), "instructions", sum(other[k] for k in WORK), goal=goal)
