import time

from taskq import clock


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
