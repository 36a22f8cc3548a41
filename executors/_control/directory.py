"""The directory of the control sockets: the user's own, with one socket for each executor of each server process.

Whoever may connect to a socket may see and cancel tasks. The directory alone keeps other users out: not every system
checks the mode of a socket.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from executors.errors import ConfigurationError

logger = logging.getLogger("executors")

SUPPORTED = hasattr(socket, "AF_UNIX") and hasattr(os, "geteuid")
"""Windows has neither."""

MAX_PATH = 100
"""The maximum length of a socket's path in bytes: Linux allows 107, macOS 103."""

MAX_APP, DIGEST_SIZE = 12, 3
_MAX_NAME = MAX_APP + 1 + 2 * DIGEST_SIZE + len(".4194304.999.new")

_NAME = re.compile(r"(?P<app>[A-Za-z0-9_-]+)\.(?P<pid>[0-9]{1,10})\.(?P<number>[0-9]{1,9})")


class Server(NamedTuple):
    """A control socket.

    Attributes:
        path: Where it is.
        app: The name of the executor's app, as `app_key` returns it.
        pid: The id of the server process.
    """

    path: Path
    app: str
    pid: int


def default_directory() -> Path:
    """Return the directory that is used in debug mode, and by clients that were given none."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime, "quart-executors") if runtime else Path("/tmp", f"quart-executors-{os.geteuid()}")  # noqa: S108


def usable_default_directory() -> str | None:
    """Return the default directory; None if it can't be used, which is logged: nobody has asked for it."""
    if not SUPPORTED:
        return None
    try:
        return str(prepared(default_directory()))
    except ConfigurationError as error:
        logger.warning("`executors top` can't see this server process: %s", error)
        return None


def prepared(directory: Path) -> Path:
    """Create the directory if there is none, and check it.

    Returns:
        Its absolute path.

    Raises:
        ConfigurationError: It can't be created, isn't the user's own, or its path is too long.
    """
    if not SUPPORTED:
        raise ConfigurationError("the control socket needs a POSIX system, which Windows isn't")
    directory = directory.absolute()
    if len(os.fsencode(directory)) + 1 + _MAX_NAME > MAX_PATH:
        raise ConfigurationError(
            f"the path of the control directory {str(directory)!r} is too long for a socket in it: use one of at "
            f"most {MAX_PATH - 1 - _MAX_NAME} bytes"
        )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the control directory {str(directory)!r} can't be created: {error}") from None
    check(directory)
    return directory


def check(directory: Path) -> None:
    """Check that nobody else can create, replace or reach a socket in the directory.

    Raises:
        ConfigurationError: Somebody can, or there is no such directory.
    """
    try:
        status = directory.lstat()
    except OSError as error:
        raise ConfigurationError(f"the control directory {str(directory)!r} can't be used: {error}") from None
    reason = None
    if not stat.S_ISDIR(status.st_mode):
        reason = "it is a symbolic link" if stat.S_ISLNK(status.st_mode) else "it is not a directory"
    elif status.st_uid != os.geteuid():
        reason = "it belongs to another user"
    elif status.st_mode & 0o077:
        reason = f"its mode is {stat.S_IMODE(status.st_mode):o}: run `chmod 700` on it"
    if reason is not None:
        raise ConfigurationError(
            f"the control directory {str(directory)!r} is refused: {reason}. It must be a directory of the user that "
            "runs the server, which no other user can read or write"
        )


def app_key(app: str) -> str:
    """Return the form of an app's name that is part of the names of its sockets."""
    key = re.sub(r"[^A-Za-z0-9_-]", "_", app)[:MAX_APP]
    if key == app:
        return key
    digest = hashlib.blake2b(app.encode(errors="surrogateescape"), digest_size=DIGEST_SIZE).hexdigest()
    return f"{key}-{digest}"


def find_servers(directory: Path, app: str | None = None) -> list[Server]:
    """Return the sockets in a directory, by process id; also those of servers that have been killed.

    Args:
        directory: The directory. It need not exist.
        app: The name of the app whose sockets are meant; None for those of all apps.

    Raises:
        ConfigurationError: The directory isn't the user's own.
    """
    if not SUPPORTED or not os.path.lexists(directory):
        return []
    check(directory)
    matches = filter(None, map(_NAME.fullmatch, os.listdir(directory)))
    found = [
        Server(directory / match[0], match["app"], int(match["pid"]))
        for match in matches
        if app is None or match["app"] in {app, app_key(app)}
    ]
    return sorted(found, key=lambda server: (server.pid, server.path.name))


def is_live(path: Path) -> bool:
    """Return whether a process listens on a socket, even if it is busy."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def remove_stale(folder: Path) -> None:
    """Remove the sockets of servers that have been killed."""
    for server in find_servers(folder):
        if not is_live(server.path):
            remove(server.path)


def remove(path: Path) -> None:
    """Remove a socket, if it is still there."""
    with suppress(OSError):
        path.unlink()
