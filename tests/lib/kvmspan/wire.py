# SPDX-License-Identifier: GPL-2.0
"""The host's side of the agent protocol (tests/machine/agent.c)."""
import itertools
import struct

(EXEC, INPUT, KILL, PUT, GET, CONNECT, SENDFILE, FOLLOW, DISKPUT, DISKGET,
 PING, TSC) = range(1, 13)
DATA, END = 32, 33
HELLO, OK, EXIT, ERROR = range(64, 68)

HEADER = struct.Struct("<2sBBII")
MAXLEN = 65536
CHUNK = 16384


class Endpoint:
    """Frames over one byte stream. Knows nothing of what carries the bytes."""

    _ids = itertools.count(1)  # one sequence for all: ids are never reused

    def __init__(self, send):
        self._send = send
        self._in = bytearray()
        self._handlers = {}
        self.hello = None
        self.boots = 0         # HELLOs seen
        self.received = 0      # bytes

    def new_id(self, handler):
        i = next(self._ids)
        self._handlers[i] = handler
        return i

    def forget(self, i):
        self._handlers.pop(i, None)

    def send(self, kind, i, payload=b"", flags=0):
        self._send(HEADER.pack(b"KS", kind, flags, i, len(payload)) + payload)

    def feed(self, data):
        buf = self._in
        self.received += len(data)
        buf += data
        while True:
            at = buf.find(b"KS")
            if at < 0:
                del buf[:max(0, len(buf) - 1)]
                return
            if len(buf) - at < HEADER.size:
                return
            _, kind, flags, i, length = HEADER.unpack_from(buf, at)
            if length > MAXLEN:
                del buf[:at + 2]
                continue
            end = at + HEADER.size + length
            if len(buf) < end:
                return
            payload = bytes(buf[at + HEADER.size:end])
            del buf[:end]
            self._dispatch(kind, flags, i, payload)

    def _dispatch(self, kind, flags, i, payload):
        if kind == HELLO:
            # A second one: the level was reset, nothing asked before is answered.
            for h in list(self._handlers.values()) if self.hello else ():
                h(ERROR, 0, b"the level was reset")
            self.hello = payload.decode()
            self.boots += 1
            return
        handler = self._handlers.get(i)
        if handler:
            handler(kind, flags, payload)
