"""What a chord does when its parts return: its body, or the failure of all that would have come after.

Pure: the store has told which parts there are (`ResultStore.join`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from taskq import states
from taskq.canvas.budget import budget_of
from taskq.canvas.lowering import bare, end_id, frozen, result_tuple
from taskq.canvas.shapes import at_end, chain, chord, dissolved, group
from taskq.canvas.signature import Signature, as_signature, as_signatures
from taskq.errors import ChordError
from taskq.run.followups import after_failure
from taskq.run.outcome import ChordPart, FollowUps, Further, once_name
from taskq.seams.app import App
from taskq.wire.exceptions import decode_exception, encode_exception
from taskq.wire.request import Request
from taskq.wire.result import TaskResult

#: So many members of a header are told with its end: of more, no picture is to be had.
HEADER = 1000


def parts_of(request: Request, result: TaskResult) -> list[ChordPart]:
    """The chords that a run's final state returns to: its own, or that of the chain it was a step of."""
    if request.chord is not None:
        result.group_id = request.group
        return [ChordPart(request.chord, request.group_index, result, request)]
    if result.state == states.SUCCESS:
        return []
    # One failed part of a chord is enough: the first.
    return [part for step in steps(request.chain) for part in _returns(step, result, request)][:1]


def failed_chain(request: Request, failure: TaskResult) -> list[TaskResult]:
    """The same failure or revocation for every task of the chain that will not run, so that waiting for it raises."""
    return [_like(failure, task.options["task_id"]) for task in _named(steps(request.chain))]


def steps(links: Sequence[Mapping[str, Any]] | None) -> list[Signature[Any]]:
    """Steps of a chain in the order in which they would run."""
    return [as_signature(link) for link in reversed(links or ())]


def _like(failure: TaskResult, task_id: str, parent_id: str | None = None) -> TaskResult:
    return TaskResult(
        task_id,
        failure.state,
        failure.value,
        failure.traceback,
        date_done=failure.date_done,
        parent_id=parent_id or failure.task_id,
        reply_to=failure.reply_to,
    )


def _named(signatures: Iterable[Signature[Any]]) -> Iterator[Signature[Any]]:
    """The single tasks in these that have their id, with those of the chains that go on from them."""
    for signature in signatures:
        if isinstance(signature, chain | group):
            yield from _named(signature.tasks)
        elif isinstance(signature, chord):
            yield from _named(signature.header.tasks)
            yield from _named([] if signature.body is None else [signature.body])
        elif "task_id" in signature.options:
            yield signature
        yield from _named(steps(signature.options.get("chain")))


def _returns(signature: Signature[Any], failure: TaskResult, request: Request) -> Iterator[ChordPart]:
    """The chords to which a canvas that will not run would have returned."""
    options = signature.options
    if isinstance(signature, chain) and signature.tasks:
        yield from _returns(at_end(signature.tasks[-1], options), failure, request)
    elif isinstance(signature, chord) and signature.body is not None:
        yield from _returns(at_end(signature.body, options), failure, request)
    elif options.get("chord") is not None:
        result = _like(failure, options.get("task_id", ""))
        result.group_id = options.get("group_id")
        body = as_signature(options["chord"]).to_dict()
        yield ChordPart(body, options.get("group_index"), result, request)
    elif isinstance(signature, group):
        for task in signature.tasks:
            yield from _returns(task, failure, request)
    for step in steps(options.get("chain")):
        yield from _returns(step, failure, request)


def completed(app: App, part: ChordPart, parts: Sequence[TaskResult]) -> Further:
    """A chord whose parts are all there, or one of whose parts failed.

    Raises:
        Exception: the body cannot be written with these results.
    """
    body = as_signature(part.body)
    failed = next((p for p in parts if p.state != states.SUCCESS), None)
    if failed is not None:
        error = ChordError(f"Dependency {failed.task_id} raised {decode_exception(failed.value)!r}")
        done = failed_body(app, part, error)
        done.child = _child(body, part, parts)
        return done
    called = body.merged(([p.value for p in parts],), None, {})
    messages, _, chords = app.prepare(called, part.request.reply_to, part.request)
    return _once(Further(FollowUps(messages, dict(chords)), child=_child(body, part, parts)), part)


def _child(body: Signature[Any], part: ChordPart, parts: Sequence[TaskResult]) -> list[Any]:
    """The body as what comes after its header, so that the workflow can be drawn from its results."""
    known = [[[p.task_id, None], None] for p in parts[:HEADER]]
    return result_tuple(frozen(body, ""), [[part.result.group_id, None], known])


def _once(done: Further, part: ChordPart) -> Further:
    """The chord ends with this; its messages are named after it, whoever completes it and however often."""
    group_id = str(part.result.group_id)
    done.follow.ended.append(group_id)
    # With the id of its body: who sends a part of a chord with the id of another must not silence the body of that.
    name = once_name("chord", group_id, end_id(as_signature(part.body)))
    for index, message in enumerate(done.follow.messages):
        message.once = f"{name}:{index}"
    return done


def failed_body(app: App, part: ChordPart, error: ChordError) -> Further:
    """wire-format.md 4.7, completion 2: the failure goes to the body, its errbacks and its outer chord."""
    body, request = as_signature(part.body), part.request
    failure = TaskResult(
        end_id(body),
        states.FAILURE,
        encode_exception(error),
        date_done=part.result.date_done,
        reply_to=request.reply_to,
    )
    done = Further()
    for stand_in in _broken(body, request):
        stand_in.budget = budget_of(request, app.conf.max_sent_messages, app.conf.max_sent_bytes)
        errbacks = after_failure(app, stand_in, error, None)
        done.follow.add(errbacks.follow)
        done.errbacks += errbacks.here
        done.problems += errbacks.problems
    tasks = [task.options["task_id"] for task in _named([body])] or [failure.task_id]
    done.results = [_like(failure, task_id, part.result.task_id) for task_id in tasks]
    done.parts = list(_returns(body, failure, request))[:1]
    return _once(done, part)


def _broken(body: Signature[Any], request: Request) -> Iterator[Request]:
    """What stands for the body in its errbacks' eyes; of a group, every member."""
    entered = bare(body)
    if isinstance(entered, group):
        for member in dissolved(entered):
            yield from _broken(member, request)
        return
    yield Request(
        id=end_id(body),
        task=body.task,
        root_id=request.root_id,
        parent_id=request.id,
        reply_to=request.reply_to,
        errbacks=[link.to_dict() for link in _entry(body)],
    )


def _entry(body: Signature[Any]) -> list[Signature[Any]]:
    """The errbacks of what would have run first: the body itself, the first step of a chain, a chord's own body."""
    inner: Sequence[Signature[Any]] = ()
    entered = bare(body)
    if isinstance(entered, chain):
        inner = entered.tasks[:1]
    elif isinstance(entered, group):
        inner = entered.tasks
    elif isinstance(entered, chord) and entered.body is not None:
        inner = [entered.body]
    found = as_signatures(body.options.get("link_error"))
    for signature in inner:
        found += [link for link in _entry(signature) if link not in found]
    return found
