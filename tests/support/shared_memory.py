"""Another process that shares memory with the test's, and checks of that memory."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import executors
from executors._wire.leases import Leases
from executors._wire.segments import Placed, Segments

_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(executors.__file__).parents[1])}

_PROGRAM = """
import pickle, socket, sys
from executors._wire.leases import Leases
from executors._wire.segments import Segments

sock, leases, segments = socket.socket(fileno=int(sys.argv[1])), Leases(), Segments(2**30)
while True:
    data, fds, _, _ = socket.recv_fds(sock, 65536, 1)
    if not data:
        break
    placed, free = pickle.loads(data)
    segments.free(free)
    parts = leases.lease(placed, *fds or [None])
    answer = segments.place(parts)
    del parts
    fds = [] if answer.fd is None else [answer.fd]
    socket.send_fds(sock, [pickle.dumps((answer, leases.released()))], fds)
"""
"""Sends back what it is sent, through segments of its own."""


def mapped() -> int:
    """The number of segments mapped by this process (Linux)."""
    return Path("/proc/self/maps").read_text().count("memfd:executors-segment")


def output_of(program: str) -> list[str]:
    """Run a program, which must succeed, in its own process, and return the words that it prints."""
    command = [sys.executable, "-c", dedent(program)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=_ENVIRONMENT).stdout.split()


class Echo:
    """Another process that sends back what it is sent."""

    def __init__(self) -> None:
        self.sock, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=_ENVIRONMENT)
        self.segments = Segments(2**30)
        self.leases = Leases()

    def send(self, parts: list[Any]) -> Placed:
        """Send a payload."""
        placed = self.segments.place(parts)
        assert placed is not None
        data = pickle.dumps((placed, self.leases.released()))
        socket.send_fds(self.sock, [data], [] if placed.fd is None else [placed.fd])
        return placed

    def receive(self) -> tuple[Placed, list[memoryview]]:
        """Wait for the answer."""
        data, fds, _, _ = socket.recv_fds(self.sock, 65536, 1)
        placed, free = pickle.loads(data)
        self.segments.free(free)
        return placed, self.leases.lease(placed, *fds or [None])

    def close(self) -> None:
        """Wait for the process to end, and close both sides here."""
        self.sock.close()
        self.process.wait()
        self.segments.close()
        self.leases.close()
