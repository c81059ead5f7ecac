from hypothesis import given
from hypothesis import strategies as st

from taskq.worker.intake.timers import Timers

DUES = st.lists(st.floats(0, 100, allow_nan=False), max_size=30)


@given(DUES, st.floats(0, 100))
def test_all_that_is_due_comes_out_earliest_first_and_the_rest_stays(dues: list[float], now: float) -> None:
    timers: Timers[int] = Timers()
    for index, due in enumerate(dues):
        timers.push(due, index)
    order = sorted(range(len(dues)), key=lambda index: (dues[index], index))
    assert timers.next_due == min(dues, default=None)
    assert timers.pop_due(now) == [index for index in order if dues[index] <= now]
    assert len(timers) == sum(due > now for due in dues)
    assert timers.clear() == [index for index in order if dues[index] > now]
    assert timers.next_due is None


def test_things_need_not_be_comparable() -> None:
    timers: Timers[object] = Timers()
    first, second = object(), object()
    timers.push(1.0, first)
    timers.push(1.0, second)
    assert timers.pop_due(1.0) == [first, second]
