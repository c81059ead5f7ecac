"""The app: what it sends, what it finds, what it says of itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from taskq import AsyncResult, NotRegistered, OperationalError, Task, TaskQ, group
from taskq.config.celery_names import APP_ATTRIBUTES
from taskq.errors import BrokerFull, ConfigError, DecodeError, EncodeError, PublishErrors
from tests.faults import fail
from tests.harness import Place

AnyTask = Task[Any, Any, Any]


@pytest.fixture
def frail() -> TaskQ:
    return Place("faulty://app", "faulty://app").app()


async def test_of_a_group_only_the_refused_members_are_sent_again(frail: TaskQ) -> None:
    @frail.task
    def act(number: int) -> None: ...

    fail(frail, "publish", PublishErrors({1: BrokerFull("full"), 2: BrokerFull("full")}), BrokerFull("full"))
    async with frail:
        await group(act.s(number) for number in range(4)).apply_async()
        broker = await frail.open_broker()
        assert await broker.purge("celery") == 4


async def test_a_group_that_stays_refused_says_so(frail: TaskQ) -> None:
    refused = PublishErrors({0: BrokerFull("full")})
    fail(frail, "publish", refused)
    async with frail:
        with pytest.raises(OperationalError, match=r"1 messages were refused, the first: full \(1 try"):
            await group(frail.signature("a"), frail.signature("b")).apply_async(retry=False)
        assert await (await frail.open_broker()).purge("celery") == 1


async def test_arguments_that_cannot_be_written_are_the_callers_error(app: TaskQ) -> None:
    with pytest.raises(EncodeError):
        await app.send_task("proj.add", (object(),))
    with pytest.raises(EncodeError):
        await app.send_task("proj.add", headers={"x": object()})


async def test_a_signature_by_name_or_from_its_wire_form(app: TaskQ) -> None:
    first = app.signature("proj.add", (1,), {"y": 2}, immutable=True, queue="slow")
    assert app.signature(first.to_dict()) == first
    assert (first.args, first.kwargs, first.immutable, first.options) == (
        (1,),
        {"y": 2},
        True,
        {"queue": "slow"},
    )
    with pytest.raises(DecodeError, match="not a signature"):
        app.signature({"no": "task"})
    with pytest.raises(TypeError, match="unknown option 'qeue'"):
        app.signature("proj.add", qeue="slow")  # type: ignore[call-arg]  # what is tested


async def test_a_task_that_is_required_is_named_with_the_likely_one(app: TaskQ) -> None:
    @app.task(name="proj.add")
    def add() -> None: ...

    assert app.require_task("proj.add") is add
    with pytest.raises(NotRegistered, match=r"proj\.ad\..*proj\.add"):
        app.require_task("proj.ad")
    assert app.find_task("proj.ad") is None


@pytest.mark.parametrize(
    ("name", "instead"),
    [("Beat", "taskq beat"), ("worker_main", "taskq worker"), ("Task", "base=")],
)
def test_what_celerys_app_has_is_told_with_what_to_do_instead(app: TaskQ, name: str, instead: str) -> None:
    with pytest.raises(AttributeError, match=f"Celery's app.{name} does not exist in taskq: .*{instead}"):
        getattr(app, name)
    assert not hasattr(app, name)
    with pytest.raises(AttributeError, match="'TaskQ' object has no attribute 'nonsense'"):
        app.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_the_hints_are_for_what_celerys_app_has_and_ours_has_not(app: TaskQ) -> None:
    theirs = set(dir(Celery("proj"))) | {"on_after_finalize"}
    assert sorted(set(APP_ATTRIBUTES) - theirs) == []
    assert [name for name in APP_ATTRIBUTES if name in dir(app)] == []


def test_a_handle_by_its_class_as_in_celery(app: TaskQ) -> None:
    app.set_current()
    assert AsyncResult[int]("some-id") == AsyncResult[int]("some-id", app=app) == app.AsyncResult("some-id")
    assert AsyncResult[int]("some-id").backend is app


def test_it_shows_its_broker_without_the_password() -> None:
    app = TaskQ("proj", broker="redis://:s3cret@host:6379/0")
    assert "s3cret" not in repr(app)
    assert repr(app).startswith("<TaskQ proj redis://")


def test_settings_from_an_object_and_tasks_from_modules(app: TaskQ, project: Callable[..., Path]) -> None:
    project(
        {
            "shop/__init__.py": "",
            "shop/tasks.py": "from taskq import shared_task\n@shared_task(name='shop.buy')\ndef buy(): pass\n",
            "shop_settings.py": "task_default_queue = 'shop'\n",
        }
    )
    app.config_from_object("shop_settings")
    assert app.router.queues.keys() == {"shop"}
    app.autodiscover_tasks(["shop"])
    assert app.find_task("shop.buy") is not None


def test_results_in_pickle_need_to_be_asked_for_twice() -> None:
    app = TaskQ("pickled", broker="memory://pickled", result_serializer="pickle")
    with pytest.raises(ConfigError, match="accept_content"):
        app.store_config()
    app.conf.update(accept_content=["json", "pickle"])
    assert app.store_config().serializer.name == "pickle"
