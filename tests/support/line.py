"""A TCP line between two machines that can be cut and mended; both ends are on this one."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

CHUNK = 1 << 16


class Line:
    """Passes everything on to a port, with `old` bytes replaced by as many `new` ones on the way.

    The replacement does what a router does that translates addresses.
    """

    def __init__(self, target: int, old: bytes = b"", new: bytes = b"") -> None:
        assert len(old) == len(new)
        self._target, self._old, self._new = target, old, new
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._whole = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection; new ones are closed as soon as they are made."""
        with self._lock:
            self._whole = False
            gone, self._open = self._open, set()
        for sock in gone:
            _end(sock)

    def mend(self) -> None:
        """From now on connections pass again."""
        with self._lock:
            self._whole = True

    def close(self) -> None:
        """For good."""
        self.cut()
        _end(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 5)
                far.settimeout(None)
            except OSError:
                _end(near)
                continue
            with self._lock:
                whole = self._whole
                if whole:
                    self._open |= {near, far}
            if not whole:
                _end(near)
                _end(far)
                continue
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                sink.sendall(data.replace(self._old, self._new) if self._old else data)
        with self._lock:
            self._open -= {source, sink}
        _end(source)
        _end(sink)


def _end(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
