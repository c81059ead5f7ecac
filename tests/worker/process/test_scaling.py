"""The rule of how many slots there are, on clocks and loops made up here."""

from hypothesis import given
from hypothesis import strategies as st

from taskq.worker.process.scaling import AUTO, IN_TIME, LATE, UNUSED, Bounds, Scale

BETWEEN = (IN_TIME + LATE) / 2


def test_twice_as_many_while_tasks_wait_and_the_loop_is_in_time() -> None:
    scale = Scale(Bounds(50, 3), 0.0)
    found = [scale.next(now, busiest=scale.slots, waiting=True, lag=0.001) for now in range(6)]
    assert found == [6, 12, 24, 48, 50, 50]


def test_as_many_as_now_while_none_waits_or_the_loop_is_a_little_late() -> None:
    scale = Scale(Bounds(50, 3), 0.0)
    assert scale.next(1.0, busiest=3, waiting=False, lag=0.0) == 3
    assert scale.next(2.0, busiest=3, waiting=True, lag=BETWEEN) == 3


def test_an_eighth_fewer_while_the_loop_is_late_and_then_an_eighth_more() -> None:
    scale = Scale(Bounds(100, 3), 0.0)
    scale.slots = 100
    found = [scale.next(now, busiest=scale.slots, waiting=True, lag=0.5) for now in range(4)]
    assert found == [88, 77, 68, 60]
    found = [scale.next(now, busiest=scale.slots, waiting=True, lag=0.0) for now in range(4, 8)]
    assert found == [67, 75, 84, 94]
    found = [scale.next(now, busiest=scale.slots, waiting=True, lag=0.5) for now in range(8, 48)]
    assert found[-3:] == [3, 3, 3]
    assert scale.next(49, busiest=3, waiting=True, lag=0.0) == 4


def test_a_late_loop_with_few_runs_brings_the_slots_down_to_those() -> None:
    scale = Scale(Bounds(1000, 10), 0.0)
    scale.slots = 1000
    assert scale.next(1.0, busiest=40, waiting=False, lag=0.5) == 35


def test_slots_that_nobody_needed_for_a_while_go() -> None:
    scale = Scale(Bounds(100, 3), 0.0)
    scale.slots = 80
    assert scale.next(10.0, busiest=60, waiting=False, lag=0.0) == 80
    assert scale.next(UNUSED - 1, busiest=7, waiting=False, lag=0.0) == 80
    assert scale.next(UNUSED, busiest=5, waiting=False, lag=0.0) == 60
    assert scale.next(2 * UNUSED, busiest=4, waiting=False, lag=0.0) == 5
    assert scale.next(3 * UNUSED, busiest=0, waiting=False, lag=0.0) == 4
    assert scale.next(4 * UNUSED, busiest=0, waiting=False, lag=0.0) == 3


def test_after_that_it_looks_for_its_number_afresh() -> None:
    scale = Scale(Bounds(1000, 10), 0.0)
    scale.next(1.0, busiest=10, waiting=True, lag=0.5)
    assert scale.next(2.0, busiest=10, waiting=True, lag=0.0) == 11
    scale.next(3 * UNUSED, busiest=0, waiting=False, lag=0.0)
    assert scale.next(3 * UNUSED + 1, busiest=10, waiting=True, lag=0.0) == 20


def test_other_bounds_hold_at_once() -> None:
    scale = Scale(Bounds(10, 3), 0.0)
    assert scale.move(Bounds(20, 8), 1.0) == 8
    assert scale.move(Bounds(5, 2), 2.0) == 5
    assert scale.move(Bounds(50, 2), 3.0) == 5


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.booleans(), st.floats(0, 10), st.floats(0, 60)), max_size=40),
    st.integers(1, 2000),
    st.integers(1, 2000),
)
def test_it_stays_within_its_bounds(
    course: list[tuple[int, bool, float, float]], one: int, other: int
) -> None:
    bounds = Bounds(max(one, other), min(one, other))
    scale, now = Scale(bounds, 0.0), 0.0
    for busiest, waiting, lag, pause in course:
        now += pause
        assert bounds.least <= scale.next(now, busiest=busiest, waiting=waiting, lag=lag) <= bounds.most


@given(st.floats(0.0001, 0.05), st.floats(0, 5))
def test_on_a_busy_loop_it_comes_to_rest_at_what_that_can_carry(cpu: float, waits: float) -> None:
    """Tasks that take `cpu` seconds of the loop and wait for others: beyond `carried` they queue for the loop."""
    carried = (cpu + waits) / cpu
    scale = Scale(AUTO, 0.0)
    slots = [scale.slots]
    for now in range(60):
        lag = max(0.0, slots[-1] - carried) * cpu
        slots.append(scale.next(float(now), busiest=slots[-1], waiting=True, lag=lag))
    rest = slots[-20:]
    assert min(rest) >= min(AUTO.most, 0.75 * carried)
    assert max(rest) <= max(AUTO.least, 1 + 1.2 * carried + LATE / cpu)
