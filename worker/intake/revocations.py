"""What this worker was told is revoked: the broker remembers it for all, this for what is in our hands now."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taskq.wire.request import Request

#: The most that is remembered here; the oldest makes room.
MOST = 50_000


def keys_of(request: Request) -> list[str]:
    """By what a task may be revoked: its id, and each of its stamps."""
    if not request.stamps:
        return [request.id]
    return [request.id, *stamp_keys(request.stamps)]


def stamp_keys(stamps: Mapping[str, Any]) -> list[str]:
    """Names under which stamps are revoked, beside the ids: `stamp:tenant=acme`."""
    keys = []
    for header, value in stamps.items():
        values = value if isinstance(value, list | tuple | set) else [value]
        keys += [f"stamp:{header}={one}" for one in values]
    return [key.encode("utf-8", "backslashreplace").decode() for key in keys]


class Revocations:
    """Ids and stamps, in the order they were revoked."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}

    def add(self, keys: Iterable[str]) -> None:
        """These are revoked from now on."""
        for key in keys:
            self._known.pop(key, None)
            self._known[key] = None
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]

    def have(self, keys: Sequence[str]) -> bool:
        """Whether one of these is revoked."""
        return any(key in self._known for key in keys)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def ids(self) -> list[str]:
        """The revoked task ids."""
        return [key for key in self._known if not key.startswith("stamp:")]
