import asyncio
import threading

from taskq.worker.health.stacks import describe_stacks
from taskq.worker.run.drive import CoroutineRun


class FakeRequest:
    name = "proj.report"
    id = "id-1"


class FakeJob:
    """As much of a job as is read."""

    request = FakeRequest()

    def __init__(self, runner: "asyncio.Task[None]") -> None:
        self.runner = runner


async def waits_inside() -> None:
    await asyncio.Event().wait()


async def calls_another() -> None:
    await waits_inside()


async def stacks_of(task: "asyncio.Task[None]", jobs: list[FakeJob]) -> str:
    await asyncio.sleep(0)
    text = describe_stacks(asyncio.get_running_loop(), jobs)  # type: ignore[arg-type]  # jobs by content
    task.cancel()
    await asyncio.wait([task])
    return text


async def test_coroutines_are_shown_down_to_the_await_with_the_tasks_name_and_id() -> None:
    task = asyncio.create_task(calls_another())
    text = await stacks_of(task, [FakeJob(task)])
    section = text.partition("--- coroutine proj.report[id-1]\n")[2].partition("---")[0]
    assert [name for name in ("calls_another", "waits_inside") if f"in {name}" in section] == [
        "calls_another",
        "waits_inside",
    ]


async def test_a_run_with_time_limits_is_seen_through() -> None:
    text = await stacks_of(CoroutineRun(calls_another(), "limited").done, [])
    assert "in waits_inside" in text.partition("--- coroutine limited\n")[2].partition("---")[0]


async def test_threads_are_shown_by_name() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="counting-sheep")
    thread.start()
    text = describe_stacks(asyncio.get_running_loop(), [])
    done.set()
    thread.join()
    assert "--- thread counting-sheep\n" in text
    assert "--- thread MainThread\n" in text
