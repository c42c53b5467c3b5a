"""The wire between everybody and PostgreSQL: cut at a COMMIT, closed while the server is away."""

from __future__ import annotations

import socket
import threading
from collections import Counter, deque

from jobq.failure_modes.proxy import Cut, Proxy


class Wire(Proxy):
    """A proxy that outlives its server, and counts its cuts."""

    def __init__(self, url: str) -> None:
        self.cuts: Counter[Cut] = Counter()
        self._next = deque[Cut]()
        super().__init__(url)

    def cut(self, when: Cut) -> None:
        """Cut at the next COMMIT, or at one after it when a cut is waiting for that already."""
        if self._armed is None:
            super().cut(when)
        else:
            self._next.append(when)

    def disarm(self) -> None:
        self._next.clear()
        self._armed = None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._sockets = [one for one in self._sockets if one.fileno() != -1]
            self._sockets += [client, server]
            thread = threading.Thread(target=self._forward, args=(client, server), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _cut_at(self, when: Cut, sent: bytes, client: socket.socket, server: socket.socket) -> None:
        self.cuts[when] += 1
        super()._cut_at(when, sent, client, server)
        if self._next:
            self.cut(self._next.popleft())
