"""`taskq worker`."""

import asyncio
import gc
import logging
import os
import socket
import sys
from typing import Any

import click
import uvloop

from taskq import signals
from taskq.app import TaskQ
from taskq.cli.apps import named_app
from taskq.cli.banner import Banner
from taskq.cli.nodes import node_name
from taskq.cli.params import duration, names
from taskq.cli.state import AppCommand, get_state
from taskq.config.coerce import Range, parse
from taskq.config.finder import FoundApp
from taskq.config.layers import Source
from taskq.worker.process.logs import LogFormat, setup_logging, wants_colour
from taskq.worker.process.process import WorkerProcess, begin_anew
from taskq.worker.process.supervisor import Supervisor, available_processors
from taskq.worker.worker import Worker

#: New objects before the collector looks at them. Python's 700 is fewer than 20 tasks make: it would look, in vain,
#: at what is still running. Measured: a tenth of the worker's CPU per task (docs/performance.md).
YOUNG_OBJECTS = 10_000

LEVELS = ("debug", "info", "warning", "error", "critical")

#: In the environment of a process under a supervisor: 1, 2, ...
PROCESS_NUMBER = "TASKQ_PROCESS_NUMBER"

_SIGNALS = """
\b
Signals:
  TERM       take no more; running tasks have the grace period, then go back
  INT        the same; again: cancel them now; a third time: leave at once
  QUIT       cancel running tasks now and give them back
  HUP        as TERM, then start anew
  USR1       stacks of all threads and coroutines, with task ids
  REMAP_SIGTERM=SIGQUIT in the environment makes TERM a QUIT.
"""


#: Options that are settings of other names than `worker_<option>`.
_SETTINGS = {"http": "http_bind", "heartbeat_file": "heartbeat_file"}


def _processes(text: str) -> int:
    if text == "auto":
        return available_processors()
    if not text.isdecimal() or not int(text):
        raise click.BadParameter("a number from 1 on, or auto")
    return int(text)


def _concurrency(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or not int(text):
        raise click.BadParameter("a number from 1 on, or auto")
    return int(text)


def _autoscale(text: str) -> tuple[int, int]:
    try:
        found: tuple[int, int] = parse(Range, text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not MAX,MIN, as in 10,3") from None
    return found


@click.command(cls=AppCommand, epilog=_SIGNALS)
@click.option(
    "-Q",
    "--queues",
    type=names,
    metavar="NAMES",
    help="queues to take from, by comma; default: all of the app",
)
@click.option(
    "-c",
    "--concurrency",
    type=_concurrency,
    metavar="N|auto",
    help="tasks that run at once (100); auto: as many as are needed and the event loop can carry",
)
@click.option(
    "--autoscale",
    type=_autoscale,
    metavar="MAX,MIN",
    help="instead: between MIN and MAX tasks at once, by load",
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="of these, plain (not async) ones (16)")
@click.option(
    "-E",
    "--task-events",
    "send_task_events",
    is_flag=True,
    default=None,
    help="send events of tasks, for monitors",
)
@click.option(
    "-n", "--hostname", metavar="NAME", help="node name: name@%h; %h host, %n its first part, %d the rest"
)
@click.option(
    "--grace", type=duration, metavar="TIME", help="time running tasks have when told to stop (25s)"
)
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    help="least level to log",
)
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="lines for people or for machines",
)
@click.option(
    "--processes",
    type=_processes,
    default="1",
    metavar="N|auto",
    help="worker processes, each with all of the above; auto: one per processor (1)",
)
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="answer probes and show metrics there: /live /ready /metrics /status",
)
@click.option(
    "--heartbeat-file",
    type=click.Path(dir_okay=False),
    metavar="PATH",
    help="touched every second while alive",
)
def worker(
    queues: list[str] | None,
    hostname: str | None,
    loglevel: str,
    log_format: LogFormat,
    processes: int,
    **options: Any,
) -> int:
    """Run the tasks of an app until told to stop.

    taskq worker -A proj -Q celery,priority.high -c 100
    """
    if options["autoscale"] is not None and options["concurrency"] is not None:
        raise click.UsageError("--autoscale and --concurrency exclude each other")
    if processes > 1:
        setup_logging(logging.INFO, log_format, worker="supervisor", colour=wants_colour(sys.stderr))
        return Supervisor(_child_command, processes).run()
    state = get_state()
    found = named_app(state)
    _override(found.app, options)
    node = node_name(hostname, socket.gethostname(), os.environ.get(PROCESS_NUMBER))
    _spare_the_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        work = _work(found, queues, node, getattr(logging, loglevel.upper()), log_format, quiet=state.quiet)
        code, restart = runner.run(work)
    if restart:
        begin_anew(state.folder)
    return code


def _child_command(number: int) -> list[str]:
    """This very command line with a number; the last `--processes` counts."""
    os.environ[PROCESS_NUMBER] = str(number)
    return [sys.executable, "-m", "taskq", *sys.argv[1:], "--processes", "1"]


def _spare_the_collector() -> None:
    """Modules and tasks live as long as the process: no collection need walk over them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def _override(app: TaskQ, options: dict[str, Any]) -> None:
    """Options that are settings become settings, so that the whole program sees them."""
    for option, value in options.items():
        if value is not None:
            app.conf.set_from(
                {_SETTINGS.get(option, f"worker_{option}"): value},
                Source.COMMAND_LINE,
                f"option --{option.replace('_', '-')}",
            )
    if options["concurrency"] is not None:  # it wins over a range from elsewhere
        app.conf.set_from({"worker_autoscale": None}, Source.COMMAND_LINE, "option --concurrency")


async def _work(
    found: FoundApp, queues: list[str] | None, node: str, level: int, log_format: LogFormat, *, quiet: bool
) -> tuple[int, bool]:
    colour = wants_colour(sys.stderr)
    if signals.setup_logging.receivers:
        await signals.setup_logging.send(
            None, loglevel=level, logfile=None, format=log_format, colorize=colour
        )
    else:
        setup_logging(level, log_format, worker=node, colour=colour)
    number = int(os.environ.get(PROCESS_NUMBER, "1"))
    banner = Banner(node, sys.stderr, log_format, colour)
    process = WorkerProcess(
        Worker(found.app, queues=queues, hostname=node, on_ready=banner.ready, number=number)
    )
    if not quiet:
        banner.show(process.worker, found)
    code = await process.run()
    return code, process.restart
