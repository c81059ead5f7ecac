import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from taskq.broker_adapters.sqlite import states as sqlite_states
from taskq.broker_adapters.sqlite.store import CLEAN_EVERY, SqliteStore
from taskq.errors import StoreError
from taskq.seams.store import StoreConfig, TaskResult
from tests.polling import eventually


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    one = SqliteStore(StoreConfig(f"sqlite:///{tmp_path}/x.db"))
    await one.open()
    yield one
    await one.close()


def rows(tmp_path: Path) -> int:
    with closing(sqlite3.connect(tmp_path / "x.db")) as db:
        return int(db.execute("SELECT count(*) FROM states").fetchone()[0])


async def test_closing_the_store_ends_its_watches_with_an_error(store: SqliteStore) -> None:
    waiting = asyncio.ensure_future(anext(store.watch("t")))
    await eventually(lambda: store.feed.watchers("t") == 1)
    await store.save([TaskResult("other", "SUCCESS", 1)])
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await waiting
    with pytest.raises(StoreError, match="not open"):
        await anext(store.watch("t"))
    assert store.feed.watchers("t") == 0


async def test_a_file_that_cannot_be_read_for_a_moment_is_got_over(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    states = store.watch("t")
    waiting = asyncio.ensure_future(anext(states))
    await eventually(lambda: store.feed.watchers("t") == 1)

    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_states, "changes", broken)
        await store.save([TaskResult("t", "PROGRESS", 1)])
        await eventually(
            lambda: (
                "for a moment); trying again until it works" in caplog.text
                or "for a moment; trying again" in caplog.text
            )
        )
    assert (await waiting).value == 1
    await states.aclose()


async def test_more_changes_than_are_read_at_a_time(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_states, "MOST_CHANGES", 10)
    states = store.watch("t")
    waiting = asyncio.ensure_future(anext(states))
    await eventually(lambda: store.feed.watchers("t") == 1)
    await store.save([TaskResult(f"o{n}", "SUCCESS", n) for n in range(95)])
    await store.save([TaskResult("t", "SUCCESS", "last")])
    assert (await waiting).value == "last"
    await states.aclose()


async def test_what_expired_is_removed_little_by_little(store: SqliteStore, tmp_path: Path) -> None:
    brief = SqliteStore(StoreConfig(f"sqlite:///{tmp_path}/x.db", expires=0.05))
    await brief.open()
    await brief.save([TaskResult(f"b{n}", "SUCCESS", n) for n in range(150)])
    kept = 0

    async def bounded() -> bool:
        nonlocal kept
        kept += CLEAN_EVERY
        await store.save([TaskResult(f"k{kept}-{n}", "SUCCESS", n) for n in range(CLEAN_EVERY)])
        return rows(tmp_path) == kept

    await eventually(bounded)
    await brief.close()


async def test_overtaken_states_are_removed_and_present_ones_stay(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save([TaskResult("t", "PROGRESS", n) for n in range(100)])
    await store.save([TaskResult("u", "PROGRESS", 1), TaskResult("v", "FAILURE", 1)])
    later = time.time() + sqlite_states.OVERTAKEN + 1
    monkeypatch.setattr(sqlite_states, "now", lambda: later)
    await store.save([TaskResult(f"k{n}", "SUCCESS", n) for n in range(CLEAN_EVERY)])
    assert rows(tmp_path) == 3 + CLEAN_EVERY
    loaded = await store.load(["t", "u", "v"])
    assert [one and (one.state, one.value) for one in loaded] == [
        ("PROGRESS", 99),
        ("PROGRESS", 1),
        ("FAILURE", 1),
    ]
