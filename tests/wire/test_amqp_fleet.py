"""Fleets of Celery and taskq workers on one RabbitMQ: killed one by one, and what is for later on quorum queues."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import time

import pytest

from tests.polling import eventually
from tests.wire.golden_live_app import celery_app, taskq_app
from tests.wire.peers import Peer, peer_of

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

TASKS = 400
#: What a killed worker may have held: four deliveries for each of its slots, one of Celery's, ten of taskq's.
HELD_BY_CELERY, HELD_BY_TASKQ = 4, 40


@pytest.fixture
def peer(amqp_url: str, tmp_path: Path) -> Iterator[Peer]:
    with peer_of(amqp_url, "disabled://", tmp_path, ["celery"]) as peer:
        yield peer


def done(peer: Peer) -> Counter[int]:
    return Counter(number for _, number in peer.runs())


async def reached(peer: Peer, count: int) -> None:
    def probe() -> bool:
        return len(done(peer)) >= count

    await eventually(probe)


async def test_a_mixed_fleet_loses_nothing_when_one_of_each_is_killed(peer: Peer) -> None:
    async with taskq_app(peer.broker, peer.backend) as app:
        for number in range(TASKS):
            await app.send_task("golden.nap", (number, 0.02))
    with peer.celery() as celery:
        with peer.taskq("-c", "10") as taskq:
            await reached(peer, 100)
            taskq.send(signal.SIGKILL)
            taskq.wait()
            await reached(peer, 120)
        with peer.taskq("-c", "10"):
            await reached(peer, 200)
            celery.kill()
            await asyncio.to_thread(celery.wait)
            await reached(peer, TASKS)
    runs = done(peer)
    assert set(runs) == set(range(TASKS))
    assert runs.total() - TASKS <= HELD_BY_TASKQ + HELD_BY_CELERY


@pytest.fixture
def quorum(amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setitem(os.environ, "GOLDEN_QUORUM", "1")
    with peer_of(amqp_url, "disabled://", tmp_path, ["later"], GOLDEN_QUORUM="1") as peer:
        yield peer


async def arrived(peer: Peer, due: float) -> None:
    def probe() -> bool:
        return bool(peer.runs())

    await eventually(probe)
    assert due <= time() < due + 3
    assert peer.runs() == [["nap", 1]]


async def test_taskq_delays_on_a_quorum_queue_and_celery_runs(quorum: Peer) -> None:
    with quorum.celery():
        async with taskq_app(quorum.broker, quorum.backend) as app:
            due = time() + 4
            await app.send_task("golden.nap", (1, 0), queue="later", countdown=4)
        await arrived(quorum, due)


async def test_celery_delays_on_a_quorum_queue_and_taskq_runs(quorum: Peer) -> None:
    """Celery's client sends into exchanges that only workers declare: here, taskq's."""
    with quorum.taskq():
        app = celery_app(quorum.broker, quorum.backend)
        due = time() + 4
        await asyncio.to_thread(app.send_task, "golden.nap", (1, 0), queue="later", countdown=4)
        app.close()
        await arrived(quorum, due)
