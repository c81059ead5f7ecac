import asyncio
import json
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click
import pytest

from taskq import TaskQ
from taskq.cli.dead import _rows
from taskq.cli.letters import chosen, send_again
from taskq.errors import OperationalError, PublishErrors
from taskq.seams.broker import Broker
from taskq.wire.message import DeadLetter, Message
from taskq.wire.signing import sign, verify
from tests.cli.conftest import Taskq

SECRET = "0123456789abcdef0123456789abcdef"
NOW = float(int(time.time()))


def letter(id_: str, task_id: str | None, *, queue: str = "celery", at: float = NOW - 3000) -> DeadLetter:
    if task_id is None:
        return DeadLetter(id_, queue, "no JSON", at, None, b"\xff{")
    headers = {"id": task_id, "task": "proj.add", "lang": "py"}
    return DeadLetter(
        id_, queue, "no task 'proj.add' here", at, Message(headers, b"[[], {}, {}]", routing_key="old")
    )


LETTERS = [
    letter("21", "abc-1"),
    letter("22", "abd-2", queue="slow", at=NOW - 2000),
    letter("3", None, at=NOW - 1000),
]


@pytest.fixture
def broker_url(folder: Path) -> str:
    url = f"sqlite:///{folder}/queue.db"
    bury(url, LETTERS)
    return url


def bury(url: str, letters: Sequence[DeadLetter]) -> None:
    async def run() -> None:
        async with TaskQ(broker=url) as app:
            await (await app.open_broker()).bury(letters)

    asyncio.run(run())


@pytest.fixture
def dead(taskq: Taskq, broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Taskq:
    monkeypatch.setenv("TASKQ_BROKER_URL", broker_url)
    return lambda *arguments: taskq("dead", *arguments)


def tasks_of(dead: Taskq, *options: str) -> list[str | None]:
    return [json.loads(line)["task_id"] for line in dead("ls", "--json", *options).out.splitlines()]


def test_ls_shows_the_newest_first(dead: Taskq) -> None:
    said = dead("ls")
    assert said.code == 0
    head, *rows = [line.split() for line in said.out.splitlines()]
    assert head == ["ID", "TASK", "QUEUE", "AGE", "REASON"]
    assert [row[1] for row in rows] == ["(unreadable)", "proj.add[abd-2]", "proj.add[abc-1]"]
    assert tasks_of(dead) == [None, "abd-2", "abc-1"]
    assert tasks_of(dead, "-Q", "slow") == ["abd-2"]
    assert tasks_of(dead, "--limit", "1") == [None]


def test_ls_of_none(taskq: Taskq) -> None:
    said = taskq("dead", "ls")
    assert (said.code, said.out, said.err) == (0, "", "no dead letters\n")


def test_show_tells_all(dead: Taskq) -> None:
    said = dead("show", "abd")
    assert said.code == 0
    told = dict(line.split(maxsplit=1) for line in said.out.splitlines())
    assert told["task_id"] == "abd-2"
    assert told["queue"] == "slow"
    assert datetime.fromisoformat(told["at"]).timestamp() == NOW - 2000
    assert told["body"] == "[[], {}, {}]"
    assert json.loads(told["headers"])["lang"] == "py"
    assert json.loads(dead("show", "abd-2", "--json").out)["task"] == "proj.add"


def test_show_of_what_cannot_be_read(dead: Taskq) -> None:
    newest = json.loads(dead("ls", "--json").out.splitlines()[0])["id"]
    assert "raw          \\xff{" in dead("show", newest).out


def test_retry_sends_to_the_queue_it_was_in(dead: Taskq, taskq: Taskq) -> None:
    assert dead("retry", "abd", "--dry-run").out.startswith("would send 1 dead letter\n")
    assert dead("retry", "abd").out == "sent 1 task again\n"
    assert tasks_of(dead) == [None, "abc-1"]
    assert taskq("list", "queues", "-Q", "slow").out.split()[-1] == "1"


def test_retry_of_all_leaves_what_cannot_be_read(dead: Taskq) -> None:
    said = dead("retry", "--all")
    assert said.code == 1
    assert said.out == "sent 2 tasks again\n"
    assert "it cannot be read: it can only be removed" in said.err
    assert tasks_of(dead) == [None]


def test_retry_begins_with_fresh_retries(dead: Taskq, broker_url: str) -> None:
    tired = letter("9", "tired")
    assert tired.message is not None
    tired.message.headers["retries"] = 3
    bury(broker_url, [tired])
    assert dead("retry", "tired").code == 0
    assert received(broker_url).headers["retries"] == 0


def test_what_was_not_signed_is_not_signed_by_a_retry(
    dead: Taskq, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQ_SECURITY_SECRETS", SECRET)
    signed = letter("9", "signed")
    assert signed.message is not None
    signed.message.headers["retries"] = 3
    sign([signed.message], [SECRET])
    bury(broker_url, [signed])
    said = dead("retry", "abc-1")
    assert said.code == 1
    assert "it is not signed" in said.err
    assert dead("retry", "signed").code == 0
    verify(received(broker_url), [SECRET])


def received(url: str) -> Message:
    """The message that waits in the queue."""

    async def run() -> Message:
        async with TaskQ(broker=url) as app:
            consumer = await (await app.open_broker()).consume(["celery"], prefetch=1)
            [delivery] = await consumer.receive(1)
            await consumer.close()
            return delivery.message

    return asyncio.run(run())


def test_control_characters_are_written_out(dead: Taskq, broker_url: str) -> None:
    evil = letter("9", "evil\x1b[2J\n22  forged")
    evil.reason = "\x9b31m\u202eno\r"
    assert evil.message is not None
    evil.message.headers["x"] = "\x9b"
    bury(broker_url, [evil])
    for arguments in (("ls",), ("ls", "--json"), ("show", "evil"), ("retry", "evil", "--dry-run")):
        said = dead(*arguments).out
        assert not {"\x1b", "\x9b", "\r", "\u202e"}.intersection(said), arguments
        assert not any(line.startswith("22  forged") for line in said.splitlines())
    [row] = [json.loads(line) for line in dead("ls", "--json").out.splitlines() if "evil" in line]
    assert row["reason"] == evil.reason


def test_purge(dead: Taskq) -> None:
    assert dead("purge", "--all").code == 2
    assert "would remove 1 dead letter\n" in dead("purge", "--all", "-Q", "slow", "--dry-run").out
    assert len(tasks_of(dead)) == 3
    assert dead("purge", "abc-1", "-f").out == "removed 1 dead letter\n"
    assert dead("purge", "--all", "-f").out == "removed 2 dead letters\n"
    assert tasks_of(dead) == []


@pytest.mark.parametrize("arguments", [("retry",), ("retry", "abc", "--all"), ("purge", "-f")])
def test_which_ones_must_be_said(dead: Taskq, arguments: tuple[str, ...]) -> None:
    said = dead(*arguments)
    assert said.code == 2
    assert "say which: IDs, or --all" in said.err
    assert len(tasks_of(dead)) == 3


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        (["21"], ["21"]),  # whole, though it begins others' ids too
        (["abc"], ["21"]),
        (["abd-2", "22"], ["22"]),
        (["3", "abc-1"], ["3", "21"]),
    ],
)
def test_ids_are_those_of_letters_or_tasks_or_how_they_begin(ids: list[str], found: list[str]) -> None:
    assert [letter.id for letter in chosen(LETTERS, ids)] == found


