import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from taskq.wire.request import Request, current
from taskq.worker.process.logs import JsonFormatter, TextFormatter, setup_logging, to_json, wants_colour

ID = "a11bb308-1111-2222-3333-444444444444"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def bare_logging() -> Iterator[None]:
    """A process in which nobody has set up logging; not a fixture, since pytest hangs its handlers in after those."""
    loggers = [logging.getLogger(name) for name in ("", "taskq", "aiormq", "aio_pika", "asyncio")]
    root, levels = loggers[0], [logger.level for logger in loggers]
    handlers, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def event(**fields: Any) -> logging.LogRecord:
    told = {"event": "received", "detail": "queue=celery", "task_id": ID, "task_name": "proj.add"}
    return logging.makeLogRecord(
        {
            "levelno": logging.INFO,
            "levelname": "INFO",
            "name": "taskq.worker",
            "created": 1000.25,
            **told,
            **fields,
        }
    )


def test_lines_on_a_terminal_are_short() -> None:
    line = TextFormatter(terminal=True, colour=False).format(event())
    assert re.fullmatch(r"\d\d:\d\d:\d\d received   proj\.add\[a11bb308\]  queue=celery", line)


def test_lines_in_files_are_whole() -> None:
    line = TextFormatter(terminal=False, colour=False).format(event())
    assert line == f"1970-01-01T00:16:40.250Z received   proj.add[{ID}]  queue=celery"


def test_a_retry_tells_its_turn_and_a_shadow_its_name() -> None:
    record = event(event="retry", shown_event="retry 2/5", shown_name="nightly", detail="in 8.4s")
    assert (
        TextFormatter(terminal=True, colour=False).format(record)[9:]
        == "retry 2/5  nightly[a11bb308]  in 8.4s"
    )


def test_other_records_have_level_and_logger_or_task() -> None:
    record = logging.makeLogRecord(
        {"levelname": "WARNING", "name": "proj", "msg": "so %s", "args": ("it is",)}
    )
    formatter = TextFormatter(terminal=True, colour=False)
    assert formatter.format(record)[9:] == "warning    proj  so it is"
    record.__dict__ |= {"task_id": ID, "task_name": "proj.add"}
    assert formatter.format(record)[9:] == "warning    proj.add[a11bb308]  so it is"


def test_a_message_can_neither_steer_the_terminal_nor_forge_a_line() -> None:
    formatter = TextFormatter(terminal=False, colour=False)
    forged = "1970-01-01T00:16:40.250Z succeeded  proj.pay[1]"
    line = formatter.format(event(detail=f"x\n{forged}\x1b[2J", shown_name="\x9b2Jadd\n", task_id="1\r2"))
    assert line == rf"1970-01-01T00:16:40.250Z received   \x9b2Jadd\n[1\r2]  x\n{forged}\x1b[2J"
    record = logging.makeLogRecord({"name": "proj", "msg": f"two\x1b\n{forged}"})
    first, second = formatter.format(record).splitlines()
    assert first.endswith(r"two\x1b")
    assert second == f"    {forged}"
    error = ValueError("\x1b[31m")
    record.exc_info = (type(error), error, None)
    assert "\x1b" not in formatter.format(record)
    assert "\x9b" not in JsonFormatter().format(event(detail="\x9b", message="\x9b", extra="\x9b"))


def test_tracebacks_and_stacks_follow() -> None:
    try:
        int("x")
    except ValueError as error:
        record = event(exc_info=(ValueError, error, error.__traceback__), stack_info="Stack: here")
    lines = TextFormatter(terminal=True, colour=False).format(record).splitlines()
    assert lines[1].startswith("Traceback")
    assert lines[-2].startswith("ValueError: invalid literal")
    assert lines[-1] == "Stack: here"
    assert json.loads(JsonFormatter().format(record))["exception"].splitlines() == lines[1:]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"event": "succeeded"}, "32"),
        ({"event": "failed", "levelno": logging.ERROR}, "31"),
        ({"event": "returned", "levelno": logging.WARNING}, "33"),
        ({"event": "retry"}, "36"),
        ({"event": None, "levelno": logging.DEBUG}, "2"),
    ],
)
def test_colours_are_around_the_word_alone(fields: dict[str, Any], code: str) -> None:
    line = TextFormatter(terminal=True, colour=True).format(event(**fields))
    assert re.match(rf"\S+ \033\[{code}m\w+ *\033\[0m proj", line)


def test_json_lines_have_the_fields_in_snake_case() -> None:
    record = event(msg="received it", queue="fast", root_id=None, worker="w@h", user_id=5, detail="hidden")
    data = json.loads(JsonFormatter().format(record))
    assert data == {
        "ts": "1970-01-01T00:16:40.250Z",
        "level": "info",
        "logger": "taskq.worker",
        "message": "received it",
        "task_id": ID,
        "task_name": "proj.add",
        "queue": "fast",
        "worker": "w@h",
        "event": "received",
        "user_id": 5,
    }
    assert datetime.fromisoformat(data["ts"]).utcoffset() is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [(2**70, str(2**70)), ("lone \ud800", "lone \\ud800"), (object, "<class 'object'>"), ({1: 2}, {"1": 2})],
)
def test_whatever_is_logged_becomes_json(value: object, text: object) -> None:
    assert json.loads(to_json({"a": value}))["a"] == text


@pytest.mark.parametrize(
    ("environ", "terminal", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
    ],
)
def test_colour_is_for_terminals_and_as_the_environment_says(
    environ: dict[str, str],
    terminal: bool,  # noqa: FBT001 - a parametrised value
    wanted: bool,  # noqa: FBT001 - a parametrised value
) -> None:
    assert wants_colour(Terminal() if terminal else io.StringIO(), environ) is wanted


@bare_logging()
def test_logging_goes_to_the_stream_with_the_tasks_fields() -> None:
    stream = io.StringIO()
    setup_logging(logging.INFO, "json", worker="w@h", stream=stream)
    current_before = current.set(Request(ID, "proj.add"))
    logging.getLogger("proj").info("hello")
    logging.getLogger("proj").debug("not shown")
    current.reset(current_before)
    logging.getLogger("aiormq").info("not shown")
    [line] = stream.getvalue().splitlines()
    data = json.loads(line)
    assert (data["message"], data["task_id"], data["attempt"], data["worker"]) == ("hello", ID, 1, "w@h")


@bare_logging()
def test_text_is_the_other_format() -> None:
    stream = Terminal()
    setup_logging(logging.INFO, "text", worker="w@h", stream=stream, colour=False)
    logging.getLogger("proj").info("hello")
    assert stream.getvalue()[9:] == "info       proj  hello\n"


@bare_logging()
def test_the_programs_own_handlers_stay_and_get_the_fields() -> None:
    stream, other = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s/%(task_name)s[%(task_id)s]: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
    setup_logging(logging.INFO, "text", worker="w@h", stream=other)
    assert logging.getLogger().handlers == [handler]
    token = current.set(Request(ID, "proj.add"))
    logging.getLogger("taskq.worker").info("ours, at the level of the worker")
    logging.getLogger("proj").info("theirs, at the level of the program")
    current.reset(token)
    assert stream.getvalue() == f"INFO/proj.add[{ID}]: ours, at the level of the worker\n"
    assert other.getvalue() == ""
