"""The control directory: whose it has to be, and what is in it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from executors import ConfigurationError
from executors._control.client import collect
from executors._control.directory import app_key, default_directory, find_servers, prepared, remove_stale


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_directory_is_created_for_the_user_alone(folder: Path) -> None:
    """Missing parents are created, too. A directory that exists can be used again."""
    path = prepared(folder / "a" / "b")
    assert path.stat().st_mode & 0o777 == 0o700
    assert prepared(path) == path


def test_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the user's runtime directory, or has the user's number."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert default_directory() == Path("/run/user/7/quart-executors")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_directory() == Path(f"/tmp/quart-executors-{os.geteuid()}")


@pytest.mark.parametrize("mode", [0o750, 0o777, 0o1777])
def test_directory_that_others_can_read_or_write_is_refused(mode: int, folder: Path) -> None:
    """Also clients refuse it: the sockets there could be somebody else's."""
    folder.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        prepared(folder)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        collect(folder, "status")


def test_symbolic_link_and_file_are_refused(folder: Path) -> None:
    """Whoever made the link can change where it leads."""
    (folder / "target").mkdir(mode=0o700)
    (folder / "link").symlink_to("target")
    (folder / "file").touch()
    with pytest.raises(ConfigurationError, match="symbolic link"):
        prepared(folder / "link")
    with pytest.raises(ConfigurationError, match=r"can't be created|not a directory"):
        prepared(folder / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user_is_refused(folder: Path) -> None:
    """Its owner could read and replace the sockets."""
    os.chown(folder, 12345, -1)
    with pytest.raises(ConfigurationError, match="another user"):
        prepared(folder)


def test_long_path_is_refused(folder: Path) -> None:
    """The path of a socket is limited to about a hundred bytes."""
    with pytest.raises(ConfigurationError, match="too long"):
        prepared(folder / ("x" * 80))


def test_names_of_apps_are_told_apart() -> None:
    """Names that are long, or have characters that no file name should have, get a digest."""
    keys = [app_key(name) for name in ("shop", "shop.app:executor", "shop.app.executor", "../../etc", "a" * 50, "ü")]
    assert keys[0] == "shop"
    assert len(set(keys)) == len(keys)
    assert all("/" not in key and "." not in key for key in keys)


def test_stale_sockets_are_removed(folder: Path) -> None:
    """A socket on which nobody listens is removed; one with a busy process and files of other names are not."""
    with listening(folder / "shop.1.0"), listening(folder / "shop.2.0") as ended:
        ended.close()
        (folder / "notes").touch()
        assert [server.pid for server in find_servers(folder, "shop")] == [1, 2]
        assert find_servers(folder, "other") == []
        remove_stale(folder)
        assert sorted(os.listdir(folder)) == ["notes", "shop.1.0"]
        assert collect(folder, "status", timeout=0.1) == [
            {"pid": 1, "server": 1, "error": "the server process doesn't answer"}
        ]
