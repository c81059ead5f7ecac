"""Our workflows beside those a real Celery built and sent: signatures, handles, messages, follow-ups, chord keys."""

import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from taskq import Signature, Task, TaskQ, chain, chord, group, signature
from taskq.canvas.lowering import frozen, result_tuple
from taskq.canvas.signature import as_signature
from taskq.errors import Replaced
from taskq.run.chords import completed
from taskq.run.followups import after_failure, after_success, replaced
from taskq.run.outcome import ChordPart
from taskq.seams.store import StoreConfig, TaskResult, open_store
from taskq.wire.envelope import loads
from taskq.wire.message import Message
from taskq.wire.protocol import decode
from taskq.wire.request import Request

GOLDEN = Path(__file__).parent / "golden"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def golden(name: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = json.loads((GOLDEN / f"{name}.json").read_text())["data"]
    return data


def case(name: str, key: str, file: str) -> dict[str, Any]:
    return next(record for record in golden(file) if record[key] == name)


app = TaskQ("golden", broker="memory://golden")


@app.task(name="golden.add")
def add(x: int, y: int, z: int = 0) -> int:
    return x + y + z


@app.task(name="golden.xsum")
def xsum(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="golden.fail")
def fail(text: str) -> None:
    raise ValueError(text)


@app.task(name="golden.old_errback")
def old_errback(task_id: str) -> None:
    pass


@app.task(name="golden.new_errback")
def new_errback(request: Any, exc: Any, traceback: Any) -> None:
    pass


@app.task(name="golden.replace_with_add", bind=True)
def replace_with_add(self: Task[Any, Any, Any], x: int) -> None:
    pass


#: What means nothing beside the rest, or differs in every run.
DROPPED = frozenset(("reply_to", "origin", "stamped_headers", "correlation_id", "eta", "ignore_result"))
#: What Celery writes into signatures that a worker sends on, and that the worker who runs them knows by itself.
REPEATED = frozenset(("root_id", "replaced_task_nesting"))


def comparable(value: Any) -> Any:
    """With ids by the order in which they come, and without what is empty."""
    ids: dict[str, str] = {}

    def named(match: re.Match[str]) -> str:
        return ids.setdefault(match[0], f"id{len(ids)}")

    return json.loads(UUID.sub(named, json.dumps(cleaned(value))))


def cleaned(value: Any, dropped: frozenset[str] = DROPPED) -> Any:
    if isinstance(value, Mapping):
        return {
            key: cleaned(item, DROPPED | REPEATED if key == "options" else DROPPED)
            for key, item in sorted(value.items())
            if key not in dropped and item is not None and item != []
        }
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    # Celery shows the arguments of a signature from the wire as a list.
    return f"({value[1:-1]})" if isinstance(value, str) and value[:1] + value[-1:] == "[]" else value


# == signatures

SIGNATURES: dict[str, Callable[[], Signature[Any]]] = {
    "add.s(2, 2)": lambda: add.s(2, 2),
    "add.s(2, y=3)": lambda: add.s(2, y=3),
    "add.si(2, 2)": lambda: add.si(2, 2),
    "signature('golden.add', args=(1,), kwargs={'y': 2}, countdown=5, queue='q')": lambda: signature(
        "golden.add", args=(1,), kwargs={"y": 2}, countdown=5, queue="q"
    ),
    "add.s(1).set(countdown=3, expires=60, priority=5)": lambda: add.s(1).set(
        countdown=3, expires=60, priority=5
    ),
    "add.s(1, 1) with link and link_error": lambda: add.s(1, 1).link(add.s(2)).link_error(old_errback.s()),
    "chain(add.s(1,1), add.s(2))": lambda: chain(add.s(1, 1), add.s(2)),
    "group(add.s(1,1), add.s(2,2))": lambda: group(add.s(1, 1), add.s(2, 2)),
    "chord([add.s(1,1), add.s(2,2)], xsum.s())": lambda: chord([add.s(1, 1), add.s(2, 2)], xsum.s()),
    "group(add.s(1,1), add.s(2,2)) | xsum.s()": lambda: group(add.s(1, 1), add.s(2, 2)) | xsum.s(),
    "add.s(1,1) | group(add.s(1), add.s(2)) | xsum.s() | add.s(3)": lambda: (
        add.s(1, 1) | group(add.s(1), add.s(2)) | xsum.s() | add.s(3)
    ),
    "group(add.s(1,1) | add.s(2), add.s(3,3))": lambda: group(add.s(1, 1) | add.s(2), add.s(3, 3)),
    "xsum.map([[1,2],[3,4]])": lambda: xsum.map([[1, 2], [3, 4]]),
    "add.starmap([(1,2),(3,4)])": lambda: add.starmap([(1, 2), (3, 4)]),
}


def as_header_list(value: Any) -> Any:
    """A header as the list of its members, which Celery writes until the chord is frozen."""
    if isinstance(value, Mapping):
        changed = {key: as_header_list(item) for key, item in value.items()}
        header = changed.get("header")
        if isinstance(header, Mapping):
            changed["header"] = header["kwargs"]["tasks"]
        return changed
    return [as_header_list(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("expression", SIGNATURES)
def test_signatures_are_written_as_celery_writes_them(expression: str) -> None:
    record = case(expression, "expression", "canvas_signatures")
    ours = SIGNATURES[expression]()
    assert comparable(as_header_list(ours.to_dict())) == comparable(as_header_list(record["json"]))


@pytest.mark.parametrize("expression", SIGNATURES)
def test_signatures_of_celery_are_read(expression: str) -> None:
    record = case(expression, "expression", "canvas_signatures")
    assert as_signature(record["json"]) == SIGNATURES[expression]()


@pytest.mark.parametrize("expression", SIGNATURES)
def test_handles_are_written_as_celery_writes_them(expression: str) -> None:
    record = case(expression, "expression", "canvas_signatures")
    if "result_as_tuple" in record:
        ours = result_tuple(frozen(SIGNATURES[expression](), ""))
        assert comparable(ours) == comparable(record["result_as_tuple"])


# == messages of a client

CALLS: dict[str, Callable[[], Signature[Any]]] = {
    "chain3": lambda: chain(add.s(2, 2), add.s(4), add.s(8)),
    "chain_immutable": lambda: add.s(2, 2) | add.si(1, 1),
    "chain_with_options": lambda: chain(add.s(2, 2), add.s(4).set(queue="sink", countdown=5, priority=3)),
    "chain_link_error": lambda: chain(add.s(2, 2), add.s(4)).on_error(old_errback.s()),
    "group3": lambda: group(add.s(1, 1), add.s(2, 2), add.s(3, 3)),
    "group_of_chains": lambda: group(add.s(1, 1) | add.s(10), add.s(2, 2) | add.s(20)),
    "stamps": lambda: add.s(2, 2).stamp(tenant="acme", ids=[1, 2]),
    "xmap": lambda: xsum.map([[1, 2], [3, 4]]),
    "xstarmap": lambda: add.starmap([(1, 2), (3, 4)]),
    "chunks": lambda: add.chunks([(1, 2), (3, 4), (5, 6)], 2),
    "chord": lambda: chord([add.s(1, 1), add.s(2, 2), add.s(3, 3)], xsum.s()),
    "group_then_task_upgrades_to_chord": lambda: group(add.s(1, 1), add.s(2, 2)) | xsum.s(),
    "chain_group_task": lambda: add.s(1, 1) | group(add.s(1), add.s(2)) | xsum.s(),
    "chord_body_chain": lambda: chord([add.s(1, 1), add.s(2, 2)], xsum.s() | add.s(5)),
    "chord_link_error": lambda: chord([add.s(1, 1), add.s(2, 2)], xsum.s().on_error(old_errback.s())),
}


def fields(message: Message) -> Any:
    """What a message says: its headers but for the sender's, its arguments, and what follows."""
    args, kwargs, embed = json.loads(message.body)
    headers = dict(message.headers)
    if "it" in kwargs:  # a list where Celery shows a tuple
        del headers["kwargsrepr"]
    return [headers, args, kwargs, embed, message.routing_key, message.priority]


def compared(messages: Iterable[Message]) -> Any:
    """In the order of their group: Celery's are listed by the time of their arrival, backwards."""
    ordered = sorted(messages, key=lambda one: (one.headers["group_index"] or 0, one.headers["argsrepr"]))
    return comparable([fields(message) for message in ordered])


def of_celery(name: str, file: str) -> list[Message]:
    return [loads(raw.encode()) for raw in case(name, "case", file)["messages"]]


@pytest.mark.parametrize("name", CALLS)
def test_messages_are_those_of_celery(name: str) -> None:
    ours = app.prepare(CALLS[name]()).messages
    assert compared(ours) == compared(of_celery(name, "messages_redis"))


# == messages of a worker


def sink(made: Signature[Any]) -> Signature[Any]:
    return made.set(queue="sink")


def run_of(made: Signature[Any]) -> Request:
    """The run of the first message of a call."""
    return decode(app.prepare(made).messages[0], accept=frozenset(["json"]))


def called(made: Signature[Any], value: Any) -> list[Message]:
    return after_success(app, run_of(made), value).messages


def failed(made: Signature[Any]) -> list[Message]:
    return after_failure(app, run_of(made), ValueError("boom"), None).follow.messages


ADD = add.s(1, 1)
FOLLOW_UPS: dict[str, Callable[[], list[Message]]] = {
    "link": lambda: called(ADD.link(sink(add.s(5))), 2),
    "link_immutable": lambda: called(ADD.link(sink(add.si(5, 5))), 2),
    "link_kwargs_and_partial": lambda: called(ADD.link(sink(add.s(5, z=7))), 2),
    "link_two": lambda: called(ADD.link(sink(add.s(5)), sink(add.s(6))), 2),
    "link_group": lambda: called(ADD.link(group(sink(add.s(5)), sink(add.s(6)))), 2),
    "link_group_and_task": lambda: called(ADD.link(group(sink(add.s(5)), sink(add.s(6))), sink(add.s(7))), 2),
    "link_chain": lambda: called(ADD.link(sink(add.s(5)) | sink(add.s(6))), 2),
    "link_error_old_style": lambda: failed(fail.si("boom").link_error(sink(old_errback.s()))),
    "link_error_old_style_two": lambda: failed(
        fail.si("boom").link_error(sink(old_errback.s()), sink(old_errback.si("fixed")))
    ),
    "link_error_unregistered": lambda: failed(
        fail.si("boom").link_error(sink(app.signature("other.lang.errback")))
    ),
    "link_error_new_style": lambda: failed(fail.si("boom").link_error(new_errback.s())),
    "chain_step": lambda: called(chain(ADD, sink(add.s(2)), sink(add.s(3))), 2),
    "chain_step_into_group": lambda: called(chain(ADD, group(sink(add.s(2)), sink(add.s(3)))), 2),
    "chain_step_into_chord": lambda: called(
        ADD | group(sink(add.s(2)), sink(add.s(3))) | xsum.s().set(queue="sink2"), 2
    ),
    "replace_inside_chain": lambda: (
        replaced(
            app, run_of(chain(replace_with_add.s(1), sink(add.s(5)))), Replaced(sink(add.si(1, 100)))
        ).messages
    ),
    "replace_with_task": lambda: (
        replaced(
            app, run_of(replace_with_add.s(1).link(sink(add.s(9)))), Replaced(sink(add.si(1, 100)))
        ).messages
    ),
}


@pytest.mark.parametrize("name", FOLLOW_UPS)
def test_follow_ups_are_those_of_celery(name: str) -> None:
    assert compared(FOLLOW_UPS[name]()) == compared(of_celery(name, "followups_redis"))


def test_a_group_in_place_of_a_task_is_that_of_celery() -> None:
    instead = group(sink(add.si(1, 1)), sink(add.si(1, 2)))
    ours = compared(replaced(app, run_of(replace_with_add.s(1)), Replaced(instead)).messages)
    for _, _, _, embed, *_ in ours:  # ours says so of every body, Celery's not of this one
        del embed["chord"]["options"]["group_id"]
    assert ours == compared(of_celery("replace_with_group", "followups_redis"))


def test_the_body_of_a_chord_is_sent_as_celery_sends_it() -> None:
    parts = [TaskResult("a", "SUCCESS", 2), TaskResult("b", "SUCCESS", 4)]
    run = run_of(chord([add.s(1, 1), add.s(2, 2)], sink(xsum.s())))
    assert run.chord is not None
    done = completed(app, ChordPart(run.chord, 1, parts[1], run), parts)
    assert compared(done.follow.messages) == compared(
        of_celery("body_message_sent_by_worker", "chords_redis")
    )


# == chords on Redis


@pytest.fixture
async def chord_keys(redis_url: str) -> AsyncIterator[tuple[Any, Callable[[], Any]]]:
    """A store with a prefix of its own, and what there is under it, without the prefix and the id."""
    prefix, gid = f"taskq-test-{uuid.uuid4()}:", str(uuid.uuid4())
    client = Redis.from_url(f"{redis_url}/9", decode_responses=True)
    store = open_store(StoreConfig(f"{redis_url}/9", options={"global_keyprefix": prefix}))
    await store.open()

    async def keys() -> dict[str, Any]:
        found = {}
        async for key in client.scan_iter(f"{prefix}celery-taskset-meta-*", count=1000):
            value: Any
            match await client.type(key):
                case "string":
                    value = await client.get(key)
                case "set":
                    value = await client.smembers(key)
                case _:
                    value = [[*pair] for pair in await client.zrange(key, 0, -1, withscores=True)]
            found[key.rpartition(".")[2]] = sorted(value) if isinstance(value, set) else value
        return found

    yield (store, gid), keys
    await store.end_chords([gid])
    await client.delete(f"{prefix}celery-taskset-meta-{gid}.c")
    await store.close()
    await client.aclose()


def golden_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, entry in keys.items():
        value = entry["value"]
        found[key.rpartition(".")[2]] = sorted(value) if entry["type"] == "set" else value
    return found


@pytest.mark.redis
async def test_the_keys_of_a_chord_are_those_of_celery(chord_keys: tuple[Any, Any]) -> None:
    (store, gid), keys = chord_keys
    record = case("simple", "case", "chords_redis")
    during = golden_keys(record["during"])
    ids = [json.loads(member)[1] for member, _ in during["j"]]
    await store.begin_chords({gid: 3})
    for index in (1, 0):
        await store.join(TaskResult(ids[index], "SUCCESS", 2 * index + 2, group_id=gid), index)
    assert comparable(await keys()) == comparable(during)
    await store.join(TaskResult("last", "SUCCESS", 6, group_id=gid), 2)
    await store.end_chords([gid])
    assert await keys() == golden_keys(record["after"])


@pytest.mark.redis
async def test_a_failed_part_is_written_as_celery_writes_it(chord_keys: tuple[Any, Any]) -> None:
    (store, gid), keys = chord_keys
    during = golden_keys(case("failing_header", "case", "chords_redis")["during"])
    parts = [json.loads(member) for member, _ in during["j"]]
    await store.begin_chords({gid: 3})
    for index, (_, task_id, state, value) in enumerate(parts):
        await store.join(TaskResult(task_id, state, value, group_id=gid), index)
    ours = await keys()
    assert ours.pop("f") == "1"  # our own mark: one has failed
    assert ours.pop("c") == f"{parts[1][1]}:1"  # which we act upon at once
    assert comparable(ours) == comparable(during)


@pytest.mark.redis
async def test_results_have_the_form_of_a_header_that_celery_has_saved(chord_keys: tuple[Any, Any]) -> None:
    (store, gid), _ = chord_keys
    record = case("chain_ending_in_group_in_header", "case", "chords_redis")
    saved = json.loads(next(v["value"] for k, v in record["during"].items() if k[-2:-1] != "."))
    [_, nodes] = saved["result"]
    [pair, single] = nodes
    await store.save_group(gid, saved)
    await store.begin_chords({gid: 3})
    one, two = [member[0][0] for member in pair[1]]
    assert await store.join(TaskResult(one, "SUCCESS", 3, group_id=gid), 0) is None
    assert await store.join(TaskResult(single[0][0], "SUCCESS", 4, group_id=gid), 1) is None
    joined = await store.join(TaskResult(two, "SUCCESS", 4, group_id=gid), 1)
    assert [part.value for part in joined] == [[3, 4], 4]
