"""What a broker remembers beside its queues: which ids were revoked, and the messages that died."""

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final

from taskq.clock import now
from taskq.wire.message import DeadLetter

FOREVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept, and for how many seconds (None: for ever); what is oldest makes room. The same on every broker.

    `dead_letters` and `revoked` count records; `announced` counts the messages of the bus that are kept for a slow listener.
    """

    dead_letters: int = 10_000
    dead_seconds: float | None = 604_800.0
    revoked: int = 50_000
    announced: int = 20_000

    @property
    def dead_since(self) -> float:
        """Dead letters from before this time (Unix seconds) are to be deleted."""
        return -FOREVER if self.dead_seconds is None else now() - self.dead_seconds


class KeptRecords:
    """Records in the memory of this process. Every method may be called from any thread."""

    def __init__(self, retention: Retention | None = None) -> None:
        self.retention = retention or Retention()
        self._lock = threading.Lock()
        self._dead: dict[str, DeadLetter] = {}
        self._revoked: dict[str, float] = {}

    def revoke(self, task_ids: Iterable[str], until: float) -> None:
        with self._lock:
            time = now()
            for task_id in task_ids:
                self._revoked[task_id] = max(until, self._revoked.get(task_id, until))
            kept = {task_id: end for task_id, end in self._revoked.items() if end > time}
            # Those that end first make room.
            surplus = len(kept) - self.retention.revoked
            for task_id in sorted(kept, key=kept.__getitem__)[: max(0, surplus)]:
                del kept[task_id]
            self._revoked = kept

    def revoked(self, task_ids: Iterable[str]) -> set[str]:
        with self._lock:
            time = now()
            return {task_id for task_id in task_ids if self._revoked.get(task_id, time) > time}

    def dead(self, limit: int) -> list[DeadLetter]:
        with self._lock:
            self._drop_old()
            letters = sorted(self._dead.values(), key=lambda letter: letter.at)
        return letters[::-1][:limit]

    def bury(self, letters: Iterable[DeadLetter]) -> None:
        with self._lock:
            self._dead.update((letter.id, letter) for letter in letters)
            self._drop_old()

    def revive(self, ids: Iterable[str]) -> list[DeadLetter]:
        with self._lock:
            return [self._dead.pop(key) for key in dict.fromkeys(ids) if key in self._dead]

    def _drop_old(self) -> None:
        since = self.retention.dead_since
        for key in [key for key, letter in self._dead.items() if letter.at < since]:
            del self._dead[key]
        surplus = max(0, len(self._dead) - self.retention.dead_letters)
        for key in list(islice(self._dead, surplus)):
            del self._dead[key]


class Records:
    """What was revoked, and what died. By default they lie in this process, and go with it."""

    @cached_property
    def kept(self) -> KeptRecords:
        """Where they lie by default: connections that set the same one share it."""
        return KeptRecords()

    async def revoke(self, task_ids: Sequence[str], until: float) -> None:
        """Remember these ids as revoked until a time (Unix seconds), or until a later one that they had already."""
        self.kept.revoke(task_ids, until)

    async def revoked(self, task_ids: Sequence[str]) -> Collection[str]:
        """Which of these ids are revoked now."""
        return self.kept.revoked(task_ids)

    async def dead(self, limit: int = 1000) -> Sequence[DeadLetter]:
        """The dead letters, newest first."""
        return self.kept.dead(limit)

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Put letters back into the dead-letter store (undo of `revive`)."""
        self.kept.bury(letters)

    async def revive(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """Take letters out of the dead-letter store, to publish them again or to drop them."""
        return self.kept.revive(ids)
