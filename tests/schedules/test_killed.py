"""Schedulers that are killed again and again: no instant is missed, none is sent twice."""

import random
from collections import defaultdict
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from taskq.schedules.entries import HEADER, entries_of_code
from tests.commands import Running, running_taskq
from tests.harness import Place
from tests.polling import eventually_sync
from tests.schedules.test_scheduler import ledger_of, queued

SCHEDULERS, ENTRIES, SECONDS, BETWEEN = 5, 20, 60, 2.0


def write(folder: Path, place: Place) -> None:
    (folder / "proj.py").write_text(
        f"""
from taskq import TaskQ
from taskq.schedules import every

app = TaskQ("proj", broker={place.broker!r}, backend={place.backend!r}, **{dict(place.settings)!r})
app.conf.beat_schedule = {{
    f"tick{{n}}": {{"task": "proj.tick", "schedule": every("1s", jitter="0.5s")}} for n in range({ENTRIES})
}}
"""
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_no_instant_is_missed_or_sent_twice(place: Place, tmp_path: Path) -> None:
    if place.broker.startswith("memory:"):
        pytest.skip("processes share no memory")
    write(tmp_path, place)
    kills = kill_again_and_again(tmp_path)
    async with place.app() as app:
        app.conf.beat_schedule = {f"tick{n}": {"task": "proj.tick", "schedule": 1.0} for n in range(ENTRIES)}
        progress = await (await ledger_of(app)).progress()
        messages = await queued(app)
        sent: defaultdict[str, list[str]] = defaultdict(list)
        for message in messages:
            sent[message.headers[HEADER]].append(message.headers["id"])
        assert len(sent) == ENTRIES
        for name, entry in (await entries_of_code(app)).items():
            one = progress[name]
            instants = [one.last - timedelta(seconds=back) for back in range(one.runs)]
            assert {entry.task_id(app, instant) for instant in instants} == set(sent[name]), name
            assert one.runs >= SECONDS - 5
    twice = sum(len(ids) - len(set(ids)) for ids in sent.values())
    assert kills >= SECONDS / BETWEEN / 2
    assert twice <= (kills if place.broker.startswith("amqp") else 0)


def has_come(moment: float) -> bool:
    return monotonic() >= moment


def kill_again_and_again(folder: Path) -> int:
    """Run schedulers for a while, killing one of them every now and then; how many were killed."""
    with ExitStack() as stack:

        def start() -> Running:
            return stack.enter_context(running_taskq("beat", "-A", "proj", folder=folder))

        schedulers = [start() for _ in range(SCHEDULERS)]
        schedulers[0].says("beat is ready")
        kills, ends = 0, monotonic() + SECONDS
        while monotonic() < ends:
            following = monotonic() + BETWEEN
            victim = random.choice(schedulers)
            victim.process.kill()
            schedulers[schedulers.index(victim)] = start()
            kills += 1
            eventually_sync(partial(has_come, following))
    return kills
