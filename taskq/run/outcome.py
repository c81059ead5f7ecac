"""What is to be done after a run: data alone. `taskq.run.decide` makes it, the worker's completer carries it out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import Any, NamedTuple, final

from taskq.canvas.signature import Signature
from taskq.run.ends import RunFacts
from taskq.wire.message import Delivery, Message
from taskq.wire.protocol import task_id_of
from taskq.wire.request import Request, WireSignature
from taskq.wire.result import TaskResult


class Settle(Enum):
    """How custody of a delivery ends."""

    ACK = "ack"
    REQUEUE = "requeue"
    REJECT = "reject"
    #: It ended before the run: the message was acknowledged early.
    DONE = "done"


@dataclass(slots=True)
class FollowUps:
    """What is to be sent after a run: messages, chords to begin before them and chords that have ended with them.

    `children` are the handles, in wire form, of what the run sends with it. So many of the messages, from the first on,
    are `announced` already: receivers of `before_task_publish` are told once.
    """

    messages: list[Message] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    children: list[Any] = field(default_factory=list)
    announced: int = 0

    def add(self, other: "FollowUps") -> None:
        """Take in another's."""
        self.messages += other.messages
        self.begun |= other.begun
        self.ended += other.ended
        self.children += other.children


@dataclass(slots=True, eq=False)
class ChordPart:
    """A result that returns to a chord: the chord's body, the part's place, the result, and the request it comes from."""

    body: WireSignature
    index: int | None
    result: TaskResult
    request: Request


class ErrbackCall(NamedTuple):
    """An errback of the new style, to be called here (wire-format.md 5.5)."""

    errback: Signature[Any]
    request: Request
    error: BaseException
    text: str | None


class News(NamedTuple):
    """What observers and users' hooks are told: the name of a method of `Observer`, and its arguments.

    `text` is the traceback, for hooks.
    """

    event: str
    about: tuple[Any, ...]
    text: str | None = None


class Problem(NamedTuple):
    """Something that went wrong beside the outcome: a line in the log."""

    text: str
    error: Exception


@dataclass(slots=True)
class Further:
    """More to be done with an outcome: for a chord that is complete, or for a message that can never be sent.

    `child` is the handle of a chord's body in wire form, for the children of the run that completed it.
    """

    follow: FollowUps = field(default_factory=FollowUps)
    results: list[TaskResult] = field(default_factory=list)
    parts: list[ChordPart] = field(default_factory=list)
    errbacks: list[ErrbackCall] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    child: list[Any] = field(default_factory=list)


@final
@dataclass(slots=True, eq=False)
class Outcome:
    """What remains to be done, in the order of these fields; whoever carries out a step takes it off.

    Attributes:
        delivery: what is settled at the end.
        parts: results that return to chords. What comes of a chord that is complete is added here.
        results: states to store.
        news: what observers are told once they are stored.
        hooks: the same for users' hooks and receivers, where there are any.
        errbacks: to be called here, then.
        postrun: the run whose `task_postrun` is sent after that, if it is.
        follow: what is to be sent; a broker that knows names of messages publishes it once (`Message.once`).
        unsendable: what no queue takes, with the reason: to the dead letters.
        settle, reason: how the delivery is settled; `reason` goes with a rejection.
        died: the run took its process with it, which counts as a death of its message.
        problems: what is to be logged.
    """

    delivery: Delivery
    results: Sequence[TaskResult] = ()
    follow: FollowUps | None = None
    settle: Settle = Settle.ACK
    reason: str = ""
    news: News | None = None
    hooks: News | None = None
    parts: Sequence[ChordPart] = ()
    errbacks: Sequence[ErrbackCall] = ()
    postrun: RunFacts | None = None
    unsendable: Sequence[tuple[Message, str]] = ()
    problems: Sequence[Problem] = ()
    died: bool = False

    @property
    def calls(self) -> bool:
        """Whether users' code is to be called here."""
        return self.hooks is not None or bool(self.errbacks) or self.postrun is not None

    def add(self, further: Further) -> None:
        """There is more to be done."""
        if further.follow.messages or further.follow.ended:
            self.follow = self.follow or FollowUps()
            self.follow.add(further.follow)
        self.results = [*self.results, *further.results]
        self.parts = [*self.parts, *further.parts]
        self.errbacks = [*self.errbacks, *further.errbacks]
        self.problems = [*self.problems, *further.problems]


# --- names against duplicates (`Message.once`): made here, so that no sender can take the name of another's ---


def once_name(*parts: object) -> str:
    """A name that only these parts lead to."""
    return blake2b(repr(parts).encode("utf-8", "backslashreplace"), digest_size=20).hexdigest()


def name_of(delivery: Delivery) -> str:
    """Names a delivery, the same each time it is delivered.

    Its serial alone would not do: on Redis it is what the sender says, and a message with the serial of another would
    silence what follows that. With the task's id, its retries and its body only a copy has the same name.
    """
    message = delivery.message
    about = (delivery.serial, delivery.queue, task_id_of(message), message.headers.get("retries"))
    return once_name(about, blake2b(message.body, digest_size=20).digest())
