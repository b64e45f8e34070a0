# SPDX-License-Identifier: GPL-2.0
"""A VM's QEMU process as the host sees it: its monitor and the way to the agent
inside, both unix sockets on the level that QEMU runs on. A Span guest has one
controller on L0, its base, and may have one in each L1 that it can run on."""
import json

from . import wire
from .bochs import MachineError

RUN = "/run/span"


class AgentError(MachineError):
    """An agent could not do what it was asked."""


class QMPError(MachineError):
    def __init__(self, text, error):
        super().__init__(text)
        self.error = error


class Channel:
    """A unix socket on a level, both ways."""

    def __init__(self, level, path, on_data, on_end, timeout=20):
        self.level, self.closed = level, False
        self._on_data, self._on_end = on_data, on_end
        self._result = []
        self.id = level.endpoint.new_id(self._frame)
        level.endpoint.send(wire.CONNECT, self.id, path.encode())
        level.machine.pump(lambda: self._result, timeout, f"a connection to {path}")
        if self._result[0] is not True:
            raise AgentError(self._result[0])

    def _frame(self, kind, _flags, payload):
        if kind == wire.OK:
            self._result.append(True)
        elif kind == wire.ERROR:
            self._result.append(payload.decode(errors="replace"))
        elif kind == wire.DATA:
            self._on_data(payload)
        elif kind == wire.END:
            self.closed = True
            self.level.endpoint.forget(self.id)
            self._on_end()

    def send(self, data):
        # One piece each: the agent must not put a file's frame into the middle.
        for i in range(0, len(data), wire.MAXLEN):
            self.level.endpoint.send(wire.DATA, self.id, data[i:i + wire.MAXLEN])

    def close(self):
        if not self.closed:
            self.closed = True
            self.level.endpoint.send(wire.END, self.id)
            self.level.endpoint.forget(self.id)


class Controller:
    """One QEMU process of a VM. stem: of the names of its sockets and logs."""

    def __init__(self, machine, name, stem, level, events=None):
        self.machine, self.name, self.stem, self.level = machine, name, stem, level
        self.events = [] if events is None else events
        self.pid = None
        self.agent = self._qmp = None
        self._lines = bytearray()
        self._replies = {}

    def connect(self, on_data, on_end):
        """on_data gets what the agent in the VM sends; on_end is called when QEMU has ended."""
        self.agent = Channel(self.level, f"{RUN}/{self.stem}.agent", on_data, on_end)
        self._qmp = Channel(self.level, f"{RUN}/{self.stem}.qmp", self._qmp_data, lambda: None)
        self.qmp("qmp_capabilities")

    @property
    def ended(self):
        return not self._qmp or self._qmp.closed

    def disconnect(self):
        for c in (self.agent, self._qmp):
            if c:
                c.close()
        self.agent = self._qmp = None

    def _qmp_data(self, data):
        self._lines += data
        while b"\n" in self._lines:
            line, _, rest = bytes(self._lines).partition(b"\n")
            self._lines = bytearray(rest)
            try:
                msg = json.loads(line)
            except ValueError:
                continue
            self.machine.log_line(self.stem + ".qmp", line.decode(errors="replace"))
            if "event" in msg:
                self.events.append(msg)
            elif "id" in msg:
                self._replies[msg["id"]] = msg

    def qmp_raw(self, command, arguments=None, timeout=60):
        """The whole reply: {"return": ...} or {"error": ...}."""
        if not self._qmp or self._qmp.closed:
            raise MachineError(f"{self.name}: no QMP connection")
        i = f"q{next(wire.Endpoint._ids)}"
        msg = {"execute": command, "id": i}
        if arguments:
            msg["arguments"] = arguments
        self.machine.log_line(self.stem + ".qmp", "> " + json.dumps(msg))
        qmp = self._qmp
        qmp.send(json.dumps(msg).encode() + b"\n")
        self.machine.pump(lambda: i in self._replies or qmp.closed, timeout, f"{self.name}: QMP {command}")
        if i not in self._replies:
            raise MachineError(f"{self.name}: its QEMU ended during {command}")
        return self._replies.pop(i)

    def qmp(self, command, arguments=None, timeout=60):
        reply = self.qmp_raw(command, arguments, timeout)
        if "error" in reply:
            raise QMPError(f"{self.name}: {command}: {reply['error']['desc']}", reply["error"])
        return reply["return"]
