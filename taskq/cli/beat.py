"""`taskq beat`, and the scheduler inside a worker (`taskq worker -B`)."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
import uvloop

from taskq import signals
from taskq.app import TaskQ
from taskq.cli.apps import named_app
from taskq.cli.state import AppCommand, get_state
from taskq.schedules.scheduler import Scheduler
from taskq.worker.process.logs import LogFormat, setup_logging, wants_colour

logger = logging.getLogger("taskq.beat")

LEVELS = ("debug", "info", "warning", "error", "critical")


@click.command(cls=AppCommand)
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
def beat(*, loglevel: str, log_format: LogFormat) -> None:
    """Send periodic tasks until told to stop. Any number of these may run; each instant is sent once.

    taskq beat -A proj
    """
    app = named_app(get_state()).app
    setup_logging(
        getattr(logging, loglevel.upper()), log_format, worker="beat", colour=wants_colour(sys.stderr)
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_beat(app))


async def _beat(app: TaskQ) -> None:
    scheduler = Scheduler(app)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, scheduler.stop)
    await signals.beat_init.send(scheduler)
    async with app:
        telling = asyncio.create_task(_tell_ready(scheduler))
        try:
            await scheduler.run()
        finally:
            telling.cancel()


async def _tell_ready(scheduler: Scheduler) -> None:
    await scheduler.ready.wait()
    logger.info("beat is ready")


@asynccontextmanager
async def embedded_beat(app: TaskQ) -> AsyncIterator[None]:
    """A scheduler beside the worker in the running loop; what it cannot reach it tries again, as the worker does.

    Raises:
        ConfigError: an entry is wrong, or there is no place for what schedulers share.
    """
    scheduler = Scheduler(app)
    await scheduler.check()
    await signals.beat_embedded_init.send(scheduler)
    running = asyncio.create_task(scheduler.run_for_ever(), name="taskq-beat")
    try:
        yield
    finally:
        scheduler.stop()
        await running
