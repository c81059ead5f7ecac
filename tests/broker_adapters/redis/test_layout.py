"""Key names, bindings and channels are those of kombu, read from kombu itself."""

import pytest
from kombu.transport.virtual.exchange import TopicExchange

from taskq.broker_adapters.redis.layout import read_layout, topic_pattern
from taskq.errors import ConfigError
from taskq.seams.broker import Queue


@pytest.mark.parametrize(
    "key", ["a.#", "#", "*", "a.*.b", "*.sport", "with_under-score.#", "a.b", "", "ż.*", "a+b.(c)"]
)
def test_topic_patterns_are_kombus(key: str) -> None:
    assert topic_pattern(key) == TopicExchange(None).key_to_pattern(key)


@pytest.mark.parametrize(
    ("priority", "key"),
    [
        (0, "q"),
        (2, "q"),
        (3, "q\x06\x163"),
        (5, "q\x06\x163"),
        (6, "q\x06\x166"),
        (9, "q\x06\x169"),
        (99, "q\x06\x169"),
        (-1, "q"),
    ],
)
def test_the_list_of_a_priority(priority: int, key: str) -> None:
    layout = read_layout({}, 0)
    assert layout.key("q", layout.step(priority)) == key


def test_own_steps_separator_and_prefix() -> None:
    layout = read_layout({"priority_steps": [5, 0], "sep": ":", "global_keyprefix": "p."}, 0)
    assert [key for key, _, _ in layout.lists(["a", "b"])] == ["p.a", "p.b", "p.a:5", "p.b:5"]
    assert layout.custody == ("p.unacked", "p.unacked_index", "p.taskq:leases")


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        (Queue("celery"), ("celery", "celery\x06\x16\x06\x16celery")),
        (Queue("q2", "x", "topic", "a.#"), ("x", "a.#\x06\x16^a\\..*?$\x06\x16q2")),
        (Queue("q3", "x", "direct", "k"), ("x", "k\x06\x16\x06\x16q3")),
        (Queue("b", "shout", "fanout"), ("shout", "\x06\x16\x06\x16b")),
    ],
)
def test_bindings(queue: Queue, expected: tuple[str, str]) -> None:
    assert read_layout({}, 0).binding(queue) == expected


def test_matches() -> None:
    members = [b"k\x06\x16\x06\x16one", b"k\x06\x16\x06\x16two", b"a.#\x06\x16^a\\..*?$\x06\x16three"]
    layout = read_layout({}, 0)
    assert layout.matches(members, "k") == ["one", "two"]
    assert layout.matches(members, "a.b.c") == ["three"]
    assert layout.matches(members, "b") == []


@pytest.mark.parametrize(
    ("options", "channel"),
    [
        ({}, "/4.shout/k"),
        ({"fanout_prefix": False}, "shout/k"),
        ({"fanout_prefix": "own{db}-"}, "own4-shout/k"),
        ({"fanout_patterns": False}, "/4.shout"),
        ({"global_keyprefix": "pfx:"}, "pfx:/4.shout/k"),
    ],
)
def test_channels(options: dict[str, object], channel: str) -> None:
    assert read_layout(options, 4).channel("shout", "k") == channel


@pytest.mark.parametrize(
    "options", [{"priority_steps": [3, 6]}, {"priority_steps": "x"}, {"visibility_timeout": "long"}]
)
def test_options_that_cannot_work(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="broker_transport_options"):
        read_layout(options, 0)
