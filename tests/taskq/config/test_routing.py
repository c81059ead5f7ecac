import re
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from celery import Celery

from taskq.config.routing import Route, Router
from taskq.config.settings import Settings
from taskq.errors import ConfigError
from taskq.seams.broker import Queue

kombu: Any = import_module("kombu")  # untyped


def router(**values: Any) -> Router:
    settings = Settings()
    settings.update(values)
    return Router(settings)


def direct(queue: str, priority: int | None = None, **options: Any) -> Route:
    return Route(queue, "", queue, priority, options)


# --- without routes ---


def test_calls_go_to_the_default_queue() -> None:
    assert router().route("add") == direct("celery")
    assert router(task_default_queue="main", task_default_priority=3).route("add") == direct("main", 3)


def test_the_plain_route_is_made_once() -> None:
    plain = router()
    assert plain.route("add", (1,), {}, {"countdown": 3}) is plain.route("mul")


def test_options_of_the_call_decide() -> None:
    assert router().route("add", options={"queue": "fast", "priority": 0}) == direct("fast", 0)
    assert router(task_default_priority=3).route("add", options={"queue": None, "priority": None}) == direct(
        "celery", 3
    )


def test_settings_that_change_are_followed() -> None:
    settings = Settings()
    changing = Router(settings)
    assert changing.route("add").queue == "celery"
    settings.task_default_queue = "other"
    assert changing.route("add").queue == "other"
    assert list(changing.queues) == ["other"]


# --- exchanges ---

TOPIC = [Queue("feeds", exchange="news", exchange_type="topic", routing_key="feed.#")]


@pytest.mark.parametrize(
    ("options", "exchange", "key"),
    [
        ({"queue": "feeds"}, "news", "feed.#"),
        ({"queue": "feeds", "routing_key": "feed.sport"}, "news", "feed.sport"),
        ({"queue": "feeds", "exchange": "other"}, "other", "feed.#"),
        ({"routing_key": "ignored"}, "", "celery"),
        ({"exchange": "ignored"}, "", "celery"),
        ({"exchange": "given", "routing_key": "both"}, "given", "both"),
    ],
)
def test_exchange_and_key_follow_the_queue_unless_given(
    options: dict[str, Any], exchange: str, key: str
) -> None:
    route = router(task_queues=TOPIC).route("add", options=options)
    assert (route.exchange, route.routing_key) == (exchange, key)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queue": "feeds"},
        {"queue": "feeds", "routing_key": "feed.sport"},
        {"queue": "plain", "routing_key": "ignored"},
        {"queue": "made"},
        {"exchange": "e", "routing_key": "k"},
        {"exchange": "e"},
        {"queue": "news"},
    ],
)
def test_celery_sends_it_to_the_same_place(options: dict[str, Any]) -> None:
    values = {
        "task_default_exchange": "tasks",
        "task_default_routing_key": "task.default",
        "task_queues": [
            kombu.Queue("feeds", exchange=kombu.Exchange("x", "topic"), routing_key="feed.#"),
            kombu.Queue("plain"),
            kombu.Queue("news", exchange=kombu.Exchange("n", "fanout")),
        ],
    }
    app = Celery("theirs", broker="memory://", set_as_current=False)
    app.conf.update(values)
    sent: dict[str, Any] = {}

    class Producer:
        def publish(self, body: Any, **properties: Any) -> None:
            sent.update(properties)

    theirs = app.amqp.router.route(dict(options), "add", (), {})
    app.amqp.send_task_message(Producer(), "add", app.amqp.as_task_v2("id", "add"), **theirs)
    ours = router(**values).route("add", options=options)
    assert (ours.exchange, ours.routing_key) == (sent["exchange"], sent["routing_key"])


# --- task_routes ---


