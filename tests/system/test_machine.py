# SPDX-License-Identifier: GPL-2.0
"""The machine itself: what every other test stands on."""
import hashlib
import os
import tempfile

from kvmspan.cases import case, check, equal
from kvmspan.machine import MachineError, TimedOut


@case("machine/commands", topology="single", modules="stock", tags=("fast", "debug"))
def commands(m):
    l0 = m["L0"]
    equal(l0.run("exit 7", check=False)[0], 7, "exit status")
    equal(l0.run("kill -SEGV $$", check=False)[0], 128 + 11, "status after a signal")
    equal(l0.sh("echo out; echo err >&2"), "out\nerr", "both outputs")
    equal(l0.sh("sleep 100 & echo done"), "done", "a background child does not hold the command")
    p = l0.spawn("cat; echo end")
    p.input(b"x" * 5000)
    p.close_input()
    equal(p.wait(), (0, "x" * 5000 + "end\n"), "standard input")
    a, b = l0.spawn("sleep 0.2; echo a"), l0.spawn("echo b")
    equal(b.wait()[1] + a.wait()[1], "b\na\n", "two commands at once")


@case("machine/timeout-kills", topology="single", modules="stock", tags=("fast", "debug"))
def timeout_kills(m):
    try:
        m["L0"].run("while :; do :; done", timeout=3)
    except TimedOut:
        pass
    else:
        raise AssertionError("an endless loop came to an end")
    check("while" not in m["L0"].sh("ps | grep -v grep | grep 'while :' || true"), "the loop lives on")
    equal(m["L0"].sh("echo still here"), "still here", "L0 after a timeout")


def copy_there_and_back(level, size):
    with tempfile.TemporaryDirectory() as d:
        data = os.urandom(size)
        with open(os.path.join(d, "a"), "wb") as f:
            f.write(data)
        os.chmod(os.path.join(d, "a"), 0o750)
        level.put(os.path.join(d, "a"), "/tmp/copy")
        equal(level.sh("sha256sum </tmp/copy").split()[0], hashlib.sha256(data).hexdigest(), f"{size} bytes put")
        equal(level.sh("stat -c %a /tmp/copy"), "750", "mode")
        level.get("/tmp/copy", os.path.join(d, "b"))
        with open(os.path.join(d, "b"), "rb") as f:
            check(f.read() == data, f"{size} bytes came back changed")


@case("machine/files", topology="single", modules="stock", tags=("fast", "debug"))
def files(m):
    for size in (0, 1, 4096, 16385, 5000001):
        copy_there_and_back(m["L0"], size)
    try:
        m["L0"].get_bytes("/no/such/file")
    except MachineError as e:
        check("/no/such/file" in str(e), f"unclear error: {e}")
    else:
        raise AssertionError("a missing file could be read")


@case("machine/vm-commands-and-files", topology="nested", modules="stock")
def vm_files(m):
    vm = m["L1a"]
    equal(vm.sh("hostname"), "L1a", "hostname")
    for size in (10, 100001):
        copy_there_and_back(vm, size)
    equal(m.qmp("L1a", "query-status")["running"], True, "query-status")
    before = m.exits("L1a")
    tsc = m.tsc()
    vm.run("for i in $(seq 100); do cat /proc/uptime; done >/dev/null")
    check(m.tsc() - tsc > 1000000, "the TSC counts instructions")
    check(m.exits("L1a") > before, "exits are counted")


@case("machine/vm-crash-is-seen", topology="nested", modules="stock", fresh=True, expect=("L1a: .*",))
def vm_crash(m):
    # A machine of its own: with L1a the L2 that it ran is gone.
    vm = m["L1a"]
    before, boots = len(vm.events), vm.endpoint.boots
    p = vm.spawn("echo c >/proc/sysrq-trigger")
    m.wait_event("L1a", "RESET", after=before)
    m.wait_reboot("L1a", boots)
    try:
        p.wait(1)
    except MachineError as e:
        check("reset" in str(e), f"unclear error: {e}")
    else:
        raise AssertionError("a command outlived its kernel")
    with open(m.path("L1a.console"), encoding="utf-8", errors="replace") as f:
        check("sysrq" in f.read(), "the panic is in the console's log on the host")
    m.kill_vm("L1a")
    try:
        vm.run("true")
    except MachineError as e:
        check("killed" in str(e), f"unclear error: {e}")
    m.start_vm("L1a")
    equal(vm.sh("echo back"), "back", "after a restart")


@case("machine/verdict-reads-kernel-logs", topology="single", modules="stock", tags=("fast", "debug"),
      expect=("WARNING: planted",))
def verdict(m):
    """A warning in a kernel log is found; the runner fails a test that does not expect it."""
    before = len(m.suspects())
    m["L0"].run("echo '<4>WARNING: planted by a test' >/dev/kmsg; sleep 0.1")
    found = m.suspects()[before:]
    check(len(found) == 1 and "planted by a test" in found[0], f"suspects: {found}")
