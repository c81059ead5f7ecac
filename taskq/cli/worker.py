"""`taskq worker`."""

import asyncio
import gc
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import uvloop

from taskq import signals
from taskq.cli.apps import named_app
from taskq.cli.banner import Banner
from taskq.cli.beat import embedded_beat
from taskq.cli.params import expand_node, node_name
from taskq.cli.state import AppCommand, CliState, Refusal, get_state
from taskq.cli.worker_options import override, worker_options
from taskq.config.finder import FoundApp
from taskq.worker.process.deadline import Deadline
from taskq.worker.process.logs import LogFormat, setup_logging, wants_colour
from taskq.worker.process.process import EXIT_UNCLEAN, LAST, WorkerProcess, begin_anew
from taskq.worker.process.supervisor import Seat, Supervisor
from taskq.worker.worker import Worker

#: New objects before the collector looks at them. Python's 700 is fewer than 20 tasks make: it would look, in vain,
#: at what is still running. Measured: a tenth of the worker's CPU per task (docs/performance.md).
YOUNG_OBJECTS = 10_000

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


@dataclass(frozen=True)
class Launch:
    """How a worker process is started, apart from what is in the settings."""

    queues: Sequence[str] | None
    excluded: Sequence[str]
    node: str
    number: int
    level: int
    log_format: LogFormat
    logfile: str | None
    beat: bool
    quiet: bool


@click.command(cls=AppCommand, epilog=_SIGNALS)
@worker_options
def worker(
    *, processes: int, seat: Seat | None, pidfile: str | None, pool: str | None, **options: Any
) -> int:
    """Run the tasks of an app until told to stop.

    taskq worker -A proj -Q celery,priority.high -c 100
    """
    if options["autoscale"] is not None and options["concurrency"] is not None:
        raise click.UsageError("--autoscale and --concurrency exclude each other")
    state = get_state()
    launch = _launch(options, seat, quiet=state.quiet)
    with ExitStack() as stack:
        if pidfile is not None and seat is None:
            stack.enter_context(_pid_in(Path(expand_node(pidfile, launch.node, None))))
        if processes > 1 and seat is None:
            return _supervise(processes, state, launch)
        return _work(state, launch, seat, pool, options)


def _launch(options: dict[str, Any], seat: Seat | None, *, quiet: bool) -> Launch:
    """Takes what is no setting out of the options."""
    number = None if seat is None else seat.number
    node = node_name(options.pop("hostname"), socket.gethostname(), number)
    logfile = options.pop("logfile")
    return Launch(
        queues=options.pop("queues"),
        excluded=options.pop("exclude_queues") or (),
        node=node,
        number=number or 1,
        level=getattr(logging, options.pop("loglevel").upper()),
        log_format=options.pop("log_format"),
        logfile=None if logfile is None else expand_node(logfile, node, number),
        beat=bool(options.pop("beat")),
        quiet=quiet,
    )


# --- several processes --------------------------------------------------------------------------------------


def _supervise(processes: int, state: CliState, launch: Launch) -> int:
    setup_logging(logging.INFO, launch.log_format, worker="supervisor", logfile=launch.logfile)
    urls = {"TASKQ_BROKER_URL": state.broker, "TASKQ_RESULT_BACKEND": state.result_backend}
    environ = {name: url for name, url in urls.items() if url is not None}
    return Supervisor(_child_command, processes, environ).run()


def _child_command(seat: Seat) -> list[str]:
    """This very command line for one of the processes."""
    return [sys.executable, "-m", "taskq", *_without_urls(sys.argv[1:]), "--seat", str(seat)]


#: An option with an URL, with or without its value behind it; short flags may stand before a short one.
_WITH_URL = re.compile(r"(--broker|--result-backend)(=.*)?|(-[qEB]*)b(.*)", re.DOTALL)


def _without_urls(arguments: Sequence[str]) -> Iterator[str]:
    """Anybody on the machine can read a command line: URLs with passwords go by the environment."""
    rest = iter(arguments)
    for argument in rest:
        found = _WITH_URL.fullmatch(argument)
        if found is None:
            yield argument
            continue
        if flags := (found[3] or "-")[1:]:
            yield f"-{flags}"
        if not (found[2] or found[4]):
            next(rest, None)  # the URL


# --- one process --------------------------------------------------------------------------------------------


def _work(
    state: CliState, launch: Launch, seat: Seat | None, pool: str | None, options: dict[str, Any]
) -> int:
    if seat is not None:
        seat.take()
    found = named_app(state, include=options.pop("include") or ())
    override(found.app, options, pool)
    _spare_the_collector()
    deadline = Deadline(found.app.conf.worker_grace + LAST, EXIT_UNCLEAN)
    with deadline, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code, restart = runner.run(_run(found, launch, deadline))
    if restart:
        begin_anew(state.folder)
    return code


def _spare_the_collector() -> None:
    """Modules and tasks live as long as the process: no collection need walk over them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


async def _run(found: FoundApp, launch: Launch, deadline: Deadline) -> tuple[int, bool]:
    colour = launch.logfile is None and wants_colour(sys.stderr)
    if signals.setup_logging.receivers:
        told = {"loglevel": launch.level, "logfile": launch.logfile, "format": launch.log_format}
        await signals.setup_logging.send(None, **told, colorize=colour)
    else:
        setup_logging(
            launch.level, launch.log_format, worker=launch.node, logfile=launch.logfile, colour=colour
        )
    banner = Banner(launch.node, sys.stderr, launch.log_format, colour)
    process = WorkerProcess(
        Worker(
            found.app,
            queues=_queues(found, launch),
            hostname=launch.node,
            on_ready=banner.ready,
            number=launch.number,
        ),
        deadline,
    )
    if not launch.quiet:
        banner.show(process.worker, found)
    async with embedded_beat(found.app) if launch.beat else nullcontext():
        code = await process.run()
    return code, process.restart


def _queues(found: FoundApp, launch: Launch) -> list[str]:
    names = [name for name in launch.queues or found.app.router.queues if name not in launch.excluded]
    if not names:
        raise click.UsageError("no queue is left: see -Q and -X")
    return names


@contextmanager
def _pid_in(path: Path) -> Iterator[None]:
    """Our process id is in that file meanwhile. Refuses where that of a living process is."""
    other = _pid_of(path)
    if other is not None and other != os.getpid() and _lives(other):  # ours: the process began anew
        raise Refusal(f"{path} says that process {other} is this worker, and it lives: stop it first")
    path.write_text(f"{os.getpid()}\n", encoding="ascii")
    try:
        yield
    finally:
        if _pid_of(path) == os.getpid():
            path.unlink()


def _pid_of(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