def test_all_letters_of_one_task_are_meant_by_its_id() -> None:
    twice = [letter("5", "same-1"), letter("6", "same-1")]
    assert [letter.id for letter in chosen(twice, ["same"])] == ["5", "6"]


@pytest.mark.parametrize(
    ("id_", "text"), [("ab", "may be any of 2"), ("2", "may be any of 2"), ("x", "no dead letter 'x'")]
)
def test_ids_that_mean_none_or_several(id_: str, text: str) -> None:
    with pytest.raises(click.ClickException, match=text):
        chosen(LETTERS, [id_])


class Refusing:
    """A broker that refuses what goes to `slow`, or everything."""

    def __init__(self, broker: Broker, *, all_of_it: bool) -> None:
        self._broker = broker
        self._all_of_it = all_of_it

    async def publish(self, messages: Sequence[Message]) -> None:
        if self._all_of_it:
            raise OperationalError("away")
        refused = {i: OperationalError("full") for i, m in enumerate(messages) if m.routing_key == "slow"}
        await self._broker.publish([m for i, m in enumerate(messages) if i not in refused])
        raise PublishErrors(refused)

    async def revive(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        return await self._broker.revive(ids)


async def test_what_a_broker_refuses_stays(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with TaskQ(broker=broker_url) as app:
        broker = await app.open_broker()
        letters = await broker.dead()

        async def open_refusing(*, all_of_it: bool) -> Refusing:
            return Refusing(broker, all_of_it=all_of_it)

        monkeypatch.setattr(app, "open_broker", lambda: open_refusing(all_of_it=True))
        with pytest.raises(OperationalError, match="away"):
            await send_again(app, letters)
        assert len(await broker.dead()) == 3

        monkeypatch.setattr(app, "open_broker", lambda: open_refusing(all_of_it=False))
        failures = await send_again(app, letters)
        assert sorted(failures.values()) == ["full", "it cannot be read: it can only be removed"]
        assert [letter.queue for letter in await broker.dead()] == ["celery", "slow"]
        assert await broker.size("celery") == 1


def test_ids_are_shown_as_long_as_they_must_be_to_differ() -> None:
    alike = [letter("b54f0fd618fdaaba:0001", "t-1"), letter("b54f0fd618fdaaba:0002", "t-2")]
    assert [row[0] for row in _rows(alike)] == ["b54f0fd618fdaaba:0001", "b54f0fd618fdaaba:0002"]
    assert [row[0] for row in _rows(alike[:1])] == ["b54f0fd6"]
