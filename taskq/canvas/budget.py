"""What one run may send, checked before it is built: a small message can name very many tasks."""

from dataclasses import dataclass
from typing import Any

from taskq.canvas.shapes import chain, chord, group
from taskq.canvas.signature import Signature
from taskq.errors import EncodeError
from taskq.wire.message import Message
from taskq.wire.request import Request

#: For each message that may be sent, so many signatures (callbacks, errbacks, later steps) may stand in all of them.
_HELD_EACH = 10


@dataclass(slots=True)
class Budget:
    """What a run may still send: callbacks, the next step of a chain, errbacks, bodies of chords, replacements."""

    messages: int
    size: int

    def require(self, signature: Signature[Any]) -> None:
        """Look at a canvas that is to be sent. Raises EncodeError if it is too much."""
        if type(signature) is Signature and self.messages:  # nearly always
            return
        if _sent(signature) > self.messages or _held(signature, 0) > self.messages * _HELD_EACH:
            raise EncodeError(
                f"refused: a run may send {self.messages} messages more, with {_HELD_EACH} times as many callbacks "
                "and later steps in them (max_sent_messages)"
            )

    def take(self, message: Message) -> None:
        """Count a message that was built. Raises EncodeError if it is one too many."""
        self.messages -= 1
        self.size -= len(message.body)
        if self.messages < 0 or self.size < 0:
            raise EncodeError(
                "refused: what the run sends is more than max_sent_messages or max_sent_bytes allow"
            )


def budget_of(request: Request, messages: int, size: int) -> Budget:
    """The budget of a run, the same for all that follows it; at first so many messages and bytes."""
    if request.budget is None:
        request.budget = Budget(messages, size)
    found: Budget = request.budget
    return found


def _sent(signature: Signature[Any]) -> int:
    """How many messages begin a canvas."""
    if isinstance(signature, group):
        return sum(map(_sent, signature.tasks))
    if isinstance(signature, chain):
        return _sent(signature.tasks[0]) if signature.tasks else 0
    if isinstance(signature, chord):
        return max(1, _sent(signature.header))
    return 1


def _held(signature: Signature[Any], shared: int) -> int:
    """How many signatures these messages hold: what is linked to a canvas is linked to each of its parts."""
    own = shared + sum(_length(signature.options.get(name)) for name in ("link", "link_error", "chain"))
    if isinstance(signature, group | chain):
        return sum(_held(task, own) for task in signature.tasks)
    if isinstance(signature, chord):
        body = 0 if signature.body is None else _held(signature.body, own)
        return _held(signature.header, own) + body
    return 1 + own


def _length(links: object) -> int:
    return len(links) if isinstance(links, list | tuple) else int(links is not None)
