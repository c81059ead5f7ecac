"""From a canvas to the tasks that are sent first, with everything that follows attached to them. Pure.

`frozen` gives every part its id, `lowered` the plain signatures to send, `result_tuple` the handles' wire form.
What is to happen at the *end* of a canvas (its place in a group, the chord it belongs to, the rest of an outer
chain) stands in its options and moves on to the part that ends it: the last step of a chain, the body of a chord.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID, uuid5

from taskq.canvas.shapes import END, at_end, chain, chord, dissolved, ends_in_group, group, known
from taskq.canvas.signature import Signature, as_signatures, new_id
from taskq.errors import ConfigError
from taskq.wire.request import Request

#: The task that gives the results of a group as one value (wire-format.md 5.1).
_GATHER = "celery.accumulate"
#: Names the tasks that are added to chords.
_ADDED = UUID("6b1fb2a5-7c0b-4f0e-9d4a-1f3b1a0f7a61")
#: Options of a canvas that its parts do not inherit.
_OWN = frozenset((*END, "link", "task_id", "link_error"))
#: Options that say where a group stands.
_PLACE = frozenset(("task_id", "group_id", "group_index", "chain"))


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


def frozen(signature: Signature[Any], reply_to: str, start: int = 0) -> Signature[Any]:
    """A copy in which every task, group and chord has its id, so that a caller knows all of them in advance.

    `reply_to` goes with it for later steps: their results are answered to the caller, not to a worker.
    `start` is the place of the first member of a group, or of a chord's header.
    """
    if type(signature) is Signature:  # nearly always
        return _frozen_task(signature, reply_to, {})
    if isinstance(signature, chain):
        return _frozen_chain(signature, reply_to)
    if isinstance(signature, group):
        return _frozen_group(signature, reply_to, start)
    if isinstance(signature, chord):
        return _frozen_chord(signature, reply_to, start)
    return _frozen_task(signature, reply_to, {})


def _frozen_task(signature: Signature[Any], reply_to: str, place: Mapping[str, Any]) -> Signature[Any]:
    options = {"task_id": new_id(), "reply_to": reply_to, **_given(signature.options), **place}
    return signature.replaced(options=options)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _frozen_chain(signature: "chain[Any]", reply_to: str) -> Signature[Any]:
    steps = _with_errbacks(signature)
    if steps and signature.options.get("task_id"):
        last = steps[-1]
        steps[-1] = last.replaced(options={"task_id": signature.options["task_id"], **last.options})
    steps = [frozen(step, reply_to) for step in steps]
    options = {**signature.options}
    if steps:
        options["task_id"] = end_id(steps[-1])
    return signature.replaced(tasks=tuple(steps), options=options)


def _with_errbacks(signature: "chain[Any]") -> list[Signature[Any]]:
    """The steps of a chain; its errbacks are those of every step."""
    errbacks = as_signatures(signature.options.get("link_error"))
    return [step.link_error(*errbacks) for step in signature.tasks] if errbacks else list(signature.tasks)


def end_id(signature: Signature[Any]) -> str:
    """The id under which the result of a frozen signature is found; "" where it was never frozen."""
    if isinstance(signature, chord) and signature.body is not None:
        return end_id(signature.body)
    return str(signature.options.get("task_id") or "")


def _frozen_group(signature: "group[Any]", reply_to: str, start: int) -> Signature[Any]:
    group_id = signature.options.get("task_id") or new_id()
    members = []
    for index, member in enumerate(known(signature), start):
        if type(member) is Signature:
            members.append(_frozen_task(member, reply_to, {"group_index": index}))
        else:
            placed = frozen(member, reply_to)
            members.append(placed.replaced(options={**placed.options, "group_index": index}))
    return signature.replaced(tasks=tuple(members), options={**signature.options, "task_id": group_id})


def _frozen_chord(signature: "chord[Any]", reply_to: str, start: int) -> Signature[Any]:
    signature = signature.settled()
    if signature.body is None:
        raise ConfigError(f"a chord without a body cannot be sent: {signature!r}")
    header = group(*map(_as_member, known(signature.header)), app=signature.app)
    header = header.replaced(options=signature.header.options)
    header = cast("group[Any]", _frozen_group(header, reply_to, start))
    options = {**signature.options, "task_id": header.options["task_id"]}
    return signature.replaced(header=header, body=frozen(signature.body, reply_to), options=options)


def _as_member(member: Signature[Any]) -> Signature[Any]:
    """A member that ends in a group returns to a chord as one part: the list of the group's results."""
    return gathered(member) if ends_in_group(member) else member


