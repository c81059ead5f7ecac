from collections.abc import Iterator

import pytest

from taskq import ConfigError, TaskQ, current_app, registry, shared_task


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    current, shared = list(registry._current), dict(registry.shared)
    registry._current.clear()
    yield
    registry._current[:] = current
    registry.shared.clear()
    registry.shared.update(shared)


def app(name: str) -> TaskQ:
    return TaskQ(name, broker=f"memory://{name}", backend=f"memory://{name}")


def test_without_an_app_there_is_none() -> None:
    with pytest.raises(ConfigError, match="there is no app yet"):
        current_app()


def test_the_app_made_last_or_chosen_is_current() -> None:
    first, second = app("first"), app("second")
    assert current_app() is second
    first.set_current()
    assert current_app() is first


def test_shared_tasks_belong_to_every_app_and_use_the_current_one() -> None:
    @shared_task
    def bare() -> int:
        return 1

    @shared_task(name="library.named", max_retries=7)
    def with_options() -> int:
        return 2

    first, second = app("first"), app("second")
    for one in (first, second):
        assert one.find_task("library.named") is with_options
        assert one.tasks[bare.name] is bare
    assert bare.name == f"{__name__}.bare"
    assert (bare(), with_options(), with_options.max_retries) == (1, 2, 7)
    assert bare.app is second
    first.set_current()
    assert bare.app is first
