"""Where a worker's log goes and how its lines look: text for people, JSON for machines."""

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any, Literal, TextIO

import orjson

from taskq.logs import FIELDS, TaskFields
from taskq.printable import printable, printable_json
from taskq.wire.repr import saferepr
from taskq.worker.process.outage import OUTAGES

LogFormat = Literal["text", "json"]

#: Attributes that logging itself gives to every record; the others are fields of the program.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    *("message", "asctime", "taskName", "repeats_outage"),
}

#: Loggers of the libraries that speak to brokers and stores.
_DRIVERS = ("aiormq", "aio_pika", "redis")

_RESET = "\033[0m"
_DIM, _RED, _GREEN, _YELLOW, _CYAN = "\033[2m", "\033[31m", "\033[32m", "\033[33m", "\033[36m"
_EVENT_COLOURS = {"succeeded": _GREEN, "received": _DIM}
_LEVEL_COLOURS = ((logging.ERROR, _RED), (logging.WARNING, _YELLOW), (logging.INFO, _CYAN))

#: Characters of a task id that a person is shown; `taskq dead` takes any unique beginning.
SHORT_ID = 8


def setup_logging(
    level: int,
    log_format: LogFormat,
    *,
    worker: str,
    stream: TextIO | None = None,
    logfile: str | None = None,
    colour: bool | None = None,
) -> None:
    """Begin to log, unless the program has set up logging itself: handlers of the root logger are left alone.

    taskq's own records are then shown from `level` on, whatever the root logger's level is. Records get the fields of the task that logs them (`taskq.logs.FIELDS`) in either case.

    Args:
        level: the least level that is shown.
        log_format: for people or machines.
        worker: the node name, a field of every record.
        stream: where to; default standard error.
        logfile: the file to append to instead; opened again when it was moved away.
        colour: default only on a terminal, and as NO_COLOR and FORCE_COLOR say.
    """
    stream = stream or sys.stderr
    root = logging.getLogger()
    if not root.handlers:
        handler: logging.Handler = logging.StreamHandler(stream)
        terminal = stream.isatty()
        colour = wants_colour(stream) if colour is None else colour
        if logfile is not None:
            handler = WatchedFileHandler(logfile, encoding="utf-8", errors="backslashreplace")
            terminal = colour = False
        handler.setFormatter(
            JsonFormatter() if log_format == "json" else TextFormatter(terminal=terminal, colour=colour)
        )
        root.addHandler(handler)
        root.setLevel(level)
        logging.getLogger("asyncio").setLevel(max(level, logging.WARNING))
    elif logging.getLogger("taskq").level == logging.NOTSET:
        logging.getLogger("taskq").setLevel(level)
    _quieten_drivers(level)
    fields = TaskFields(worker)
    for handler_ in _all_handlers():
        handler_.addFilter(fields)
        handler_.addFilter(OUTAGES)


def _quieten_drivers(level: int) -> None:
    """Their tracebacks of a broken connection repeat what an adapter says in a line; levels that are set stay."""
    for name in _DRIVERS:
        driver = logging.getLogger(name)
        if driver.level == logging.NOTSET:
            driver.setLevel(logging.DEBUG if level <= logging.DEBUG else logging.CRITICAL)


def wants_colour(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to colour what is written there: see no-color.org and force-color.org."""
    if environ.get("NO_COLOR"):
        return False
    return bool(environ.get("FORCE_COLOR")) or stream.isatty()


class TextFormatter(logging.Formatter):
    """A line per record: time, event (or level), task (or logger), what there is to say.

    On a terminal the time is the local one and task ids are short; else both are whole. What comes out of a message cannot
    steer the terminal or pass for a line of its own: control characters are written out, and further lines are indented.
    """

    def __init__(self, *, terminal: bool, colour: bool) -> None:
        super().__init__()
        self._terminal = terminal
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        fields = record.__dict__
        event = fields.get("event")
        word = fields.get("shown_event") or event or record.levelname.lower()
        text = printable(fields["detail"]) if event else _indented(record.getMessage())
        line = f"{self._time(record)} {self._paint(record, f'{word:<10}')} {self._about(record)}  {text}".rstrip()
        return "\n".join([line, *(printable(trace, lines=True) for trace in _traces(self, record))])

    def _time(self, record: logging.LogRecord) -> str:
        if self._terminal:
            return datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        return timestamp(record)

    def _about(self, record: logging.LogRecord) -> str:
        fields = record.__dict__
        task_id = fields.get("task_id")
        if not task_id:
            return record.name
        name = fields.get("shown_name") or fields.get("task_name") or "?"
        return printable(f"{name}[{task_id[:SHORT_ID] if self._terminal else task_id}]")

    def _paint(self, record: logging.LogRecord, text: str) -> str:
        if not self._colour:
            return text
        colour = _EVENT_COLOURS.get(record.__dict__.get("event", "")) or next(
            (colour for level, colour in _LEVEL_COLOURS if record.levelno >= level), _DIM
        )
        return f"{colour}{text}{_RESET}"


def _indented(text: str) -> str:
    """Further lines of a message, set off from the lines of the log."""
    return printable(text, lines=True).replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `ts`, `level`, `logger`, `message`, the task's fields, and those of the record."""

    def format(self, record: logging.LogRecord) -> str:
        fields = record.__dict__
        data: dict[str, Any] = {
            "ts": timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        data |= {name: fields[name] for name in FIELDS if fields.get(name) is not None}
        hidden = _STANDARD.union(FIELDS, ("detail", "shown_name", "shown_event"))
        data |= {name: value for name, value in fields.items() if name not in hidden}
        if traces := _traces(self, record):
            data["exception"] = "\n".join(traces)
        return to_json(data)


def _traces(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """The traceback of the exception and the stack, where a record has them."""
    traces = [formatter.formatException(record.exc_info).rstrip()] if record.exc_info else []
    return [*traces, record.stack_info] if record.stack_info else traces


def to_json(data: Mapping[str, Any]) -> str:
    """One line of JSON, whatever is in it: a log line must not fail."""
    options = orjson.OPT_NON_STR_KEYS
    try:
        return printable_json(orjson.dumps(data, default=saferepr, option=options).decode())
    except orjson.JSONEncodeError:  # an int of more than 64 bits, a lone surrogate
        plain = {str(name): _plain(value) for name, value in data.items()}
        return printable_json(orjson.dumps(plain).decode())


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else saferepr(value)
    return text.encode("utf-8", "backslashreplace").decode()


def timestamp(record: logging.LogRecord) -> str:
    """When a record was made: ISO 8601 in UTC, to the millisecond."""
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _all_handlers() -> list[logging.Handler]:
    """Those of every logger: a program may hang them anywhere, and filters of loggers do not see children's records."""
    known = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    return list({handler: None for logger in known for handler in getattr(logger, "handlers", ())})
