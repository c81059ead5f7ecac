from typing import Any

import pytest

from taskq.signals import Signal


class Named:
    name = "proj.add"


@pytest.fixture
def heard() -> list[Any]:
    return []


async def test_receivers_hear_who_sends_and_what(heard: list[Any]) -> None:
    signal = Signal("task_done")

    @signal.connect
    def plain(sender: Any, **arguments: Any) -> None:
        heard.append(("plain", sender, arguments))

    async def coroutine(sender: Any, **arguments: Any) -> None:
        heard.append(("coroutine", sender, arguments))

    signal.connect()(coroutine)

    await signal.send("me", x=1)
    assert heard == [("plain", "me", {"x": 1}), ("coroutine", "me", {"x": 1})]
    assert plain.__name__ == "plain"


@pytest.mark.parametrize(
    ("wanted", "sender", "hears"),
    [
        (None, "any", True),
        ("proj.add", "proj.add", True),
        ("proj.add", "proj.mul", False),
        ("proj.add", Named(), True),
        ("proj.mul", Named(), False),
        (Named, Named, True),
    ],
)
async def test_a_receiver_may_want_one_sender(
    heard: list[Any], wanted: Any, sender: Any, *, hears: bool
) -> None:
    signal = Signal("task_done")
    signal.connect(lambda **_: heard.append(1), sender=wanted)
    await signal.send(sender)
    assert bool(heard) is hears


async def test_disconnected_it_hears_no_more(heard: list[Any]) -> None:
    signal = Signal("task_done")
    receiver = signal.connect(lambda **_: heard.append(1))
    assert signal.disconnect(receiver) is True
    assert signal.disconnect(receiver) is False
    await signal.send("me")
    assert not heard


async def test_one_that_fails_does_not_keep_the_others_from_hearing(
    heard: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    signal = Signal("task_done")

    @signal.connect
    async def broken(**_: Any) -> None:
        raise RuntimeError("deaf")

    signal.connect(lambda **_: heard.append(1))
    await signal.send("me")
    assert heard == [1]
    assert "a receiver of the signal task_done failed" in caplog.text
