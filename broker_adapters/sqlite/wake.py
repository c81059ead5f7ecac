"""How processes that share a SQLite file wake each other: a Unix datagram socket per listener, beside the file.

It is a hint, never the truth: who listens also looks at the file every half second, so that a lost datagram, or
a file system without sockets, costs time and nothing else.
"""

import asyncio
import hashlib
import os
import socket
import stat
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
    """Where the listeners to a file have their sockets: beside it, or in our runtime folder where that is too long."""
    real = os.path.realpath(path)
    if len(os.fsencode(real)) <= LONGEST_FOLDER:
        return Path(f"{real}-wake")
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    return runtime_folder() / f"{digest}-wake"


def runtime_folder() -> Path:
    """A folder of this user alone for what does not outlast processes."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given and len(given) < LONGEST_FOLDER and is_ours(Path(given)):
        return Path(given, "taskq")
    return Path(tempfile.gettempdir(), f"taskq-{os.geteuid()}")


def is_ours(folder: Path) -> bool:
    """Whether it is a folder, no link to one, of this user, into which nobody else may write."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def make_ours(folder: Path) -> None:
    """Make the folder where it is missing, for this user alone.

    Raises:
        OSError: somebody else has made it, or may write there.
    """
    if folder.parent == runtime_folder():
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        if not is_ours(folder.parent):
            raise PermissionError(f"{folder.parent} is not ours alone")
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_ours(folder):
        raise PermissionError(f"{folder} is not ours alone")


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
            make_ours(folder)
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
                if not is_ours(self._folder):  # what is said there, anybody hears, and may be a trap
                    return []
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
            with suppress(OSError):
                if stat.S_ISSOCK(path.lstat().st_mode):
                    path.unlink()
        except OSError:  # it has just closed, or has more to read than it can hold: then it is awake
            return
