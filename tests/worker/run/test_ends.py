"""Every way a run can end, on each broker: what is stored, who is told, that it is settled once.

A row is one way to end. Each is tried three times: alone, as a step of a chain, as a member of a chord.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from taskq import (
    AsyncResult,
    Ignore,
    Reject,
    Signature,
    Task,
    TaskQ,
    chain,
    chord,
    registry,
    signals,
)
from taskq.wire.message import Delivery
from taskq.worker.worker import Worker
from tests.harness import Place, running
from tests.polling import eventually
from tests.worker import deadly

AnyTask = Task[Any, Any, Any]

SUCCESS, FAILURE, REVOKED, PENDING = "SUCCESS", "FAILURE", "REVOKED", "PENDING"
DONE = ("on_success", "after_return")
FAILED = ("on_failure", "after_return")
AGAIN = ("on_retry", "after_return")


class OwnBase(BaseException):
    """No Exception."""


class Book:
    """What was called, by task id."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[str]] = {}
        self.runs: Counter[str] = Counter()
        self.errbacks: Counter[str] = Counter()
        self.settled: Counter[Delivery] = Counter()


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture(autouse=True)
def receivers() -> Iterator[None]:
    every = [signal for signal in vars(signals).values() if isinstance(signal, signals.Signal)]
    before = {signal: list(signal.receivers) for signal in every}
    yield
    for signal, found in before.items():
        signal.receivers[:] = found


@pytest.fixture
def app(on_all_brokers: Place, book: Book) -> TaskQ:
    app = on_all_brokers.app(max_deaths=2, worker_pool_processes=2)
    add_tasks(app, book)
    return app


def throw(error: BaseException) -> None:
    raise error


def throws(error: BaseException) -> Callable[[AnyTask], None]:
    return lambda _: throw(error)


async def forever(_: AnyTask) -> None:
    await asyncio.Event().wait()


async def group_of_errors(_: AnyTask) -> None:
    async def fail() -> None:
        raise ValueError("inside")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())


def once(end: Callable[[AnyTask], Any]) -> Callable[[AnyTask], Any]:
    """The first run ends like this, the second gives a value."""
    seen: set[str] = set()

    def act(task: AnyTask) -> Any:
        if task.request.id not in seen:
            seen.add(task.request.id)
            end(task)

    return act


Act = Callable[[AnyTask], Any]
#: Name: what the coroutine does, and the task's options.
COROUTINES: dict[str, tuple[Act, dict[str, Any]]] = {
    "returned": (lambda _: 1, {}),
    "raised": (throws(ValueError("no")), {}),
    "raised a group": (group_of_errors, {}),
    "exited": (throws(SystemExit(3)), {}),
    "raised a BaseException": (throws(OwnBase("mine")), {}),
    "cancelled by itself": (throws(asyncio.CancelledError()), {}),
    "retried": (once(lambda task: throw(task.retry(countdown=0))), {}),
    "retried for ever": (lambda task: throw(task.retry(countdown=0)), {"max_retries": 1}),
    "retried with what is no argument": (lambda task: throw(task.retry(args=(object(),))), {}),
    "retried in the year 2 million": (lambda task: throw(task.retry(countdown=60 * 2**40)), {}),
    "autoretried": (once(throws(ValueError("once"))), {"autoretry_for": ValueError}),
    "autoretried for ever": (throws(KeyError("k")), {"autoretry_for": (KeyError,), "max_retries": 1}),
    "replaced": (lambda task: throw(task.replace(Signature("returned"))), {}),
    "replaced by what cannot be sent": (
        lambda task: throw(task.replace(Signature("returned", (object(),)))),
        {},
    ),
    "ignored": (throws(Ignore()), {}),
    "rejected": (throws(Reject("no")), {}),
    "rejected once": (once(throws(Reject("later", requeue=True))), {}),
    "soft limit": (forever, {"soft_time_limit": 0.2}),
    "hard limit": (forever, {"time_limit": 0.2}),
    "unwritable": (lambda _: {1, 2}, {}),
    "terminated": (forever, {}),
    "never runs": (throws(AssertionError("it ran")), {}),
    "cancelled hook": (lambda _: 1, {}),
    "cancelled hook of a failure": (throws(ValueError("no")), {}),
    "cancelled before it began": (lambda _: 1, {}),
    "cancelled receivers": (lambda _: 1, {}),
}
PLAIN: dict[str, Act] = {
    "returned by a plain task": lambda _: 1,
    "raised by a plain task": throws(ValueError("no")),
    "exited in a plain task": throws(SystemExit(3)),
    "raised a BaseException in a plain task": throws(OwnBase("mine")),
}


