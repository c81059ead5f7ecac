"""Rate limits of tasks: a token bucket each (as Celery means `rate_limit`), which keeps what must wait aside."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from taskq.config.coerce import parse_rate
from taskq.worker.run.job import Job, JobState


class Bucket:
    """One token at most, refilled at `rate` per second: starts are spread out, and none is saved up."""

    __slots__ = ("next_at", "rate", "waiting")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.next_at = 0.0
        self.waiting: deque[Job] = deque()

    def take(self, now: float) -> bool:
        """Whether one may start now."""
        if self.rate:
            if now < self.next_at:
                return False
            self.next_at = now + 1.0 / self.rate
        return True


class Throttle:
    """Hands jobs on at the rate of their task; those without a limit at once.

    Args:
        start: where jobs go.
        default: the limit of tasks that say nothing themselves.
        enabled: False: nothing is limited.
    """

    def __init__(self, start: Callable[[Job], None], default: str | float | None, *, enabled: bool) -> None:
        self._start = start
        self._default = default if parse_rate(default) else None
        self._enabled = enabled
        self._loop = asyncio.get_running_loop()
        self._buckets: dict[str, Bucket] = {}
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, job: Job) -> None:
        """Start a job now, or when its turn comes."""
        if not self.limits(job):
            self._start(job)
            return
        bucket = self._bucket(job)
        if not bucket.waiting and bucket.take(self._loop.time()):
            self._start(job)
        else:
            if job.state < JobState.WAITING:  # else it waited for its eta before
                job.enter(JobState.WAITING)
            bucket.waiting.append(job)
            self._set_alarm()

    def limits(self, job: Job) -> bool:
        """Whether the job's task has a limit."""
        rate = job.task.rate_limit
        return bool(self._default if rate is None else rate) and self._enabled

    def eta(self, job: Job) -> float:
        """Seconds until a job of a limited task that came now would start."""
        bucket = self._bucket(job)
        turn = max(0.0, bucket.next_at - self._loop.time())
        return turn + len(bucket.waiting) / bucket.rate

    def change(self, name: str, rate: str | float | None) -> None:
        """A task has this limit from now on."""
        bucket = self._buckets.setdefault(name, Bucket(0.0))
        bucket.rate, bucket.next_at = parse_rate(rate), 0.0
        self._ring()

    def waiting(self) -> list[Job]:
        """All that wait for their turn."""
        return [job for bucket in self._buckets.values() for job in bucket.waiting]

    def withdraw(self, jobs: Iterable[Job]) -> set[Job]:
        """Take out those of these that wait here."""
        found = set(jobs).intersection(self.waiting())
        for bucket in self._buckets.values():
            bucket.waiting = deque(job for job in bucket.waiting if job not in found)
        return found

    def close(self) -> list[Job]:
        """Start no more: what has been waiting."""
        if self._alarm is not None:
            self._alarm.cancel()
        rest = self.waiting()
        self._buckets.clear()
        return rest

    def __len__(self) -> int:
        return sum([len(bucket.waiting) for bucket in self._buckets.values()]) if self._buckets else 0

    def _bucket(self, job: Job) -> Bucket:
        bucket = self._buckets.get(job.task.name)
        if bucket is None:
            rate = job.task.rate_limit
            bucket = Bucket(parse_rate(self._default if rate is None else rate))
            self._buckets[job.task.name] = bucket
        return bucket

    def _ring(self) -> None:
        for bucket in self._buckets.values():
            while bucket.waiting and bucket.take(self._loop.time()):
                self._start(bucket.waiting.popleft())
        self._set_alarm()

    def _set_alarm(self) -> None:
        """One timer, for the next turn."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        turns = [bucket.next_at for bucket in self._buckets.values() if bucket.waiting]
        if turns:
            self._alarm = self._loop.call_at(min(turns), self._ring)
