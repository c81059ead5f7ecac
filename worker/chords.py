"""What a chord does when its parts return: its body, or the failure of all that would have come after.

Pure: the store has told which parts there are (`ResultStore.join`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taskq import states
from taskq.canvas import chain, chord, group
from taskq.errors import ChordError
from taskq.failures import decode_exception, encode_exception
from taskq.request import Request, WireSignature
from taskq.signature import Signature, as_signature, as_signatures
from taskq.store import TaskResult
from taskq.worker.followups import Preparer, after_failure, sent
from taskq.worker.outcome import FollowUps


@dataclass(slots=True)
class Part:
    """A result that returns to a chord: the chord's body, the part's place, and the result."""

    body: WireSignature
    index: int | None
    result: TaskResult


@dataclass(slots=True)
class Completed:
    """What a completed chord comes to; `here` are errbacks to run in this process, for `failed`."""

    follow: FollowUps
    results: list[TaskResult] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    here: list[Signature[Any]] = field(default_factory=list)
    failed: Request | None = None
    error: ChordError | None = None


def parts_of(request: Request, result: TaskResult) -> list[Part]:
    """The chords that a run's final state returns to: its own, and those of chain steps that will not run."""
    parts = (
        [] if request.chord is None else [Part(request.chord, request.group_index, _placed(request, result))]
    )
    if result.state == states.FAILURE:
        for step in _leaves(request.chain):
            body = step.options.get("chord")
            if body is not None:
                parts.append(_failed_part(step, body, result))
    return parts


def _placed(request: Request, result: TaskResult) -> TaskResult:
    result.group_id = request.group
    return result


def failed_chain(request: Request, failure: TaskResult) -> list[TaskResult]:
    """The same failure for every step of the chain that will not run, so that waiting for its end raises."""
    return [
        _like(failure, step.options["task_id"])
        for step in _leaves(request.chain)
        if "task_id" in step.options
    ]


def _failed_part(step: Signature[Any], body: Any, failure: TaskResult) -> Part:
    result = _like(failure, step.options.get("task_id", ""))
    result.group_id = step.options.get("group_id")
    return Part(as_signature(body).to_dict(), step.options.get("group_index"), result)


def _like(failure: TaskResult, task_id: str) -> TaskResult:
    return TaskResult(
        task_id,
        failure.state,
        failure.value,
        failure.traceback,
        date_done=failure.date_done,
        parent_id=failure.task_id,
        reply_to=failure.reply_to,
    )


def _leaves(links: Sequence[Mapping[str, Any]] | None) -> Iterator[Signature[Any]]:
    """The single tasks that chain steps would have ended in or gone through."""
    for link in links or ():
        yield from _tasks(as_signature(link))


def _tasks(signature: Signature[Any]) -> Iterator[Signature[Any]]:
    if isinstance(signature, chain | group):
        for task in signature.tasks:
            yield from _tasks(task)
    elif isinstance(signature, chord):
        if signature.body is not None:
            yield from _tasks(signature.body)
    else:
        yield signature
    yield from _leaves(signature.options.get("chain"))


def completed(app: Preparer, request: Request, part: Part, parts: Sequence[TaskResult]) -> Completed:
    """A chord whose parts are all there, or one of whose parts failed.

    Raises:
        Exception: the body cannot be written with these results.
    """
    body = as_signature(part.body)
    failed = next((p for p in parts if p.state != states.SUCCESS), None)
    if failed is None:
        follow = sent(app, request, body.merged(([p.value for p in parts],), None, {}))
    else:
        error = ChordError(f"Dependency {failed.task_id} raised {decode_exception(failed.value)!r}")
        return failed_body(app, request, part, error)
    follow.ended.append(str(part.result.group_id))
    for index, message in enumerate(follow.messages):  # whoever completes it, and however often
        message.once = f"chord:{part.result.group_id}:{index}"
    return Completed(follow)


def failed_body(app: Preparer, request: Request, part: Part, error: ChordError) -> Completed:
    """celery-protocol.md 4.7, completion 2: the failure goes to the body, its errbacks and its outer chord."""
    body = as_signature(part.body)
    failure = TaskResult(
        body.options.get("task_id", ""),
        states.FAILURE,
        encode_exception(error),
        date_done=part.result.date_done,
        reply_to=request.reply_to,
    )
    leaves = [leaf for leaf in _tasks(body) if "task_id" in leaf.options]
    stand_in = Request(
        id=failure.task_id,
        task=body.task,
        root_id=request.root_id,
        parent_id=request.id,
        reply_to=request.reply_to,
        errbacks=_errbacks(body, leaves),
    )
    follow, here = after_failure(app, stand_in)
    follow.ended.append(str(part.result.group_id))
    outer = [
        _failed_part(leaf, leaf.options["chord"], failure)
        for leaf in (body, *leaves)
        if leaf.options.get("chord") is not None
    ]
    results = [_like(failure, leaf.options["task_id"]) for leaf in leaves] or [failure]
    return Completed(follow, results, outer[:1], here, stand_in, error)


def _errbacks(body: Signature[Any], leaves: Sequence[Signature[Any]]) -> list[WireSignature] | None:
    links = as_signatures(body.options.get("link_error"))
    if not links and leaves:
        links = as_signatures(leaves[0].options.get("link_error"))
    return [link.to_dict() for link in links] or None
