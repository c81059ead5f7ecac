"""How many messages RabbitMQ is let push, and what becomes of those that come again."""

from hypothesis import given
from hypothesis import strategies as st

from taskq.broker_adapters.amqp.held import Runs, Window
from taskq.wire.message import Delivery, Message


def window(most: int = 400, budget: int = 1000) -> Window:
    return Window(most, budget)


def test_small_messages_leave_it_wide_open() -> None:
    assert window().wanted(held=400, count=400) == 400


def test_one_at_a_time_without_room() -> None:
    assert window().wanted(held=1000, count=10) == 1


def test_then_as_many_as_fit_once_half_is_free() -> None:
    made = window()
    made.size = made.wanted(held=1000, count=10)
    assert made.wanted(held=600, count=6) == 1
    assert made.wanted(held=500, count=5) == 5


def test_what_is_held_no_longer_is_remembered_by_its_size() -> None:
    made = window()
    made.size = made.wanted(held=1000, count=10)
    assert made.wanted(held=0, count=0) == 10


def test_it_stays_for_as_long_as_the_sizes_stay() -> None:
    made = window()
    made.size = 5
    assert [made.wanted(held=100 * count, count=count) for count in (0, 1, 3, 5)] == [400, 5, 5, 5]


def test_all_of_it_when_they_are_small_again() -> None:
    made = window()
    made.size = 5
    assert made.wanted(held=5, count=5) == 400


def test_another_size_is_taken_on_at_once_unless_bytes_forbid() -> None:
    made = window()
    made.resize(100)
    assert (made.size, made.most) == (100, 100)
    made.size = 5
    made.resize(200)
    assert (made.size, made.most) == (5, 200)
    made.resize(3)
    assert (made.size, made.most) == (3, 3)


@given(st.lists(st.integers(0, 2000), max_size=60), st.integers(1, 500), st.integers(1, 3000))
def test_what_may_come_fits_if_it_is_like_what_is_held(sizes: list[int], most: int, budget: int) -> None:
    made = window(most, budget)
    held = sum(sizes)
    made.size = 1
    size = made.wanted(held, len(sizes))
    assert 1 <= size <= most
    if size > 1 and sizes:
        assert held + size * held / len(sizes) <= budget + 1e-6 or held / len(sizes) < 1


# == runs that go on without their delivery


def delivery(tag: int, n: int = 0, *, body: bytes = b"") -> Delivery:
    return Delivery(Message({"id": f"id-{n}", "retries": 0}, body), "q", tag, redelivered=tag > 0)


def test_what_comes_again_joins_the_run_that_waits_for_it() -> None:
    runs, going = Runs(), delivery(0)
    runs.lose([going], [going])
    assert runs.join(delivery(7)) is going
    assert (going.tag, runs.take_joined()) == (7, ([], [going]))
    again = delivery(8)
    assert runs.join(again) is again


def test_what_looks_alike_only_from_afar_joins_nothing() -> None:
    runs = Runs()
    runs.lose([delivery(0), Delivery(Message({}, b""), "q", 1)], ())
    other_queue, retried = delivery(7), delivery(7)
    other_queue.queue, retried.message.headers["retries"] = "r", 1
    nameless = Delivery(Message({}, b""), "q", 9)
    for other in (delivery(7, 1), delivery(7, body=b"x"), other_queue, retried, nameless):
        assert runs.join(other) is other


def test_what_comes_again_after_the_run_is_only_removed() -> None:
    runs, going, given_back = Runs(), delivery(0), delivery(0, 1)
    runs.lose([going, given_back], ())
    runs.settle([going, delivery(3, 5)], [given_back])
    assert runs.join(delivery(7)) is going
    assert (runs.over, runs.joined) == ([going], [])
    again = delivery(8, 1)
    assert runs.join(again) is again