def gathered(signature: Signature[Any]) -> Signature[Any]:
    """What ends in a group, with one task more, whose value is the list of the group's results."""
    if isinstance(signature, chain):
        *before, last = signature.tasks
        last = last.link(*as_signatures(signature.options.get("link")))
        options = {**signature.options, "link": None}
        return signature.replaced(tasks=(*before, gathered(last)), options=options)
    if isinstance(signature, chord) and (settled := signature.settled()).body is not None:
        return settled.replaced(body=gathered(settled.body))
    gather: Signature[Any] = Signature(_GATHER, (), {"index": 0}, app=signature.app)
    return chord(cast("group[Any]", signature), gather, app=signature.app)


def bare(signature: Signature[Any]) -> Signature[Any]:
    """What was made by `gathered` of a group: the group."""
    if isinstance(signature, chord) and signature.body is not None and signature.body.task == _GATHER:
        return signature.header
    return signature


def added_to_chord(request: Request, signature: Signature[Any]) -> Signature[Any]:
    """A signature as one more member of the chord that a run is part of.

    Its id follows from the run's, so that a run done again adds the same task.

    Raises:
        ValueError: the run is no member of a chord.
    """
    if request.chord is None or request.group is None:
        raise ValueError(f"{request.task}[{request.id}] is not a member of a chord")
    request.added += 1
    member = _as_member(signature)
    place = {
        "task_id": str(uuid5(_ADDED, f"{request.id} {request.added}")),
        "group_id": request.group,
        "chord": request.chord,
        "root_id": request.root_id,
    }
    return member.replaced(options={**place, **member.options})


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
    steps = _with_errbacks(signature)
    if not steps:
        raise ConfigError("a chain without tasks cannot be sent")
    options = signature.options
    chain_after = options.get("chain") or ()
    steps[-1] = at_end(steps[-1], {**options, "chain": None})
    rest = [*chain_after, *(step.to_dict() for step in reversed(steps[1:]))]
    first = steps[0]
    shared = {key: value for key, value in options.items() if key not in _OWN}
    return lowered(first.replaced(options={**first.options, **shared, "chain": rest or None}))


def _lowered_group(signature: "group[Any]") -> Lowered:
    options = signature.options
    # A group that ends a member of a chord's header returns its parts to that chord, not to itself.
    group_id = (options.get("group_id") if options.get("chord") else None) or options["task_id"]
    shared = {key: value for key, value in options.items() if key not in _PLACE}
    result = Lowered()
    for index, task in enumerate(dissolved(signature.replaced(options=shared))):
        place = {"group_id": group_id, "group_index": task.options.get("group_index", index)}
        placed = task.replaced(options={**task.options, **place})
        if type(placed) is Signature:
            result.signatures.append(placed)
        else:
            result.add(lowered(placed))
    return result


def _lowered_chord(signature: "chord[Any]") -> Lowered:
    signature = signature.settled()
    options, header = signature.options, signature.header
    if signature.body is None:
        raise ConfigError(f"a chord without a body cannot be sent: {signature!r}")
    group_id = header.options["task_id"]
    # What follows the chord follows its body (wire-format.md 5.6).
    body = at_end(signature.body, {"group_id": group_id, **_given(options)})
    if not header.tasks:
        return lowered(body.merged(([],), None, {}))
    shared = {key: value for key, value in {**header.options, **options}.items() if key not in _OWN}
    links = {key: header.options.get(key) for key in ("link", "link_error")}
    place = {"task_id": group_id, "group_id": group_id, "chord": body.to_dict()}
    result = Lowered(chords={group_id: sum(map(parts, header.tasks))})
    result.add(_lowered_group(header.replaced(options={**shared, **links, **place})))
    return result


def parts(member: Signature[Any]) -> int:
    """How many returns a member of a header makes (wire-format.md 4.7)."""
    if isinstance(member, group):
        return sum(map(parts, member.tasks))
    if isinstance(member, chain):
        return parts(member.tasks[-1])
    if isinstance(member, chord) and member.body is not None:
        return parts(member.body)
    return 1


# --- handles ------------------------------------------------------------------------------------------------


def result_tuple(signature: Signature[Any], parent: Sequence[Any] | None = None) -> list[Any]:
    """The wire form (wire-format.md 4.5) of the handle of a frozen canvas."""
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
