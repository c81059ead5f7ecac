import time

from taskq import clock
from taskq.clock import LamportClock


def test_now_is_the_wall_clock() -> None:
    before = time.time()
    assert before <= clock.now() <= time.time()


def test_another_source_can_be_set_and_taken_back() -> None:
    before = clock.set_source(lambda: 5.0)
    try:
        assert clock.now() == 5.0
    finally:
        clock.set_source(before)
    assert clock.now() > 5.0


def test_the_clock_is_ahead_of_all_it_has_heard_of() -> None:
    logical = LamportClock()
    assert [logical.forward(), logical.forward()] == [1, 2]
    assert logical.adjust(10) == 11
    assert logical.adjust(3) == 12
    for nonsense in (None, "7", True, 2**70, 1e9):
        assert logical.adjust(nonsense) == 12
    assert logical.forward() == 13