def add_tasks(app: TaskQ, book: Book) -> None:
    told, cancelling, cancelled = hooked(book)
    bases = {
        "cancelled hook": cancelling,
        "cancelled hook of a failure": cancelling,
        "cancelled before it began": cancelled,
    }
    for name, (act, options) in COROUTINES.items():
        add_coroutine(app, book, name, act, base=bases.get(name, told), **options)
    for name, act in PLAIN.items():
        add_plain(app, book, name, act, base=told)

    @app.task(name="errback")
    async def errback(task_id: str) -> None:
        book.errbacks[task_id] += 1

    @app.task(name="errback here")
    async def errback_here(request: Any, exc: Any, traceback: Any) -> None:
        book.errbacks[request.id] += 1
        raise asyncio.CancelledError

    @app.task(name="after")
    async def after(*_: Any) -> str:
        return "after"

    for signal in (
        *(signals.task_received, signals.task_prerun, signals.task_success, signals.task_postrun),
        signals.before_task_publish,
    ):
        signal.connect(cancel, sender="cancelled receivers")


async def cancel(**_: Any) -> None:
    raise asyncio.CancelledError


def add_coroutine(app: TaskQ, book: Book, name: str, act: Act, **options: Any) -> None:
    @app.task(name=name, bind=True, default_retry_delay=0, **options)
    async def run(self: AnyTask, *_: Any) -> Any:
        book.runs[self.request.id] += 1
        value = act(self)
        return await value if asyncio.iscoroutine(value) else value


def add_plain(app: TaskQ, book: Book, name: str, act: Act, **options: Any) -> None:
    @app.task(name=name, bind=True, default_retry_delay=0, **options)
    def run(self: AnyTask, *_: Any) -> Any:
        book.runs[self.request.id] += 1
        return act(self)


def hooked(book: Book) -> list[type[AnyTask]]:
    """Tasks whose hooks are noted; one whose last hook, and one whose first, ends in a cancellation."""

    def note(hook: str, task_id: str) -> None:
        book.hooks.setdefault(task_id, []).append(hook)

    class Told(Task[Any, Any, Any]):
        async def on_success(self, retval: Any, task_id: str, *_: Any) -> None:
            note("on_success", task_id)

        async def on_failure(self, exc: Any, task_id: str, *_: Any) -> None:
            note("on_failure", task_id)

        async def on_retry(self, exc: Any, task_id: str, *_: Any) -> None:
            note("on_retry", task_id)

        async def after_return(self, status: str, retval: Any, task_id: str, *_: Any) -> None:
            note("after_return", task_id)

    class Cancelling(Told):
        async def after_return(self, *args: Any) -> None:
            await super().after_return(*args)
            raise asyncio.CancelledError

    class CancelledBefore(Told):
        async def before_start(self, *args: Any) -> None:
            raise asyncio.CancelledError

    return [Told, Cancelling, CancelledBefore]


async def terminate(worker: Worker, result: AsyncResult[Any]) -> None:
    await eventually(lambda: any(job.request.id == result.id for job in worker.running))
    await result.revoke(terminate=True)


async def revoke(_: Worker, result: AsyncResult[Any]) -> None:
    await result.revoke()


Deed = Callable[[Worker, AsyncResult[Any]], Awaitable[None]]


@dataclass
class Row:
    """How it ends, and what is to be seen then: its state, its errbacks, the states of chain and chord, its hooks."""

    task: str
    state: str
    hooks: Sequence[str] = ()
    errbacks: int = 0
    chain: str = ""
    chord: str = ""
    letters: int = 0
    runs: int | None = 1
    options: dict[str, Any] = field(default_factory=dict)
    deed: Deed | None = None

    def __post_init__(self) -> None:
        self.chain = self.chain or self.state
        self.chord = self.chord or (SUCCESS if self.state == SUCCESS else FAILURE)


def failure(task: str, hooks: Sequence[str] = FAILED, **more: Any) -> Row:
    return Row(task, FAILURE, hooks, errbacks=1, **more)


