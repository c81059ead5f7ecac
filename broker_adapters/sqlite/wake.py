"""How processes that share a SQLite file wake each other: a Unix datagram socket per listener, beside the file.

It is a hint, never the truth: who listens also looks at the file every half second, so that a lost datagram, or
a file system without sockets, costs time and nothing else.
"""

import asyncio
import hashlib
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

#: The longest address of a Unix socket is 108 bytes on Linux, 104 elsewhere; names take up to 40.
LONGEST_FOLDER: Final = 60
#: A folder changed less than this many seconds ago may change again within the same tick of its time stamp.
TICK: Final = 0.1


def wake_folder(path: Path) -> Path:
    """Where the listeners to a file have their sockets."""
    real = os.path.realpath(path)
    if len(os.fsencode(real)) <= LONGEST_FOLDER:
        return Path(f"{real}-wake")
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"taskq-{digest}-wake")


class WakeSocket:
    """Calls `heard` on this event loop after someone has told the topic."""

    def __init__(self, folder: Path, topic: str, heard: Callable[[], object]) -> None:
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._path = folder / f"{topic}-{uuid.uuid4().hex[:20]}"
        with suppress(OSError):  # no sockets here, or no more of them: the regular look must do
            self._socket = own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            own.setblocking(False)
            folder.mkdir(exist_ok=True)
            own.bind(os.fspath(self._path))
            self._loop.add_reader(own, self._read, own)

    def close(self) -> None:
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _read(self, own: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                own.recv(16)
                self._heard()


class Announcer:
    """Tells the listeners to a topic."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._changed = -1
        self._names: list[str] = []

    def tell(self, topic: str) -> None:
        for name in self._listeners():
            if name.startswith(topic):
                self._send(self._folder / name)

    def close(self) -> None:
        self._socket.close()

    def _listeners(self) -> list[str]:
        try:
            changed = self._folder.stat().st_mtime_ns
            if changed != self._changed:
                settled = time.time() - changed / 1e9 > TICK
                self._names = os.listdir(self._folder)  # noqa: PTH208 - names are all that is needed
                self._changed = changed if settled else -1
        except OSError:  # nobody has listened yet
            return []
        return self._names

    def _send(self, path: Path) -> None:
        try:
            self._socket.sendto(b"!", os.fspath(path))
        except ConnectionRefusedError:  # its process died
            with suppress(OSError):  # of another user, in a folder with the sticky bit: it stays
                path.unlink(missing_ok=True)
        except OSError:  # it has just closed, or has more to read than it can hold: then it is awake
            return
