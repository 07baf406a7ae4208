"""A port that swallows connections, as a host that was unplugged does."""

from __future__ import annotations

import contextlib
import socket

_FILLERS = 4


class BlackHole:
    """Takes SYNs on a port and answers none, while it is open: its queue is full and nobody accepts (Linux)."""

    def __init__(self, host: str, port: int) -> None:
        """Raises OSError when the port cannot be had."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sockets = [socket.socket(family, socket.SOCK_STREAM)]
        listener = self._sockets[0]
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(0)
            for _ in range(_FILLERS):
                filler = socket.socket(family, socket.SOCK_STREAM)
                self._sockets.append(filler)
                filler.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    filler.connect((host, port))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        while self._sockets:
            self._sockets.pop().close()
