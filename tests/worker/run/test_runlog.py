import logging
from types import SimpleNamespace
from typing import Any

import pytest

from taskq.errors import DecodeError, Reject, Retry
from taskq.run.ends import EXPIRED, Inadmissible, Revoked
from taskq.wire.message import Delivery, Message
from taskq.wire.request import Request
from taskq.worker.run.job import Job, Place
from taskq.worker.run.runlog import RunLog, run_log


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taskq.worker")


@pytest.fixture
def job() -> Job:
    request = Request("id-1", "proj.add", args=["secret"], root_id="root-1", retries=1, shadow="nightly")
    task: Any = SimpleNamespace(max_retries=5, throws=(KeyError,))
    return Job(Delivery(Message({}, b""), "fast", None), request, task, Place.LOOP, started=10.0)


def log_at(now: float, job: Job) -> RunLog:
    """The log, when the job ended at that time."""
    job.ended = now
    return run_log()


def only(caplog: pytest.LogCaptureFixture) -> Any:
    [record] = caplog.records
    return record


def test_received_shows_arguments_at_debug_alone(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    log_at(10, job).received(job)
    assert only(caplog).getMessage() == "received nightly[id-1]  queue=fast"
    caplog.clear()
    caplog.set_level(logging.DEBUG, "taskq.worker")
    log_at(10, job).received(job)
    assert only(caplog).detail == "queue=fast args=['secret'] kwargs={}"


def test_arguments_are_shown_as_their_caller_wants(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "taskq.worker")
    job.request.argsrepr, job.request.kwargsrepr = "('***',)", "{'card': '***'}"
    log_at(10, job).received(job)
    assert only(caplog).detail == "queue=fast args=('***',) kwargs={'card': '***'}"


def test_every_line_has_the_tasks_fields(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    log_at(10.5, job).succeeded(job, 4)
    record = only(caplog)
    assert (record.levelname, record.event, record.detail) == ("INFO", "succeeded", "in 500ms -> 4")
    assert (record.task_id, record.task_name, record.shown_name) == ("id-1", "proj.add", "nightly")
    assert (record.root_id, record.queue, record.attempt, record.runtime) == ("root-1", "fast", 2, 0.5)


def test_failures_are_errors_with_their_traceback(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    log_at(11.234, job).failed(job, ValueError("no"))
    record = only(caplog)
    assert (record.levelname, record.detail) == ("ERROR", "in 1.23s  ValueError('no')")
    assert record.exc_info[0] is ValueError


def test_expected_failures_are_news(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    log_at(10, job).failed(job, KeyError("no"))
    record = only(caplog)
    assert (record.levelname, record.exc_info) == ("INFO", None)


@pytest.mark.parametrize(
    ("retry", "detail"), [(Retry(exc=OSError("smtp")), "in 8.4s  OSError('smtp')"), (Retry(), "in 8.4s")]
)
def test_a_retry_tells_its_turn(
    job: Job, caplog: pytest.LogCaptureFixture, retry: Retry, detail: str
) -> None:
    log_at(10, job).retried(job, retry, 8.4)
    record = only(caplog)
    assert (record.event, record.shown_event, record.detail) == ("retry", "retry 2/5", detail)


def test_a_retry_without_limit(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    job.task.max_retries = None
    log_at(10, job).retried(job, Retry(), 1)
    assert only(caplog).shown_event == "retry 2"


@pytest.mark.parametrize(
    ("reject", "detail"),
    [
        (Reject("bad"), "bad  see: taskq dead show id-1"),
        (Reject("busy", requeue=True), "busy  back to its queue"),
    ],
)
def test_a_rejection_tells_where_it_goes(
    job: Job, caplog: pytest.LogCaptureFixture, reject: Reject, detail: str
) -> None:
    log_at(10, job).rejected(job, reject)
    assert (only(caplog).levelname, only(caplog).detail) == ("WARNING", detail)


def test_runs_that_were_ended_or_never_began(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    log_at(12, job).returned(job, None)
    log_at(12, job).revoked(job, Revoked(EXPIRED))
    returned, expired = caplog.records
    assert (returned.levelname, returned.__dict__["event"]) == ("WARNING", "returned")
    assert returned.__dict__["detail"] == "after 2.00s"
    assert (expired.levelname, expired.__dict__["event"]) == ("INFO", "expired")


def test_above_info_the_usual_lines_are_not_even_made(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "taskq.worker")
    log = log_at(10, job)
    log.received(job)
    log.succeeded(job, 4)
    assert not caplog.records


def test_the_dead_are_told_with_where_to_look(caplog: pytest.LogCaptureFixture) -> None:
    unknown = Delivery(Message({"task": "proj.nope"}, b""), "fast", None)
    run_log().dead(Inadmissible(unknown, DecodeError(), "no task 'proj.nope' here"), "id-2")
    record = only(caplog)
    assert (record.levelname, record.event, record.task_name) == ("ERROR", "dead", "proj.nope")
    assert record.detail == "no task 'proj.nope' here  see: taskq dead show id-2"
    caplog.clear()
    run_log().dead(
        Inadmissible(Delivery(Message({}, b""), "fast", None), DecodeError(), "it cannot be read"), None
    )
    assert only(caplog).detail == "it cannot be read  see: taskq dead ls"
