"""From a canvas to the tasks that are sent first, with everything that follows attached to them. Pure.

`frozen` gives every part its id, `lowered` the plain signatures to send, `result_tuple` the handles' wire form.
What is to happen at the *end* of a canvas (its place in a group, the chord it belongs to, the rest of an outer
chain) stands in its options and moves on to the part that ends it: the last step of a chain, the body of a chord.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from taskq.canvas import chain, chord, group
from taskq.errors import ConfigError
from taskq.message import Message
from taskq.results import AsyncResult, GroupResult
from taskq.signature import Signature, as_signatures, new_id

#: Options that belong to the end of a canvas.
_END = ("group_id", "group_index", "chord", "link")
#: Options of a canvas that its parts do not inherit.
_OWN = frozenset((*_END, "task_id", "chain", "link_error"))


class Prepared(NamedTuple):
    """A signature made ready: messages to publish, the handle of its result, and chords to begin before that."""

    messages: list[Message]
    result: AsyncResult[Any] | GroupResult[Any]
    chords: Mapping[str, int]


@dataclass(slots=True)
class Lowered:
    """What to send, in order; `chords` are to be begun before that: group id -> how many parts will return."""

    signatures: list[Signature[Any]] = field(default_factory=list)
    chords: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Lowered") -> None:
        """Take in another's."""
        self.signatures += other.signatures
        self.chords |= other.chords


# --- ids ----------------------------------------------------------------------------------------------------


def frozen(signature: Signature[Any], reply_to: str) -> Signature[Any]:
    """A copy in which every task, group and chord has its id, so that a caller knows all of them in advance.

    `reply_to` goes with it for later steps: their results are answered to the caller, not to a worker.
    """
    if isinstance(signature, chain):
        return _frozen_chain(signature, reply_to)
    if isinstance(signature, group):
        return _frozen_group(signature, reply_to)
    if isinstance(signature, chord):
        return _frozen_chord(signature, reply_to)
    options = {"task_id": new_id(), "reply_to": reply_to, **_given(signature.options)}
    return signature.replaced(options=options)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _frozen_chain(signature: "chain[Any]", reply_to: str) -> Signature[Any]:
    errbacks = as_signatures(signature.options.get("link_error"))
    steps = [step.link_error(*errbacks) for step in signature.tasks] if errbacks else list(signature.tasks)
    if steps and signature.options.get("task_id"):
        last = steps[-1]
        steps[-1] = last.replaced(options={"task_id": signature.options["task_id"], **last.options})
    steps = [frozen(step, reply_to) for step in steps]
    options = {**signature.options}
    if steps:
        options["task_id"] = steps[-1].options["task_id"]
    return signature.replaced(tasks=tuple(steps), options=options)


def _frozen_group(signature: "group[Any]", reply_to: str) -> Signature[Any]:
    group_id = signature.options.get("task_id") or new_id()
    members = []
    for index, member in enumerate(signature.tasks):
        placed = frozen(member, reply_to)
        members.append(placed.replaced(options={**placed.options, "group_index": index}))
    return signature.replaced(tasks=tuple(members), options={**signature.options, "task_id": group_id})


def _frozen_chord(signature: "chord[Any]", reply_to: str) -> Signature[Any]:
    if signature.body is None:
        raise ConfigError(f"a chord without a body cannot be sent: {signature!r}")
    options = signature.options
    body = signature.body
    if options.get("link") or options.get("link_error"):
        body = body.link(*as_signatures(options.get("link")))
        body = body.link_error(*as_signatures(options.get("link_error")))
    if options.get("task_id") and "task_id" not in body.options:
        body = body.replaced(options={**body.options, "task_id": options["task_id"]})
    rest = {key: value for key, value in options.items() if key not in {"link", "link_error"}}
    header = group(*map(_as_member, signature.header.tasks), app=signature.app)
    header = header.replaced(options=signature.header.options)
    body = frozen(body, reply_to)
    return signature.replaced(
        header=_frozen_group(header, reply_to),
        body=body,
        options={**rest, "task_id": body.options["task_id"]},
    )


def _as_member(member: Signature[Any]) -> Signature[Any]:
    """A chain that ends in a group returns to a chord as one part: the list of the group's results."""
    if isinstance(member, chain) and member.tasks and isinstance(member.tasks[-1], group):
        gather: Signature[Any] = Signature("celery.accumulate", (), {"index": 0}, app=member.app)
        return chain(member, gather, app=member.app).replaced(options=member.options)
    return member


