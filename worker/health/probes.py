"""Who watches a worker for its operators: probes over HTTP, systemd, a heartbeat file. Nothing where nobody asked."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from taskq.app import TaskQ
from taskq.config.settings import Settings
from taskq.seams.broker import Queue, open_broker
from taskq.worker.health.health import Health, Vitals
from taskq.worker.health.http import HttpServer, parse_bind
from taskq.worker.health.notify import Notifier


class Probes:
    """The thread that judges, and the server that tells.

    Raises:
        ConfigError: `http_bind` is no address, or cannot be listened on.
    """

    def __init__(self, health: Health, bind: str | None, number: int) -> None:
        self.health = health
        self.server = None if bind is None else HttpServer(health, *parse_bind(bind, number))

    def start(self) -> None:
        """Begin."""
        self.health.start()
        if self.server is not None:
            self.server.start()

    async def stop(self) -> None:
        """End."""
        await self.health.stop()
        if self.server is not None:
            await asyncio.to_thread(self.server.stop)


def probes_of(app: TaskQ, vitals: Callable[[], Vitals], number: int) -> Probes | None:
    """What the settings and the environment ask for; None if that is nothing.

    Args:
        app: whose worker.
        vitals: makes what it is judged by.
        number: of the worker process, from 1.
    """
    conf, notifier = app.conf, Notifier()
    if conf.http_bind is None and conf.heartbeat_file is None and not notifier.active:
        return None
    health = Health(
        vitals(),
        lambda: open_broker(app.broker_config()),
        notifier,
        patience=conf.health_patience,
        heartbeat=_heartbeat(conf, number),
        watched=lambda queue: _is_shared(app.router.queue(queue)),
    )
    return Probes(health, conf.http_bind, number)


def _heartbeat(conf: Settings, number: int) -> Path | None:
    if conf.heartbeat_file is None:
        return None
    return Path(conf.heartbeat_file if number == 1 else f"{conf.heartbeat_file}.{number}")


def _is_shared(queue: Queue) -> bool:
    return not queue.arguments.get("x-single-active-consumer")
