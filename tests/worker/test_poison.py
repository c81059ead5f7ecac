"""Poison messages: none of them ends a worker, each ends in the dead letters, and the next good task runs."""

import os
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from taskq import Reject, TaskQ
from taskq.errors import EncodeError, TaskqError
from taskq.wire.message import Delivery, Message
from taskq.worker.intake.admission import Admission
from taskq.worker.worker import Worker
from tests.harness import Place, running
from tests.polling import eventually
from tests.worker.poison import HALF, good, half_names, kinds, links, mutations

KINDS = kinds()
LIMITS = {"max_message_bytes": 250_000, "max_inflated_bytes": 1_000_000}


@pytest.fixture
async def place_redis(redis_url: str) -> AsyncIterator[Place]:
    url, prefix = f"{redis_url}/9", f"poison-{uuid.uuid4().hex[:8]}:"
    options = {"global_keyprefix": prefix}
    place = Place(
        url, url, {"broker_transport_options": options, "result_backend_transport_options": options}
    )
    yield place
    async with place.app() as app:
        broker = await app.open_broker()
        await broker.purge("celery")
        await broker.revive([letter.id for letter in await broker.dead()])


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(f"place_{request.param}")
    assert isinstance(found, Place)
    return found


def make_app(place: Place) -> TaskQ:
    app = place.app(**LIMITS, result_expires=60)

    @app.task(name="proj.good")
    async def fine(number: int = 0, *args: object, **kwargs: object) -> int:
        return number

    return app


async def next_good_job_runs(app: TaskQ, worker: Worker) -> None:
    assert await (await app.send_task("proj.good", (41,))).get(timeout=10) == 41
    await eventually(lambda: not worker.running)  # callbacks of messages that were good run behind it


def test_there_are_49_kinds() -> None:
    assert len(KINDS) == 49


async def test_every_kind_ends_in_the_dead_letters(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = make_app(place)
    async with app, place.app() as unbounded, running(app) as worker:
        broker = await unbounded.open_broker()
        for message in KINDS.values():
            await broker.publish([message])
        await next_good_job_runs(app, worker)
        letters = await broker.dead()
        kept = [
            (letter.message.headers.get("id"), letter.message.body) for letter in letters if letter.message
        ]
        missing = [
            name for name, message in KINDS.items() if (message.headers.get("id"), message.body) not in kept
        ]
        assert missing == []
        assert all(letter.reason and "\n" not in letter.reason for letter in letters)
    assert "poisoned" not in os.listdir()  # noqa: PTH208 - the working folder, as the code from the wire sees it


async def survived(app: TaskQ, messages: Iterable[Message]) -> None:
    """Each of these, and nothing is held in the end."""

    @app.task(name="proj.bad")
    async def bad(*_: object) -> None:
        raise KeyError("as always")

    async with app, running(app) as worker:
        broker = await app.open_broker()
        await broker.publish(list(messages))
        assert await (await app.send_task("proj.good", (41,))).get(timeout=20) == 41
        assert worker._parts is not None
        custody = worker._parts.custody
        await eventually(lambda: len(custody) == 0)


async def test_what_a_message_leads_to_ends_no_worker(place: Place) -> None:
    await survived(make_app(place), links())


async def test_names_that_cannot_be_written_end_no_worker(place: Place) -> None:
    await survived(make_app(place), half_names())


async def test_a_result_that_cannot_be_written_is_a_failure(place: Place) -> None:
    app = make_app(place)

    class Lazy:
        def __json__(self) -> object:
            raise KeyError("gone meanwhile")

    @app.task
    async def lazy() -> Lazy:
        return Lazy()

    async with app, running(app) as worker:
        with pytest.raises(EncodeError, match="gone meanwhile"):
            await (await lazy.delay()).get(timeout=10)
        await next_good_job_runs(app, worker)


async def test_a_reason_is_one_line_that_can_be_written(place: Place) -> None:
    app = make_app(place)

    @app.task
    async def reject() -> None:
        raise Reject(f"no such file:\n{HALF}.txt")

    async with app, running(app) as worker:
        await reject.delay()
        await next_good_job_runs(app, worker)
        broker = await app.open_broker()
        [letter] = await eventually(broker.dead)
        assert letter.reason == "rejected by the task: no such file: \\ud800.txt"


async def fuzzed(app: TaskQ, count: int, seed: int) -> None:
    async with app, running(app) as worker:
        broker = await app.open_broker()
        batch = []
        for message in mutations(count, seed):
            batch.append(message)
            if len(batch) == 500:
                await broker.publish(batch)
                await next_good_job_runs(app, worker)
                await broker.revive([letter.id for letter in await broker.dead(100_000)])
                batch = []
        await broker.publish(batch)
        await next_good_job_runs(app, worker)


async def test_mutated_messages(place_memory: Place) -> None:
    await fuzzed(make_app(place_memory), 1_500, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hundred_thousand_mutated_messages(place_memory: Place) -> None:
    await fuzzed(make_app(place_memory), 100_000, seed=2)


async def test_mutations_are_judged_without_an_error_of_another_kind(place_memory: Place) -> None:
    """The judge alone, without a worker around it that might forgive."""
    app = make_app(place_memory)
    judge = Admission(app, lambda: 0.0).judge
    refused = 0
    for message in mutations(5_000, seed=3):
        judged = judge(Delivery(message, "celery", None))
        error = getattr(judged, "error", None)
        refused += error is not None
        assert error is None or isinstance(error, TaskqError)
    assert refused > 1_000
    assert judge(Delivery(good(), "celery", None)).request is not None
