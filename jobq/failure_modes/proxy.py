"""A wire to PostgreSQL that can be cut at COMMIT, before it arrives or after it was answered, or
held back from listeners."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url

from jobq.database.url import conninfo, parse_url
from jobq.failure_modes.transactions import WAIT_S

COMMIT = b"COMMIT\0"
LISTEN = b"LISTEN "


class Cut(Enum):
    """When the client loses its connection."""

    BEFORE_COMMIT = auto()
    """COMMIT never reaches the server."""
    AT_COMMIT = auto()
    """COMMIT is sent on to the server, and the client is gone before the answer."""
    AFTER_COMMIT = auto()
    """The server has committed and answered; the answer is lost."""


class Proxy:
    """Forwards to the server of `url`; cuts one connection, the next that sends COMMIT."""

    def __init__(self, url: str) -> None:
        server = conninfo_to_dict(conninfo(parse_url(url)))
        self._host, self._port = str(server["host"]), int(server.get("port") or 5432)
        self._armed: Cut | None = None
        self.has_cut = False
        self._is_holding = False
        self.held_bytes = 0
        """What the server said to listeners since `hold_listeners`."""
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        self.url = (
            make_url(url)
            .set(host="127.0.0.1", port=self._listener.getsockname()[1])
            .difference_update_query(["host"])
            .update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
            .render_as_string(hide_password=False)
        )

    def cut(self, when: Cut) -> None:
        """Arm the proxy: the next COMMIT is the last word of its connection."""
        self.has_cut = False
        self._armed = when

    def hold_listeners(self) -> None:
        """From now on nothing reaches a client that has sent LISTEN, and its connection stays
        open: what a firewall does that forgot it."""
        self._is_holding = True

    def cut_all(self) -> None:
        """Cut every connection there is; new ones are let through."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Let nobody connect from now on."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(WAIT_S)
        self._listener.close()

    def close(self) -> None:
        self.refuse()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "a thread of the proxy does not end"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self._connect()
            self._sockets += [client, server]
            thread = threading.Thread(target=self._forward, args=(client, server), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port), WAIT_S)
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        except OSError:
            server.close()
            raise
        return server

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        is_listener = False
        with client, server, suppress(OSError):
            while True:
                readable, _, _ = select.select([client, server], [], [])
                if server in readable:
                    if not (answer := server.recv(65536)):
                        return
                    if is_listener and self._is_holding:
                        self.held_bytes += len(answer)
                    else:
                        client.sendall(answer)
                if client in readable:
                    if not (sent := client.recv(65536)):
                        return
                    is_listener = is_listener or LISTEN in sent
                    if self._armed is not None and COMMIT in sent:
                        self._cut_at(self._armed, sent, client, server)
                        return
                    server.sendall(sent)

    def _cut_at(self, when: Cut, sent: bytes, client: socket.socket, server: socket.socket) -> None:
        self._armed = None
        self.has_cut = True
        if when is Cut.BEFORE_COMMIT:
            return
        server.sendall(sent)
        if when is Cut.AT_COMMIT:
            client.close()
        server.recv(65536)


@contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
