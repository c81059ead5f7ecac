"""What a worker says of itself when it starts: the five things people look for, and then "ready"."""

import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from taskq.cli.apps import own_tasks
from taskq.config.finder import FoundApp
from taskq.seams.urls import mask
from taskq.version import VERSION
from taskq.worker.process.logs import JsonFormatter, LogFormat
from taskq.worker.worker import Worker

#: Names of tasks shown in the banner.
_SHOWN_TASKS = 10

_BOLD, _DIM, _RESET = "\033[1m", "\033[2m", "\033[0m"


@dataclass(frozen=True)
class Banner:
    """A worker's own lines: not through logging, so that they are there at every level."""

    node: str
    stream: TextIO
    log_format: LogFormat
    colour: bool

    def show(self, worker: Worker, found: FoundApp) -> None:
        """Name, broker, results, queues, slots, tasks."""
        facts = _facts(worker, found)
        if self.log_format == "json":
            self._json(f"taskq {VERSION} worker {self.node}", event="start", **facts)
            return
        title = f"taskq {VERSION}  worker {self.node}  pid {facts['pid']}  Python {facts['python']}  {facts['loop']}"
        self._write(self._paint(title, _BOLD))
        for name, text, remark in _lines(facts):
            self._write(f"  {name:<9}{text}" + (self._paint(f"  ({remark})", _DIM) if remark else ""))

    def ready(self) -> None:
        """The line that scripts and health checks wait for."""
        text = f"{self.node} ready."
        if self.log_format == "json":
            self._json(text, event="ready")
        else:
            self._write(self._paint(text, _BOLD))

    def _paint(self, text: str, code: str) -> str:
        return f"{code}{text}{_RESET}" if self.colour else text

    def _json(self, message: str, **fields: Any) -> None:
        standard = {"name": "taskq.worker", "levelno": logging.INFO, "levelname": "INFO", "msg": message}
        self._write(
            JsonFormatter().format(logging.makeLogRecord({**standard, "worker": self.node, **fields}))
        )

    def _write(self, text: str) -> None:
        self.stream.write(f"{text}\n")
        self.stream.flush()


def _facts(worker: Worker, found: FoundApp) -> dict[str, Any]:
    conf = worker.app.conf
    results = worker.app.store_config().url
    return {
        "pid": os.getpid(),
        "python": platform.python_version(),
        "loop": "uvloop" if "uvloop" in sys.modules else "asyncio",
        "app": found.target,
        "app_from": found.told_by,
        "broker": _shown_url(conf.broker_url),
        "broker_from": conf.source_of("broker_url"),
        "results": "same" if results == conf.broker_url else _shown_url(results),
        "queues": worker.queues,
        "concurrency": worker.concurrency,
        "autoscale": None if worker.bounds is None else [worker.bounds.most, worker.bounds.least],
        "threads": worker.threads,
        "lease": conf.lease_seconds,
        "grace": worker.grace,
        "signed": bool(conf.security_secrets),
        "tasks": own_tasks(worker.app),
    }


def _shown_url(url: str) -> str:
    """Without passwords; a file with its whole path, which does not depend on the current folder."""
    path = url.removeprefix("sqlite:///")
    if path == url or ";" in url:
        return mask(url)
    name, mark, query = path.partition("?")
    return f"sqlite:///{Path(name).absolute()}{mark}{query}"


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, text and remark of each fact."""
    guessed = "found here; -A or TASKQ_APP names another"
    yield "app", facts["app"], guessed if facts["app_from"] == "guessed" else facts["app_from"]
    where = facts["broker_from"]
    is_default = where == "default"
    yield (
        "broker",
        facts["broker"],
        "default; set TASKQ_BROKER_URL for Redis or RabbitMQ" if is_default else where,
    )
    yield "results", facts["results"], ""
    yield "queues", ", ".join(facts["queues"]), ""
    most, least = facts["autoscale"] or (0, 0)
    number = f"{least} to {most}" if most else facts["concurrency"]
    slots = f"{number} async / {facts['threads']} threads"
    yield "slots", f"{slots}    lease {facts['lease']:g}s    grace {facts['grace']:g}s", ""
    if facts["signed"]:
        yield "signed", "only messages with a signature by security_secrets are taken", ""
    yield "tasks", _listed(facts["tasks"]), ""


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none: is the module that has them imported? see the settings imports and include"
    more = f" and {len(names) - _SHOWN_TASKS} more" if len(names) > _SHOWN_TASKS else ""
    return f"{len(names)}: {', '.join(names[:_SHOWN_TASKS])}{more}"
