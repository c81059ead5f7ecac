"""Chords without a store: the parts of each wait in a box of the broker (`taskq.seams.broker.Boxes`).

What is in a box is a log. Its records are the beginning with the size, a task that the chord grows by, and a part with
its result; nothing is taken out until the chord has ended. The part whose record completes the log completes the
chord: whoever reads comes to the same part, so nobody has to agree with anybody. Its run is not acked before the chord
has ended, so when its worker dies, it runs again, joins again, and is the one again. To read, one has to hold the box;
who holds it longer, because it completes the chord, has the claim.

Hints stand before all records and spare the reading: one is put before the beginning (without it, the chord has not
begun) and one after it (with it, it has), and one before each failure. So a look at the first three messages tells
whether the log has to be read; from then on the number of messages does.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

from taskq.errors import ConnectionLost, OperationalError, StoreError
from taskq.seams.broker import Boxes, Hold
from taskq.seams.store import CHORD_CLAIM, TaskResult
from taskq.states import SUCCESS
from taskq.wire.message import Message
from taskq.wire.serializers import Serializer

log = logging.getLogger("taskq.amqp")

#: Where a message says what it is.
_KIND: Final = "taskq"
#: Hints with their priorities.
_BEGINNING, _BEGUN, _FAILED = "beginning", "begun", "failed"
_URGENCY: Final = {_BEGINNING: 2, _BEGUN: 2, _FAILED: 1}
#: Records.
_BEGIN, _GROW, _PART = "begin", "grow", "part"

#: How many messages tell whether and how a chord has begun; as many stand before its parts, or among them.
_HINTS: Final = 3
#: As many messages are read at once where it is not known how many it takes.
_FEW: Final = 20
#: Seconds between two looks at a box that somebody holds: most are read, or sealed, within milliseconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
#: Seconds that ending a chord may take, and between the tries of one whose box is out of reach: a day in all.
_END_WITHIN: Final = 2.0
_END_PAUSES: Final = (1, 5, 15, *[60] * 30, *[600] * 140)
#: The most chords of which something is remembered.
_REMEMBERED: Final = 10_000


class BoxLog:
    """What the messages of a box come to, added in their order."""

    def __init__(self) -> None:
        self.messages = 0
        self.completer: str | None = None
        self._size: int | None = None
        self._parts: dict[str, Message] = {}
        self._grown: set[str] = set()
        self._failed = False

    def add(self, message: Message) -> None:
        headers = message.headers
        self.messages += 1
        kind = kind_of(message)
        if kind == _BEGIN and self._size is None:
            self._size = headers["size"]
        elif kind == _GROW:
            self._grown.add(headers["task"])
        elif kind == _PART:
            self._add_part(name_of(message), message)

    def _add_part(self, name: str, message: Message) -> None:
        if name not in self._parts:  # else it came twice, and counts as it came first
            self._parts[name] = message
            self._failed |= message.headers["state"] != SUCCESS
        if self.completer is None and self.missing == 0:
            self.completer = name

    @property
    def missing(self) -> int | None:
        """How many parts the chord still lacks; None: it has not begun."""
        if self._size is None:
            return None
        return 0 if self._failed else max(0, self._size + len(self._grown) - len(self._parts))

    def parts(self) -> list[Message]:
        """Those that have returned, in the order of their places."""
        return sorted(self._parts.values(), key=lambda part: part.headers.get("place", float("inf")))


def kind_of(message: Message | None) -> Any:
    """Which of the hints and records it is."""
    return None if message is None else message.headers.get(_KIND)


def name_of(part: Message) -> str:
    """What tells a part from the others of its chord."""
    return f"{part.headers['task']}:{part.headers.get('place')}"


class BoxedChord:
    """What this process knows of one chord."""

    def __init__(self, boxes: Boxes, box: str) -> None:
        self.box = box
        self._boxes = boxes
        self._turn = asyncio.Lock()  # one of us at a time is enough
        #: How many records we have put in, and how many of them are known to complete nothing.
        self._put = self._settled = 0
        #: The number of messages below which it is not complete, unless it has failed; None: not known.
        self._need: int | None = None
        self._completer: str | None = None
        self._claim: Hold | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._releasing: asyncio.Task[None] | None = None

    async def put(self, messages: Sequence[Message], *, make: bool = False) -> bool:
        """Add to the log; False: the chord has ended."""
        return await self._boxes.put(self.box, messages, make=make)

    async def join(self, record: Message) -> BoxLog | None:
        """Add a part; the log, if that completes it: it is claimed then."""
        failed = record.headers["state"] != SUCCESS
        # Whoever sees the failure sees the hint.
        if not await self.put([_message(_FAILED), record] if failed else [record], make=failed):
            return None
        self._put += 1
        number = self._put
        async with self._turn:
            if number <= self._settled and not failed:
                return None
            last = self._put
            log = await self._completed(record, failed=failed)
            if log is None and self._completer is None:
                self._settled = last
        return log

    async def end(self) -> None:
        """It is over: what was in the box goes, what comes later is ignored."""
        await self._boxes.seal(self.box, self._unclaimed())

    async def release(self) -> None:
        """Let others complete it."""
        if (hold := self._unclaimed()) is not None:
            await hold.release()
        if self._releasing is not None:
            await self._releasing

    async def _completed(self, record: Message, *, failed: bool) -> BoxLog | None:
        name, pause = name_of(record), _FIRST_PAUSE
        while self._completer in {None, name} and (seen := await self._boxes.look(self.box)) is not None:
            count, held = seen
            if not held:
                # Without messages the chord has ended, for ours is gone.
                if not count or (count < (self._need or 0) and not failed):
                    return None
                glance = self._need is None and count > _FEW and not failed
                hold = await self._boxes.hold(self.box, _HINTS if glance else 0)
                if hold is not None and not glance:
                    return await self._read(hold, record, count)
                if hold is not None and not await self._glance(hold):
                    return None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return None

    async def _glance(self, hold: Hold) -> bool:
        """Get to know how many messages it takes; False: the chord has not begun, or has ended."""
        try:
            first, second, third = [await hold.next() for _ in range(_HINTS)]
        finally:
            await hold.release()
        if second is None or third is None or kind_of(first) != _BEGINNING:
            return False
        # Where it is just beginning, or has failed, the log has to be read.
        counts = kind_of(second) == _BEGUN and kind_of(third) != _FAILED
        self._need = second.headers["size"] + _HINTS if counts else 0
        return True

    async def _read(self, hold: Hold, record: Message, count: int) -> BoxLog | None:
        """The log, if this record completes it; there are so many messages, ours among them."""
        completes = False
        try:
            log = await read_log(hold, record, count)
            self._need = None if log.missing is None else log.messages + log.missing
            self._completer = log.completer
            completes = log.completer == name_of(record)
        finally:
            if not completes:
                await hold.release()
        if not completes:
            return None
        self._unclaimed()  # a former claim ended with its connection: else there was nothing to hold
        self._claim = hold
        self._timer = asyncio.get_running_loop().call_later(CHORD_CLAIM, self._lapse)
        return log

    def _lapse(self) -> None:
        if (hold := self._unclaimed()) is not None:
            self._releasing = asyncio.ensure_future(hold.release())

    def _unclaimed(self) -> Hold | None:
        """End the claim, if there is one; what it held is the caller's to release."""
        if self._timer is not None:
            self._timer.cancel()
        hold, self._claim = self._claim, None
        return hold


