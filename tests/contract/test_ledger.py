"""What every ledger keeps to: documents, marks and permits; and any interleaving of them, against a model."""

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from redis.asyncio import Redis

from taskq import TaskQ, clock
from taskq.errors import ConfigError, OperationalError
from taskq.seams.broker import BrokerConfig
from taskq.seams.ledger import (
    Document,
    Ledger,
    LedgerConfig,
    Mark,
    Pace,
    Slot,
    Wait,
    Want,
    find_ledger,
    open_ledger,
)
from taskq.seams.store import StoreConfig
from tests.contract.conftest import delete_keys
from tests.polling import eventually

T = TypeVar("T")

LEDGERS = ["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)]


@dataclass
class LedgerSite:
    """A fresh ledger; `advance` makes so many seconds pass for it."""

    url: str
    advance: Callable[[float], Awaitable[None]]
    options: dict[str, Any] = field(default_factory=dict)
    unreachable: str = ""

    def ledger(self) -> Ledger:
        return open_ledger(LedgerConfig(self.url, self.options))


class MovedClock:
    """The clock of this process, set forward; put right again by `close`."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._before = clock.set_source(lambda: time() + self._ahead)

    async def advance(self, seconds: float) -> None:
        self._ahead += seconds

    def close(self) -> None:
        clock.set_source(self._before)


class RedisTime:
    """The server's clock cannot be moved: instead all that is kept until some time is kept so much shorter."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url, self._prefix = url, prefix

    async def advance(self, seconds: float) -> None:
        async with Redis.from_url(self._url) as client:
            async for key in client.scan_iter(f"{self._prefix}taskq:*", count=1000):
                await self._age(client, key.decode(), seconds)

    async def _age(self, client: Any, key: str, seconds: float) -> None:
        kind = key.removeprefix(self._prefix).split(":")[1]
        if kind == "permit":
            for member, ends in await client.zrange(key, 0, -1, withscores=True):
                await client.zadd(key, {member: ends - seconds})
        if kind == "rate":
            following = float(await client.get(key) or 0) - seconds
            await client.set(key, f"{following:.6f}", keepttl=True)
        left = await client.pttl(key)
        if left > seconds * 1000:
            await client.pexpire(key, left - round(seconds * 1000))
        elif left > 0:
            await client.delete(key)


async def make_site(kind: str, folder: str, redis_url: str, stack: AsyncExitStack) -> LedgerSite:
    if kind == "redis":
        prefix, url = f"taskq-test-{uuid.uuid4()}:", f"{redis_url}/9"
        stack.push_async_callback(delete_keys, url, prefix)
        moved = RedisTime(url, prefix)
        options = {"global_keyprefix": prefix}
        return LedgerSite(url, moved.advance, options, "redis://user:s3cret@127.0.0.1:1/0")
    own = MovedClock()
    stack.callback(own.close)
    if kind == "sqlite":
        return LedgerSite(
            f"sqlite:///{folder}/taskq.db", own.advance, unreachable=f"sqlite:///{__file__}/taskq.db"
        )
    return LedgerSite(f"memory://{uuid.uuid4()}", own.advance)


@pytest.fixture(params=LEDGERS)
async def site(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> AsyncIterator[LedgerSite]:
    async with AsyncExitStack() as stack:
        yield await make_site(request.param, str(tmp_path), redis_url, stack)


Connect = Callable[[], Awaitable[Ledger]]


@pytest.fixture
async def connect(site: LedgerSite) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def open_one() -> Ledger:
            ledger = site.ledger()
            await ledger.open()
            stack.push_async_callback(ledger.close)
            return ledger

        yield open_one


@pytest.fixture
async def ledger(connect: Connect) -> Ledger:
    return await connect()


# == opening


async def test_a_ledger_that_cannot_be_opened_says_where(site: LedgerSite) -> None:
    if not site.unreachable:
        pytest.skip("it is always there")
    ledger = open_ledger(LedgerConfig(site.unreachable))
    with pytest.raises(OperationalError) as caught:
        await ledger.open()
    assert site.unreachable.partition("://")[0] in str(caught.value)
    assert "s3cret" not in str(caught.value)
    await ledger.close()


def test_no_ledger_is_known_for_other_schemes() -> None:
    with pytest.raises(ConfigError, match="no ledger for URL scheme 'amqp'"):
        open_ledger(LedgerConfig("amqp://"))


# == documents


async def test_documents_are_kept_by_kind_and_name(ledger: Ledger, connect: Connect) -> None:
    first = await ledger.put("a", "x", b"\x00:1\xff")
    await ledger.put("b", "x", b"")
    assert first is not None
    other = await connect()
    assert await other.get("a") == {"x": Document(first, b"\x00:1\xff")}
    assert (await other.get("b"))["x"].value == b""
    assert await other.get("a", ["x", "y"]) == await other.get("a")
    assert await other.get("a", ["y"]) == {}
    assert await other.get("c") == {}


async def test_a_new_value_has_a_higher_version_also_after_a_drop(ledger: Ledger) -> None:
    first = await ledger.put("a", "x", b"1")
    second = await ledger.put("a", "x", b"2")
    await ledger.drop("a", ["x", "never there"])
    assert await ledger.get("a") == {}
    third = await ledger.put("a", "x", b"3")
    assert 0 < (first or 0) < (second or 0) < (third or 0)


async def test_only_who_knows_the_version_may_change_it(ledger: Ledger) -> None:
    first = await ledger.put("a", "x", b"1", if_version=0)
    assert first is not None
    assert await ledger.put("a", "x", b"2", if_version=0) is None
    assert await ledger.put("a", "x", b"2", if_version=first + 1) is None
    assert (await ledger.get("a"))["x"] == Document(first, b"1")
    assert await ledger.put("a", "x", b"2", if_version=first) is not None
    assert await ledger.put("a", "y", b"2", if_version=first) is None


async def test_of_many_that_change_the_same_version_one_succeeds(connect: Connect) -> None:
    ledgers = [await connect() for _ in range(4)]
    versions = await asyncio.gather(*[one.put("a", "x", b"1", if_version=0) for one in ledgers])
    assert sum(version is not None for version in versions) == 1


async def test_changes_tells_at_once_and_after_each_change(ledger: Ledger, connect: Connect) -> None:
    changes = (await connect()).changes("a")
    async with asyncio.timeout(10):
        await anext(changes)
        told = asyncio.ensure_future(anext(changes))
        await ledger.put("a", "x", b"1")
        await told
        told = asyncio.ensure_future(anext(changes))
        await ledger.drop("a", ["x"])
        await told
    await changes.aclose()


async def test_changes_of_other_kinds_are_not_told(ledger: Ledger) -> None:
    changes = ledger.changes("a")
    await anext(changes)
    told = asyncio.ensure_future(anext(changes))
    await ledger.put("b", "x", b"1")
    await asyncio.wait([told], timeout=1.2)
    assert not told.done()
    await ledger.put("a", "x", b"1")
    await eventually(told.done)
    await changes.aclose()


# == marks


async def test_a_mark_belongs_to_one_until_its_lease_ends(ledger: Ledger, site: LedgerSite) -> None:
    mine, yours = Mark("x", "me", 30), Mark("x", "you", 30)
    assert await ledger.mark([mine, Mark("y", "me", 90)]) == [None, None]
    assert await ledger.mark([yours, mine]) == ["me", None]
    await ledger.unmark([yours])
    assert await ledger.mark([yours]) == ["me"]
    await site.advance(31)
    assert await ledger.mark([yours, Mark("y", "you", 1)]) == [None, "me"]
    await ledger.unmark([yours])
    assert await ledger.mark([mine]) == [None]


# == permits


async def test_a_gate_lets_so_many_in(ledger: Ledger, site: LedgerSite) -> None:
    asks = [[Slot("g", name, 2)] for name in "abc"]
    assert await ledger.acquire(asks, "me", 30) == [None, None, Wait("g", None)]
    assert await ledger.acquire([[Slot("g", "a", 2)]], "you", 30) == [None], (
        "a is in: it is not in its own way"
    )
    await ledger.release([Slot("g", "a", 2)], "me")
    assert await ledger.acquire([[Slot("g", "c", 2)]], "me", 30) == [Wait("g", None)], "a is another's now"
    await ledger.release([Slot("g", "a", 2)], "you")
    assert await ledger.acquire([[Slot("g", "c", 2)]], "me", 30) == [None]


async def test_a_slot_dies_with_its_lease(ledger: Ledger, site: LedgerSite) -> None:
    a, b = [Slot("g", "a", 1)], [Slot("g", "b", 1)]
    assert await ledger.acquire([a], "me", 30) == [None]
    await site.advance(20)
    await ledger.keep("me", 30)
    await site.advance(20)
    assert await ledger.acquire([b], "you", 30) == [Wait("g", None)]
    await site.advance(11)
    await ledger.keep("me", 30)
    assert await ledger.acquire([b], "you", 30) == [None], "what has ended is not kept"
    await ledger.release(a, "me")
    await ledger.keep("me", 30)
    assert await ledger.acquire([a], "me", 30) == [Wait("g", None)]


async def test_a_pace_lets_a_burst_through_and_then_one_each_interval(
    ledger: Ledger, site: LedgerSite
) -> None:
    pace = [Pace("r", 10, burst=3)]
    *granted, wait = await ledger.acquire([pace] * 4, "me", 30)
    assert granted == [None] * 3
    assert wait is not None
    assert wait.gate == "r"
    assert wait.seconds == pytest.approx(10, abs=2)
    await site.advance(25)
    *granted, wait = await ledger.acquire([pace] * 3, "me", 30)
    assert granted == [None] * 2
    assert wait is not None
    assert wait.seconds == pytest.approx(5, abs=2)


async def test_an_ask_is_granted_as_a_whole_or_not_at_all(ledger: Ledger) -> None:
    slow, fast = Pace("slow", 100), Pace("fast", 10)
    assert await ledger.acquire([[slow, fast]], "me", 30) == [None]
    [wait] = await ledger.acquire([[Slot("g", "a", 1), fast, slow]], "me", 30)
    assert wait is not None
    assert wait.gate == "slow", "the longest wait counts"
    assert await ledger.acquire([[Slot("g", "b", 1)]], "me", 30) == [None], "no slot was taken"
    assert await ledger.acquire([[slow, Slot("g", "a", 1)]], "me", 30) == [Wait("g", None)]


@pytest.mark.parametrize("gate", ["a:b", "7:x", "schön\n", "{g}", "*"])
async def test_names_may_be_any_text(ledger: Ledger, gate: str) -> None:
    slot, mark = Slot(gate, f"m{gate}", 1), Mark(gate, gate, 30)
    assert await ledger.acquire([[slot]], gate, 30) == [None]
    await ledger.keep(gate, 60)
    await ledger.release([slot], gate)
    assert await ledger.acquire([[Slot(gate, "other", 1)]], "me", 30) == [None]
    assert await ledger.mark([mark]) == [None]
    assert await ledger.mark([Mark(gate, "me", 30)]) == [gate]
    await ledger.put(gate, gate, gate.encode())
    assert {name: one.value for name, one in (await ledger.get(gate)).items()} == {gate: gate.encode()}


# == any interleaving, against a model

HOLDERS = st.sampled_from(["me", "you"])
#: Leases, intervals and steps of time never add up to the same moment within two seconds: real time passes, too.
LEASES = st.sampled_from([14.0, 34.0])
SLOTS = st.builds(Slot, st.sampled_from(["g", "h"]), st.sampled_from("abc"), st.integers(1, 2))
PACES = st.just(Pace("r", 100.0, 2))


class LedgerMachine(RuleBasedStateMachine):
    """Two connections to a ledger, and a model of what it holds. Time is made to pass, never waited for."""

    kind = "memory"
    redis_url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.stack = AsyncExitStack()
        self.site = self.run(lambda: make_site(self.kind, self.folder.name, self.redis_url, self.stack))
        self.ledgers = [self.site.ledger() for _ in range(2)]
        for ledger in self.ledgers:
            self.run(ledger.open)
        self.time = 0
        self.documents: dict[str, Document] = {}
        self.version = 0
        self.marks: dict[str, tuple[str, float]] = {}
        self.slots: dict[tuple[str, str], tuple[str, float]] = {}
        self.next = 0.0  # the next start at the pace

    def run(self, call: Callable[[], Awaitable[T]]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(20):
                return await call()

        return self.runner.run(bounded())

    @rule(seconds=st.sampled_from([4, 8, 24]))
    def advance(self, seconds: int) -> None:
        self.run(lambda: self.site.advance(seconds))
        self.time += seconds
        self.marks = {name: mark for name, mark in self.marks.items() if mark[1] > self.time}
        self.slots = {key: slot for key, slot in self.slots.items() if slot[1] > self.time}

    def teardown(self) -> None:
        for ledger in self.ledgers:
            self.run(ledger.close)
        self.run(self.stack.aclose)
        self.runner.close()
        self.folder.cleanup()


class DocumentsMachine(LedgerMachine):
    """Documents and marks."""

    @rule(
        who=st.integers(0, 1),
        name=st.sampled_from("xy"),
        value=st.binary(max_size=3),
        known=st.sampled_from([None, "none", "present", "old"]),
    )
    def put(self, who: int, name: str, value: bytes, known: str | None) -> None:
        present = self.documents[name].version if name in self.documents else 0
        wanted = {None: None, "none": 0, "present": present, "old": present + 1}[known]
        version = self.run(lambda: self.ledgers[who].put("k", name, value, if_version=wanted))
        if wanted in {None, present}:
            assert version is not None
            assert version > self.version
            self.version = version
            self.documents[name] = Document(version, value)
        else:
            assert version is None

    @rule(who=st.integers(0, 1), name=st.sampled_from("xy"))
    def drop(self, who: int, name: str) -> None:
        self.run(lambda: self.ledgers[who].drop("k", [name]))
        self.documents.pop(name, None)

    @rule(who=st.integers(0, 1))
    def get(self, who: int) -> None:
        assert self.run(lambda: self.ledgers[who].get("k")) == self.documents

    @rule(who=st.integers(0, 1), name=st.sampled_from("mn"), holder=HOLDERS, lease=LEASES)
    def mark(self, who: int, name: str, holder: str, lease: float) -> None:
        [other] = self.run(lambda: self.ledgers[who].mark([Mark(name, holder, lease)]))
        has = self.marks.get(name, (holder, 0))[0]
        assert other == (None if has == holder else has)
        if has == holder:
            self.marks[name] = holder, self.time + lease

    @rule(who=st.integers(0, 1), name=st.sampled_from("mn"), holder=HOLDERS)
    def unmark(self, who: int, name: str, holder: str) -> None:
        self.run(lambda: self.ledgers[who].unmark([Mark(name, holder, 1)]))
        if self.marks.get(name, ("", 0))[0] == holder:
            del self.marks[name]


class PermitsMachine(LedgerMachine):
    """Slots and paces."""

    @rule(
        who=st.integers(0, 1),
        asks=st.lists(
            st.lists(SLOTS | PACES, min_size=1, max_size=2, unique_by=lambda want: want.gate),
            min_size=1,
            max_size=3,
        ),
        holder=HOLDERS,
        lease=LEASES,
    )
    def acquire(self, who: int, asks: list[list[Want]], holder: str, lease: float) -> None:
        answers = self.run(lambda: self.ledgers[who].acquire(asks, holder, lease))
        for wants, answer in zip(asks, answers, strict=True):
            full = [want.gate for want in wants if isinstance(want, Slot) and self.is_full(want)]
            paced = any(isinstance(want, Pace) for want in wants)
            early = self.next - 100 - self.time if paced else 0
            if full:
                assert answer == Wait(full[0], None)
            elif early > 0:
                assert answer is not None
                assert answer.seconds == pytest.approx(early, abs=2)
            else:
                assert answer is None
                self.take(wants, holder, lease)

    def is_full(self, want: Slot) -> bool:
        inside = [member for gate, member in self.slots if gate == want.gate]
        return want.member not in inside and len(inside) >= want.limit

    def take(self, wants: list[Want], holder: str, lease: float) -> None:
        for want in wants:
            if isinstance(want, Slot):
                self.slots[want.gate, want.member] = holder, self.time + lease
            else:
                self.next = max(self.next, self.time) + want.interval

    @rule(who=st.integers(0, 1), slot=SLOTS, holder=HOLDERS)
    def release(self, who: int, slot: Slot, holder: str) -> None:
        self.run(lambda: self.ledgers[who].release([slot], holder))
        if self.slots.get((slot.gate, slot.member), ("", 0))[0] == holder:
            del self.slots[slot.gate, slot.member]

    @rule(who=st.integers(0, 1), holder=HOLDERS, lease=LEASES)
    def keep(self, who: int, holder: str, lease: float) -> None:
        self.run(lambda: self.ledgers[who].keep(holder, lease))
        for key, (by, _) in self.slots.items():
            if by == holder:
                self.slots[key] = holder, self.time + lease


@pytest.mark.timeout(300)
@pytest.mark.parametrize("base", [DocumentsMachine, PermitsMachine])
@pytest.mark.parametrize(
    ("kind", "examples"), [("memory", 60), ("sqlite", 30), pytest.param("redis", 15, marks=pytest.mark.redis)]
)
def test_any_interleaving_does_what_the_model_does(
    kind: str, examples: int, base: type[LedgerMachine], redis_url: str
) -> None:
    machine = type(f"{kind}{base.__name__}", (base,), {"kind": kind, "redis_url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
        ),
    )


# == where it lives


REDIS, RABBIT, FILE = "redis://one/0", "amqp://guest:s3cret@two//", "sqlite:///three.db"


@pytest.mark.parametrize(
    ("named", "broker", "store", "found"),
    [
        (None, REDIS, FILE, (REDIS, "broker")),
        (None, RABBIT, FILE, (FILE, "store")),
        (None, FILE, "disabled://", (FILE, "broker")),
        (FILE, REDIS, FILE, (FILE, "store")),
        ("redis://four/0", RABBIT, f"rpc+{RABBIT}", ("redis://four/0", "")),
    ],
)
def test_a_ledger_lives_where_it_is_named_or_with_broker_or_results(
    named: str | None, broker: str, store: str, found: tuple[str, str]
) -> None:
    places = BrokerConfig(broker, options={"of": "broker"}), StoreConfig(store, options={"of": "store"})
    config = find_ledger(named, *places, "a schedule")
    assert (config.url, config.options.get("of", "")) == found


def test_without_a_place_the_error_names_feature_and_setting() -> None:
    with pytest.raises(ConfigError, match=r"a schedule needs .* set ledger_url") as caught:
        find_ledger(None, BrokerConfig(RABBIT), StoreConfig(f"rpc+{RABBIT}"), "a schedule")
    assert "s3cret" not in str(caught.value)


async def test_an_app_has_one_ledger_for_each_loop_and_closes_it(tmp_path: Path) -> None:
    async with TaskQ(broker=f"sqlite:///{tmp_path}/taskq.db") as app:
        connection = app.shared_connection()
        ledger = await connection.open_ledger("a test")
        assert await connection.open_ledger("a test") is ledger
    with pytest.raises(OperationalError, match="not open"):
        await ledger.get("k")
