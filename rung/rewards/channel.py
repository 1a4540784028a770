"""Whole pickled messages over a socket, between processes that trust each other (all are ours)."""

from __future__ import annotations

import pickle
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

LENGTH = struct.Struct("<Q")
CHUNK = 1 << 20


class Channel:
    """`send` and `receive` block; `arrived` takes what is there and keeps half a message for the next time."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self.closed = False  # the other end is gone
        self._buffer = bytearray()

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: Any) -> None:
        body = pickle.dumps(message)
        self.socket.sendall(LENGTH.pack(len(body)) + body)

    def receive(self) -> Any:
        """The next message; EOFError when the other end is gone."""
        while True:
            for message in self._whole(1):
                return message
            if not self._read(0):
                raise EOFError

    def stirs(self, seconds: float) -> bool:
        """Whether something arrives, be it the end, within so many seconds."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def arrived(self) -> list[Any]:
        """The messages that have arrived in whole, without waiting."""
        while self._read(socket.MSG_DONTWAIT) == CHUNK:
            pass
        return list(self._whole())

    def _read(self, flags: int) -> int:
        try:
            data = self.socket.recv(CHUNK, flags)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        self.closed = self.closed or not data
        self._buffer += data
        return len(data)

    def _whole(self, most: int | None = None) -> Iterator[Any]:
        while most != 0 and len(self._buffer) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[LENGTH.size : end])
            del self._buffer[:end]
            most = None if most is None else most - 1
            yield pickle.loads(body)
