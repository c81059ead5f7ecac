"""Gives a worker its slots: as many as it was told, or within bounds as many as it needs and can carry."""

import asyncio
import logging
from dataclasses import dataclass
from statistics import median

from taskq.config.settings import Settings
from taskq.errors import OperationalError
from taskq.seams.broker import Broker, Consumer, Features
from taskq.worker.intake.intake import Intake
from taskq.worker.process.scaling import AUTO, Bounds, Scale
from taskq.worker.run.runner import Runner

logger = logging.getLogger("taskq.worker")

#: Seconds between two looks, and how many looks one decision rests on.
PAUSE, LOOKS = 0.1, 10


@dataclass(frozen=True, slots=True)
class Slots:
    """What follows from how many tasks run at once.

    `held`: how many deliveries may be held that do not wait for an eta. `later`: how many may wait for theirs; few
    where the broker delays by itself, and only late comers do.
    """

    held: int
    later: int

    @classmethod
    def of(cls, concurrency: int, conf: Settings, features: Features) -> "Slots":
        """With `worker_prefetch_multiplier`, for which 0 means as many as may wait for an eta."""
        limit = conf.worker_eta_task_limit
        held = concurrency * conf.worker_prefetch_multiplier or limit
        return cls(held, min(limit, held) if features.delays else limit)

    @property
    def prefetch(self) -> int:
        """How many in all."""
        return self.held + self.later


def size_of(conf: Settings, told: int | None) -> tuple[int, Bounds | None]:
    """How many slots a worker begins with, and between which bounds the number changes (None: it does not)."""
    if told:
        return told, None
    if conf.worker_autoscale is not None:
        bounds = Bounds(*conf.worker_autoscale)
    elif conf.worker_concurrency == "auto":
        bounds = AUTO
    else:
        return conf.worker_concurrency, None
    return bounds.least, bounds


class Autoscaler:
    """Looks ten times a second at how late the loop is and how much runs, and decides each second.

    Args:
        bounds: None: the number changes only by `resize`.
    """

    def __init__(
        self,
        runner: Runner,
        intake: Intake,
        consumer: Consumer,
        conf: Settings,
        broker: Broker,
        bounds: Bounds | None,
    ) -> None:
        self._runner = runner
        self._intake = intake
        self._consumer = consumer
        self._conf = conf
        self._features = broker.features
        self._loop = asyncio.get_running_loop()
        self._scale = None if bounds is None else Scale(bounds, self._loop.time())
        self._task: asyncio.Task[None] | None = None

    @property
    def bounds(self) -> Bounds | None:
        """None: it is off."""
        return None if self._scale is None else self._scale.bounds

    def start(self) -> "asyncio.Task[None] | None":
        """Begin to look, where there are bounds; what does it."""
        if self._scale is not None:
            self._task = asyncio.create_task(self._run(self._scale), name="taskq-autoscaler")
        return self._task

    def stop(self) -> None:
        """Look no longer."""
        if self._task is not None:
            self._task.cancel()

    async def resize(self, concurrency: int) -> None:
        """Let so many run at once from now on; those that run go on. Raises OperationalError."""
        slots = Slots.of(concurrency, self._conf, self._features)
        self._runner.resize(concurrency)
        self._intake.resize(slots.held)
        await self._consumer.resize(slots.prefetch)

    async def move(self, most: int | None, least: int | None) -> Bounds:
        """Other bounds; None leaves one as it is.

        Raises:
            ValueError: it is off, or the most would be fewer than the least.
        """
        if self._scale is None:
            raise ValueError("Autoscale not enabled")
        now = self._scale.bounds
        bounds = Bounds(now.most if most is None else most, now.least if least is None else least)
        if bounds.most < bounds.least:
            raise ValueError(f"max={bounds.most} is less than min={bounds.least}")
        await self._resize_to(self._scale.move(bounds, self._loop.time()))
        return bounds

    async def _run(self, scale: Scale) -> None:
        while True:
            lags, busiest, waiting = [], 0, False
            for _ in range(LOOKS):
                due = self._loop.time() + PAUSE
                await asyncio.sleep(PAUSE)
                lags.append(self._loop.time() - due)
                busiest = max(busiest, len(self._runner.running))
                waiting = waiting or self._is_short()
            lag = median(lags)  # a single call that blocks the loop says nothing about the number of slots
            await self._resize_to(scale.next(self._loop.time(), busiest=busiest, waiting=waiting, lag=lag))

    def _is_short(self) -> bool:
        """Whether more could run: what waits for room may be here, or still in the broker where there is no prefetching."""
        runner = self._runner
        return runner.is_full or (len(runner.running) >= runner.concurrency and self._intake.room <= 0)

    async def _resize_to(self, slots: int) -> None:
        before = self._runner.concurrency
        if slots == before:
            return
        logger.info("%d slots instead of %d", slots, before)
        try:
            await self.resize(slots)
        except OperationalError as error:
            logger.info("the broker may send as much as before: %s", error)