class Chords:
    """The chord methods of `taskq.seams.store.ResultStore`; `space` is what the names of boxes begin with."""

    def __init__(self, boxes: Boxes, serializer: Serializer, space: str) -> None:
        self._boxes = boxes
        self._serializer = serializer
        self._space = space
        self._known: dict[str, BoxedChord] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Give back what is claimed."""
        for task in self._ending:
            task.cancel()
        for chord in self._known.values():
            await chord.release()
        self._known.clear()

    async def begin(self, sizes: Mapping[str, int]) -> None:
        with _store_errors("begin chords"):
            for group_id, size in sizes.items():
                beginning = [_message(kind, size=size) for kind in (_BEGINNING, _BEGIN, _BEGUN)]
                await self._chord(group_id).put(beginning, make=True)

    async def grow(self, group_id: str, task_id: str) -> None:
        with _store_errors("add to a chord"):
            await self._chord(group_id).put([_message(_GROW, task=task_id)])

    async def join(self, part: TaskResult, index: int | None) -> Sequence[TaskResult] | None:
        with _store_errors("join a chord"):
            log = await self._chord(str(part.group_id)).join(self._record(part, index))
        return None if log is None else [self._result(message) for message in log.parts()]

    async def end(self, group_ids: Iterable[str]) -> None:
        with _store_errors("end chords"):
            for group_id in group_ids:
                chord = self._chord(group_id)
                try:
                    async with asyncio.timeout(_END_WITHIN):
                        await chord.end()
                except ConnectionLost:
                    raise
                except (OperationalError, TimeoutError) as error:
                    # The node of the box is away, or frozen: others do not wait for it.
                    log.warning("the box of chord %s is closed later: %r", group_id, error)
                    task = asyncio.create_task(_end_later(chord))
                    self._ending.add(task)
                    task.add_done_callback(self._ending.discard)
                self._known.pop(chord.box, None)

    def _chord(self, group_id: str) -> BoxedChord:
        box = f"{self._space}.chord.{group_id}"
        chord = self._known.pop(box) if box in self._known else BoxedChord(self._boxes, box)
        self._known[box] = chord  # last, so that the first is the one that was used least lately
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return chord

    def _record(self, part: TaskResult, index: int | None) -> Message:
        place = {} if index is None else {"place": index}
        record = _message(_PART, task=part.task_id, state=part.state, **place)
        record.body = self._serializer.dumps(part.payload())
        record.content_type = self._serializer.content_type
        record.content_encoding = self._serializer.content_encoding
        return record

    def _result(self, record: Message) -> TaskResult:
        return TaskResult.from_payload(self._serializer.loads(record.body))


async def _end_later(chord: BoxedChord) -> None:
    for pause in _END_PAUSES:
        await asyncio.sleep(pause)
        try:
            await chord.end()
        except OperationalError as error:
            log.info("the box %s cannot be closed yet: %s", chord.box, error)
        else:
            return


def _message(kind: str, **headers: Any) -> Message:
    return Message({_KIND: kind, **headers}, b"", correlation_id=uuid4().hex, priority=_URGENCY.get(kind, 0))


async def read_log(hold: Hold, record: Message, count: int) -> BoxLog:
    """Read so many messages and this record, or less where less will do.

    Nothing, if the chord has not begun: who returns after the beginning will see this record. Nor if it has ended.
    """
    log, ours = BoxLog(), False
    while not ours or (log.messages < count and log.completer is None):
        message = await hold.next()
        if message is None or (not log.messages and kind_of(message) != _BEGINNING):
            return BoxLog()
        log.add(message)
        ours = ours or message.correlation_id == record.correlation_id
    return log


@contextmanager
def _store_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise StoreError(f"could not {what}: {error}") from error