ROWS = [
    Row("returned", SUCCESS, DONE),
    Row("returned by a plain task", SUCCESS, DONE),
    failure("raised"),
    failure("raised by a plain task"),
    failure("raised a group"),
    failure("exited"),
    failure("exited in a plain task"),
    failure("raised a BaseException"),
    failure("raised a BaseException in a plain task"),
    failure("cancelled by itself"),
    Row("retried", SUCCESS, (*AGAIN, *DONE), runs=2),
    failure("retried for ever", (*AGAIN, *FAILED), runs=2),
    failure("retried with what is no argument"),
    failure("retried in the year 2 million"),
    Row("autoretried", SUCCESS, (*AGAIN, *DONE), runs=2),
    failure("autoretried for ever", (*AGAIN, *FAILED), runs=2),
    Row("replaced", SUCCESS, DONE, runs=2),  # the hooks are those of what runs in its place
    failure("replaced by what cannot be sent"),
    Row("ignored", PENDING, chain=REVOKED, chord=FAILURE),
    failure("rejected", (), letters=1),
    Row("rejected once", SUCCESS, DONE, runs=2),
    failure("soft limit"),
    failure("hard limit"),
    failure("unwritable"),
    Row("terminated", REVOKED, deed=terminate),
    Row("never runs", REVOKED, runs=0, options={"countdown": 1}, deed=revoke),
    Row("never runs", REVOKED, runs=0, options={"expires": -1}),
    failure("nobody knows it", (), letters=1, runs=0),
    failure("deadly.exits", (), letters=1, runs=None),
    failure("deadly.exits_early", (), runs=None),
    Row("cancelled hook", SUCCESS, DONE),
    failure("cancelled hook of a failure"),
    failure("cancelled before it began", runs=0),
    Row("cancelled receivers", SUCCESS, DONE),
    failure("raised", options={"link_error": Signature("errback here")}),
]


def title(row: Row) -> str:
    return "-".join([row.task, *row.options]).replace(" ", "_")


@pytest.fixture(params=ROWS, ids=title)
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


def count_settlements(worker: Worker, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker._parts is not None
    consumer = worker._parts.consumer
    settle = consumer.settle

    async def counted(
        ack: Sequence[Delivery] = (), requeue: Sequence[Delivery] = (), reject: Sequence[Any] = ()
    ) -> None:
        book.settled.update([*ack, *requeue, *(delivery for delivery, _ in reject)])
        await settle(ack=ack, requeue=requeue, reject=reject)

    monkeypatch.setattr(consumer, "settle", counted)


async def test_a_run_ends(app: TaskQ, row: Row, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.shared.update(deadly.TASKS)
    async with app, running(app) as worker:
        count_settlements(worker, book, monkeypatch)
        alone = await send(app, row)
        if row.deed is not None:
            await row.deed(worker, alone)
        assert await state_of(alone, row.state) == row.state
        await eventually(lambda: book.errbacks[alone.id] >= row.errbacks)
        await all_settled(app, worker)
        dead = await (await app.open_broker()).dead()
    assert book.errbacks[alone.id] == row.errbacks
    assert tuple(book.hooks.get(alone.id, ())) == tuple(row.hooks)
    assert row.runs is None or book.runs[alone.id] == row.runs
    assert set(book.settled.values()) == {1}
    assert len([letter for letter in dead if letter.queue in worker.queues]) == row.letters


async def send(app: TaskQ, row: Row) -> AsyncResult[Any]:
    options = {"link_error": Signature[Any]("errback"), **row.options}
    return await app.send_task(row.task, **options)


async def state_of(result: AsyncResult[Any], expected: str) -> str:
    """The state it comes to; where none is stored, that there is none is told by all that is settled."""
    if expected != PENDING:
        await result.get(timeout=20, propagate=False)
    return (await result.refresh()).state


async def all_settled(app: TaskQ, worker: Worker) -> None:
    assert worker._parts is not None
    custody, broker = worker._parts.custody, await app.open_broker()

    async def nothing_left() -> bool:
        sizes = [await broker.size(queue) for queue in worker.queues]
        return not len(custody) and not any(sizes)

    await eventually(nothing_left, within=20)


async def test_the_rest_of_its_chain_and_its_chord_are_told(
    app: TaskQ, row: Row, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.shared.update(deadly.TASKS)
    async with app, running(app) as worker:
        count_settlements(worker, book, monkeypatch)
        one = Signature[Any](row.task, options=row.options)
        last: Any = await chain(one, Signature[Any]("after"), app=app).apply_async()
        members = [Signature[Any]("returned"), one]
        body: Any = await chord(members, Signature[Any]("after"), app=app).apply_async()
        if row.deed is not None:
            await row.deed(worker, last.parent)
            await row.deed(worker, body.parent.results[1])
        await last.get(timeout=20, propagate=False)
        await body.get(timeout=20, propagate=False)
        assert (last.state, body.state) == (row.chain, row.chord)
        await all_settled(app, worker)
    assert set(book.settled.values()) == {1}
