import logging
from collections.abc import Iterator

import pytest

from taskq.logs import FIELDS, TASK_LOGGER, TaskFields, get_task_logger
from taskq.wire.request import Request, current


@pytest.fixture
def run() -> Iterator[Request]:
    request = Request("id-1", "proj.add", root_id="root-1", retries=2, hostname="w1@h")
    request.delivery_info = {"routing_key": "fast"}
    token = current.set(request)
    yield request
    current.reset(token)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in FIELDS}


def test_records_in_a_run_tell_which(run: Request) -> None:
    record = logging.makeLogRecord({})
    assert TaskFields("celery@h").filter(record)
    assert fields_of(record) == {
        "task_id": "id-1",
        "task_name": "proj.add",
        "root_id": "root-1",
        "queue": "fast",
        "attempt": 3,
        "worker": "w1@h",
    }


def test_records_outside_of_a_run_have_the_fields_too() -> None:
    record = logging.makeLogRecord({})
    TaskFields("celery@h").filter(record)
    assert fields_of(record) == {**dict.fromkeys(FIELDS), "worker": "celery@h"}


def test_fields_of_the_record_stay(run: Request) -> None:
    record = logging.makeLogRecord({"queue": "mine", "attempt": 7})
    TaskFields().filter(record)
    assert (record.__dict__["queue"], record.__dict__["attempt"]) == ("mine", 7)


def test_task_loggers_have_one_above_them() -> None:
    logger = get_task_logger("test_logs_lonely")
    assert logger.name == "test_logs_lonely"
    assert logger.parent is logging.getLogger(TASK_LOGGER)


def test_a_parent_of_the_programs_own_stays() -> None:
    above = logging.getLogger("test_logs_family")
    assert get_task_logger("test_logs_family.tasks").parent is above


def test_the_logger_of_all_tasks_is_not_its_own_parent() -> None:
    assert get_task_logger(TASK_LOGGER).parent is not logging.getLogger(TASK_LOGGER)
