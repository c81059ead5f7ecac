"""How many messages RabbitMQ is let push: the rule."""

from hypothesis import given
from hypothesis import strategies as st

from taskq.broker_adapters.amqp.window import Window


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
