# SPDX-License-Identifier: GPL-2.0
"""The control protocol with a port that lies (fakeport.c on L0 in the place of an
L1's QEMU): whatever it does, the base answers within its deadline, with an error that
says what happened, goes on, and the port has nothing of the guest's memory."""
import os
import subprocess

from kvmspan import paths
from kvmspan.cases import case, check, equal
from kvmspan.machine import RUN, MachineError
from kvmspan.span import Memory, attach, bring, detach, info, must_fail, settle, take

TWO = {"topology": "two-l1"}
PORT = f"{RUN}/fake.port"


def install(m):
    source = os.path.join(paths.TOP, "tests", "system", "fakeport.c")
    binary = paths.build("tests", "fakeport")
    os.makedirs(os.path.dirname(binary), exist_ok=True)
    subprocess.run(["gcc", "-O1", "-Wall", "-static", "-I", os.path.join(paths.TOP, "kvm-span", "include", "uapi"),
                    "-o", binary, source], check=True)
    m["L0"].put(binary, "/tmp/fakeport", 0o755)


class FakePort:
    def __init__(self, m, mode):
        self.m, self.mode = m, mode
        self.p = m["L0"].spawn(f"exec /tmp/fakeport {PORT} {mode}")
        self.wait_for("ready")

    def wait_for(self, word, timeout=60):
        self.m.pump(lambda: word in self.p.text() or self.p.done, timeout, f"fakeport {self.mode}: {word}")
        if word not in self.p.text():
            raise MachineError(f"fakeport {self.mode} ended: {self.p.text()}")

    def end(self):
        self.p.kill()
        self.p.wait()


def uptime(m):
    return float(m["L0"].sh("cut -d' ' -f1 /proc/uptime"))


@case("mem/lying-port-is-not-attached", tags=("fast", "debug"), timeout=300, **TWO)
def not_attached(m):
    """No capability is left to a port that does not do what it was offered."""
    settle(m)
    install(m)
    for mode, words in (("silent", "did not answer within 300 ms"), ("close", "closed the connection"),
                        ("garbage", "does not speak the protocol"), ("half", "did not answer within 300 ms"),
                        ("liar", "accepted but did not join"), ("refuse", "refused: go away"),
                        ("other-size", "accepted something else"), ("other-access", "accepted something else")):
        port = FakePort(m, mode)
        before = uptime(m)
        must_fail(lambda: attach(m, "L1b", "ro", timeout_ms=300, port=PORT), "L1b", words)
        check(uptime(m) - before < 1.0, f"attach to a port that is {mode} took {uptime(m) - before} s")
        equal(info(m)["members"], [], f"members after {mode}")
        if mode.startswith("other"):
            port.wait_for("SIGBUS")     # it had joined and mapped: now it has nothing
        port.end()
    # The name is free again, and the base well.
    bring(m, "L1b", "ro")
    take(m, "L1b")


@case("mem/lying-port-is-cut-off", tags=("fast", "debug"), timeout=300, **TWO)
def cut_off(m):
    """A port that joined, and then breaks the protocol or goes away, loses the memory at once."""
    settle(m)
    install(m)
    for mode, reason in (("rubbish-later", "protocol"), ("leave", "left")):
        port = FakePort(m, mode)
        events = len(m.events("guest"))
        attach(m, "L1b", "ro", port=PORT)
        e = m.wait_event("guest", "SPAN_PEER_LOST", after=events)
        equal((e["data"]["name"], e["data"]["reason"]), ("L1b", reason), f"the event after {mode}")
        equal(info(m)["members"], [], f"members after {mode}")
        if mode != "leave":
            port.wait_for("SIGBUS")
        port.end()
    # It goes on and on asking to be detached: one request is served, the flood ends it.
    port = FakePort(m, "flood")
    events = len(m.events("guest"))
    attach(m, "L1b", "ro", port=PORT)
    e = m.wait_event("guest", "SPAN_DETACHED", after=events)
    equal((e["data"]["name"], e["data"]["forced"]), ("L1b", True), "the event after a flood")
    port.wait_for("SIGBUS")
    port.end()
    equal(m["guest"].sh("echo alive"), "alive", "the guest")


@case("mem/lying-port-does-not-let-go", tags=("fast", "debug"), timeout=300, **TWO)
def does_not_let_go(m):
    """It ignores DETACH and keeps its mapping: the kernel has cut it off when detach answers."""
    settle(m)
    install(m)
    port = FakePort(m, "stay")
    attach(m, "L1b", "ro", port=PORT)
    equal([x["state"] for x in info(m)["members"]], ["attached"], "state")
    check("SIGBUS" not in port.p.text(), "the mapping works while attached")
    bring(m, "L1a", "rw")
    before = uptime(m)
    result = detach(m, "L1b", timeout_ms=300)
    equal(result, {"forced": True, "acknowledged": False}, "the result")
    check(uptime(m) - before < 1.0, f"a detach with a deadline of 0.3 s took {uptime(m) - before} s")
    port.wait_for("SIGBUS")
    port.end()
    equal(len(Memory(m["L1a"]).read(4096, 8)), 8, "L1a's window")
    take(m, "L1a")