def by_name(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Any:
    return {"queue": "from_function", "priority": kwargs.get("urgency")} if name == "fun" else None


@pytest.fixture
def routes_module() -> Iterator[ModuleType]:
    module = ModuleType("made_up_routes")
    module.by_name = by_name  # type: ignore[attr-defined]  # a made-up module
    module.by_map = {"mapped": "from_path"}  # type: ignore[attr-defined]  # likewise
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize(
    ("routes", "name", "queue"),
    [
        ({"add": "q"}, "add", "q"),
        ({"add": {"queue": "q"}}, "add", "q"),
        ({"add": "q"}, "mul", "celery"),
        ({"video.*": "wide", "video.cut": "exact"}, "video.cut", "exact"),
        ({"video.*": "first", "*.cut": "second"}, "video.cut", "first"),
        ({re.compile(r"(video|image)\..*"): "media"}, "image.cut", "media"),
        ([("video.*", "q"), ("image.*", "r")], "image.cut", "r"),
        ([[("video.*", "q"), ("image.*", "r")]], "image.cut", "r"),
        (([("video.*", "q")],), "video.cut", "q"),
        ([{"a": "q"}, by_name], "fun", "from_function"),
        ([{"fun": "q"}, by_name], "fun", "q"),
        (by_name, "fun", "from_function"),
        (by_name, "other", "celery"),
        ("made_up_routes.by_name", "fun", "from_function"),
        (["made_up_routes:by_map", by_name], "mapped", "from_path"),
        (["made_up_routes:by_map", by_name], "fun", "from_function"),
        ([], "add", "celery"),
    ],
)
def test_every_form_of_routes(routes_module: ModuleType, routes: Any, name: str, queue: str) -> None:
    made = router(task_routes=routes)
    assert made.route(name) == made.route(name) == direct(queue)


def test_a_route_gives_options_and_those_of_the_call_win() -> None:
    made = router(
        task_default_priority=1,
        task_routes={
            "add": {"queue": "q", "priority": 5, "serializer": "yaml", "expires": 60, "compression": None}
        },
    )
    assert made.route("add") == direct("q", 5, serializer="yaml", expires=60)
    assert made.route("add", options={"queue": "mine", "expires": 1, "serializer": None}) == direct(
        "mine", 5, serializer="yaml"
    )
    assert made.route("add", options={"priority": 0}).priority == 0


def test_a_function_sees_the_call() -> None:
    made = router(task_routes=by_name)
    assert made.route("fun", (), {"urgency": 9}) == direct("from_function", 9)


@pytest.mark.parametrize("routes", [5, [5]])
def test_what_is_no_router_is_refused(routes: Any) -> None:
    with pytest.raises(ConfigError, match="task_routes: 5 is neither a mapping"):
        router(task_routes=routes).route("add")


def test_what_is_no_route_is_refused() -> None:
    with pytest.raises(ConfigError, match="a route is a queue's name or a mapping of options, not 5"):
        router(task_routes={"add": 5}).route("add")


# --- queues ---


def test_the_default_queue_alone() -> None:
    assert router().queues == {"celery": Queue("celery", "celery", "direct", "celery")}
    made = router(
        task_default_queue="q",
        task_default_exchange="e",
        task_default_exchange_type="topic",
        task_default_routing_key="k",
        task_default_queue_type="quorum",
        task_queue_max_priority=10,
    )
    assert made.queue("q") == Queue("q", "e", "topic", "k", {"x-queue-type": "quorum", "x-max-priority": 10})


def test_missing_queues_are_made_and_remembered() -> None:
    made = router()
    assert made.queue("fast") == Queue("fast", "fast", "direct", "fast")
    assert made.queue("fast") is made.queues["fast"]
    quorum = router(task_create_missing_queue_type="quorum", task_create_missing_queue_exchange_type="topic")
    assert quorum.queue("fast") == Queue("fast", "fast", "topic", "fast", {"x-queue-type": "quorum"})


def test_missing_queues_may_be_forbidden() -> None:
    made = router(task_queues=["celery", "reports"], task_create_missing_queues=False)
    assert made.route("add") == direct("celery")
    with pytest.raises(ConfigError, match=r"no queue 'report' in task_queues\. Did you mean 'reports'\?"):
        made.route("add", options={"queue": "report"})
    with pytest.raises(ConfigError, match="no queue 'other'"):
        router(task_queues=["a"], task_default_queue="other", task_create_missing_queues=False).route("add")


EVERY_FORM = [
    Queue("plain"),
    "named",
    {"name": "mapped", "exchange": "e", "exchange_type": "topic", "binding_key": "k.#", "message_ttl": 1.5},
    kombu.Queue(
        "theirs",
        kombu.Exchange("x", "fanout"),
        routing_key="r",
        durable=False,
        expires=60,
        max_length=5,
        max_priority=4,
        queue_arguments={"x-queue-mode": "lazy"},
    ),
]


def test_queues_in_every_form() -> None:
    made = router(task_queues=EVERY_FORM, task_default_exchange="tasks", task_queue_max_priority=9)
    most = {"x-max-priority": 9}
    assert list(made.queues.values()) == [
        Queue("plain", "tasks", "direct", "celery", most),
        Queue("named", "named", "direct", "named", most),
        Queue("mapped", "e", "topic", "k.#", {"x-message-ttl": 1500, **most}),
        Queue(
            "theirs",
            "x",
            "fanout",
            "r",
            {"x-queue-mode": "lazy", "x-expires": 60_000, "x-max-length": 5, "x-max-priority": 4},
            durable=False,
        ),
    ]


def test_queues_as_a_mapping() -> None:
    made = router(
        task_queues={"a": {"routing_key": "k", "queue_arguments": {"x": 1}, "durable": False}, "b": None}
    )
    assert made.queues == {
        "a": Queue("a", "celery", "direct", "k", {"x": 1}, durable=False),
        "b": Queue("b", "celery", "direct", "b"),
    }


def test_a_queue_without_exchange_keeps_a_type_of_its_own() -> None:
    assert router(task_queues=[Queue("q", exchange_type="fanout")]).queue("q").exchange_type == "fanout"


def test_a_broadcast_is_called_by_its_alias() -> None:
    made = router(task_queues=[import_module("kombu.common").Broadcast("everyone")])
    route = made.route("add", options={"queue": "everyone"})
    assert route.queue.startswith("bcast.")
    assert route.exchange == "everyone"


def test_a_queue_object_may_be_an_option() -> None:
    made = router()
    assert made.route("add", options={"queue": kombu.Queue("mine")}) == direct("mine")
    assert "mine" in made.queues


@pytest.mark.parametrize(
    ("queues", "problem"),
    [
        ([5], "task_queues: 5 is neither a Queue"),
        ([{"exchange": "e"}], "task_queues: no name in "),
        ({"a": {"exchang": "e"}}, r"unknown option 'exchang' of queue 'a'\. Did you mean 'exchange'\?"),
    ],
)
def test_what_is_no_queue_is_refused(queues: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        router(task_queues=queues).route("add")
