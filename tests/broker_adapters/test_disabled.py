import pytest

from taskq.errors import StoreError
from taskq.seams.store import ResultStore, StoreConfig, TaskResult, open_store
from taskq.states import SUCCESS


async def opened() -> ResultStore:
    store = open_store(StoreConfig("disabled://"))
    await store.open()
    await store.expect(["a"])
    return store


async def test_saving_and_forgetting_pass_silently() -> None:
    store = await opened()
    await store.save([TaskResult("a", SUCCESS, 1)])
    await store.forget(["a"])
    await store.forget_group("g")
    await store.end_chords(["g"])
    assert await store.join(TaskResult("a", SUCCESS, 1, group_id="g"), 0) is None
    await store.close()
    assert store.reply_to == ""


async def test_asking_says_which_setting_to_set() -> None:
    store = await opened()
    with pytest.raises(StoreError, match="set it to a store, for example result_backend="):
        await store.load(["a"])
    with pytest.raises(StoreError, match="result_backend"):
        await anext(store.watch("a"))
    with pytest.raises(StoreError, match="result_backend"):
        await store.save_group("g", {})
    with pytest.raises(StoreError, match="result_backend"):
        await store.load_group("g")
    with pytest.raises(StoreError, match=r"chords g, h.*result_backend="):
        await store.begin_chords({"g": 2, "h": 1})
    with pytest.raises(StoreError, match="result_backend="):
        await store.grow_chord("g", "a")