# --- what is sent -------------------------------------------------------------------------------------------


def lowered(signature: Signature[Any]) -> Lowered:
    """The plain signatures to send for a frozen canvas."""
    if isinstance(signature, chain):
        return _lowered_chain(signature)
    if isinstance(signature, group):
        return _lowered_group(signature)
    if isinstance(signature, chord):
        return _lowered_chord(signature)
    return Lowered([signature])


def _lowered_chain(signature: "chain[Any]") -> Lowered:
    steps = list(signature.tasks)
    if not steps:
        return Lowered()
    options = signature.options
    steps[-1] = _at_end(steps[-1], options)
    rest = [*(options.get("chain") or ()), *(step.to_dict() for step in reversed(steps[1:]))]
    first = steps[0]
    shared = {key: value for key, value in options.items() if key not in _OWN}
    return lowered(first.replaced(options={**first.options, **shared, "chain": rest or None}))


def _at_end(last: Signature[Any], options: Mapping[str, Any]) -> Signature[Any]:
    """Move what is to happen at the end of a canvas to the part that ends it."""
    moved = {key: options[key] for key in _END if key != "link" and options.get(key) is not None}
    ended = last.replaced(options={**last.options, **moved}) if moved else last
    links = as_signatures(options.get("link"))
    return ended.link(*links) if links else ended


def _lowered_group(signature: "group[Any]") -> Lowered:
    options = signature.options
    # A group that ends a member of a chord's header returns its parts to that chord, not to itself.
    group_id = (options.get("group_id") if options.get("chord") else None) or options["task_id"]
    shared = {key: value for key, value in options.items() if key not in _OWN}
    if options.get("chord"):
        shared["chord"] = options["chord"]
    errbacks = as_signatures(options.get("link_error"))
    links = [link.set(immutable=True) for link in as_signatures(options.get("link"))]
    result = Lowered()
    for index, task in enumerate(signature.tasks):
        place = {"group_id": group_id, "group_index": task.options.get("group_index", index)}
        member = task.replaced(options={**shared, **task.options, **place})
        if errbacks:
            member = member.link_error(*errbacks)
        if links and index == 0:  # celery-protocol.md 5.5: a group's link goes to its first member
            member = member.link(*links)
        result.add(lowered(member))
    return result


def _lowered_chord(signature: "chord[Any]") -> Lowered:
    options, header = signature.options, signature.header
    body = signature.body
    if body is None:
        raise ConfigError(f"a chord without a body cannot be sent: {signature!r}")
    group_id = header.options["task_id"]
    body = _at_end(body, {"group_id": group_id, **_given(options)})
    if options.get("chain"):  # what follows the chord follows its body (celery-protocol.md 5.6)
        body = body.replaced(options={**body.options, "chain": options["chain"]})
    if not header.tasks:
        return lowered(body.merged(([],), None, {}))
    shared = {key: value for key, value in {**header.options, **options}.items() if key not in _OWN}
    sent = header.replaced(
        options={
            **shared,
            "task_id": group_id,
            "group_id": group_id,
            "chord": body.to_dict(),
            "link_error": header.options.get("link_error"),
        }
    )
    result = Lowered(chords={group_id: sum(map(_parts, header.tasks))})
    result.add(_lowered_group(sent))
    return result


def _parts(member: Signature[Any]) -> int:
    """How many returns a member of a header makes (celery-protocol.md 4.7)."""
    if isinstance(member, group):
        return sum(map(_parts, member.tasks))
    if isinstance(member, chain):
        return _parts(member.tasks[-1]) if member.tasks else 0
    if isinstance(member, chord) and member.body is not None:
        return _parts(member.body)
    return 1


# --- handles ------------------------------------------------------------------------------------------------


def result_tuple(signature: Signature[Any], parent: Sequence[Any] | None = None) -> list[Any]:
    """The wire form (celery-protocol.md 4.5) of the handle of a frozen canvas."""
    if isinstance(signature, chain):
        for step in signature.tasks:
            parent = result_tuple(step, parent)
        return list(parent or [[signature.options.get("task_id"), None], None])
    if isinstance(signature, group):
        nodes = [result_tuple(member, None) for member in signature.tasks]
        return [[signature.options["task_id"], parent], nodes]
    if isinstance(signature, chord) and signature.body is not None:
        return result_tuple(signature.body, result_tuple(signature.header, parent))
    return [[signature.options["task_id"], parent], None]
