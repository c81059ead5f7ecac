"""What our Redis store writes is what a real Celery wrote: keys, TTL, texts, channels (wire-format.md 4.2, 4.3)."""

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from celery.backends.base import compress_payload
from redis.asyncio import Redis

from taskq.errors import StoreError
from taskq.seams.store import ResultStore, StoreConfig, TaskResult, open_store
from taskq.states import FAILURE, SUCCESS
from taskq.wire.serializers import get_serializer

pytestmark = pytest.mark.redis

RECORDS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "results_redis.json").read_text()
)["data"]
TASK_RESULTS = [
    pytest.param(result, id=f"{record['case']}-{n}")
    for record in RECORDS
    for n, result in enumerate(record.get("results", ()))
    if result["key"].startswith("celery-task-meta-") and result.get("set_value")
]


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(f"{redis_url}/9", protocol=2) as opened:
        yield opened


@pytest.fixture
def prefix() -> str:
    return f"taskq-test-{uuid.uuid4()}"


@pytest.fixture
async def store(redis_url: str, client: Redis, prefix: str) -> AsyncIterator[ResultStore]:
    opened = open_store(StoreConfig(f"{redis_url}/9", options={"global_keyprefix": prefix}))
    await opened.open()
    yield opened
    await opened.close()
    if keys := [key async for key in client.scan_iter(f"{prefix}*", count=1000)]:
        await client.delete(*keys)


@pytest.mark.parametrize("golden", TASK_RESULTS)
async def test_states_are_stored_and_published_as_celery_does(
    store: ResultStore, client: Redis, prefix: str, golden: dict[str, Any]
) -> None:
    key = f"{prefix}_{golden['key']}"  # an underscore joins the prefix
    async with client.pubsub(ignore_subscribe_messages=True) as listener:
        await listener.subscribe(key)
        await listener.get_message(timeout=5)
        for text in golden["published"]:
            await store.save([TaskResult.from_payload(json.loads(text))])
            heard = await listener.get_message(timeout=5)
            assert json.loads(heard["data"]) == json.loads(text)
    assert json.loads(await client.get(key) or "") == json.loads(golden["set_value"])
    assert 86000 < await client.ttl(key) <= 86400


@pytest.mark.parametrize("method", ["gzip", "bzip2", "lzma", "brotli"])
async def test_results_that_celery_compressed_are_read(
    store: ResultStore, client: Redis, prefix: str, method: str
) -> None:
    payload = TaskResult("t", SUCCESS, "x" * 1000).payload()
    await client.set(f"{prefix}_celery-task-meta-t", compress_payload(json.dumps(payload).encode(), method))
    (found,) = await store.load(["t"])
    assert found is not None
    assert found.value == "x" * 1000
    assert [state.value async for state in store.watch("t")] == ["x" * 1000]


async def test_a_compressed_result_that_cannot_be_read_is_one_clear_error(
    store: ResultStore, client: Redis, prefix: str
) -> None:
    await client.set(f"{prefix}_celery-task-meta-t", b"\0celery-compressed\0application/x-snow\0abc")
    with pytest.raises(StoreError, match="unknown compression 'application/x-snow'"):
        await store.load(["t"])


@pytest.mark.parametrize("text", [json.dumps({"status": SUCCESS, "result": 1, "task_id": "t"}), None])
@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle"])
async def test_success_is_final_whoever_wrote_it_and_however(
    redis_url: str, store: ResultStore, client: Redis, prefix: str, serializer: str, text: str | None
) -> None:
    chosen = get_serializer(serializer)
    config = StoreConfig(f"{redis_url}/9", serializer=chosen, options={"global_keyprefix": prefix})
    writer = open_store(config)
    await writer.open()
    if text is None:
        await writer.save([TaskResult("t", SUCCESS, 1)])
    else:  # another program may order the keys differently
        written = chosen.dumps(json.loads(text))
        reordered = b'{"task_id": "t", "result": 1, "status": "SUCCESS"}' if serializer == "json" else written
        await client.set(f"{prefix}_celery-task-meta-t", reordered)
    await writer.save([TaskResult("t", FAILURE, "late"), TaskResult("u", FAILURE, "SUCCESS")])
    await writer.save([TaskResult("u", FAILURE, "status: SUCCESS")])
    t, u = await writer.load(["t", "u"])
    await writer.close()
    assert t == TaskResult("t", SUCCESS, 1)
    assert u == TaskResult("u", FAILURE, "status: SUCCESS")


@pytest.mark.parametrize("value", [b"", b"{", b"null", b"[]", b"\xff", b'{"status": "SUCCESS"}'])
async def test_what_is_no_result_is_an_error(
    store: ResultStore, client: Redis, prefix: str, value: bytes
) -> None:
    await client.set(f"{prefix}_celery-task-meta-t", value)
    with pytest.raises(StoreError, match="stored"):
        await store.load(["t"])
    with pytest.raises(StoreError, match="stored"):
        await anext(store.watch("t"))


@pytest.mark.parametrize(
    ("given", "expected"), [("", ""), ("p", "p_"), ("p:", "p:"), ("p-", "p-"), ("p.", "p.")]
)
async def test_the_prefix_of_groups(
    redis_url: str, client: Redis, prefix: str, given: str, expected: str
) -> None:
    opened = open_store(StoreConfig(f"{redis_url}/9", options={"global_keyprefix": given}))
    await opened.open()
    await opened.save_group(prefix, {"result": [[prefix, None], []]})
    key = f"{expected}celery-taskset-meta-{prefix}"
    assert json.loads(await client.get(key) or "") == {"result": [[prefix, None], []]}
    assert 86000 < await client.ttl(key) <= 86400
    await opened.forget_group(prefix)
    assert await client.exists(key) == 0
    await opened.close()
