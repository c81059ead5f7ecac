"""A broker and a result store in memory that fail when told to: `fail(app, "publish", error, error)`."""

import functools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from taskq import TaskQ
from taskq.broker_adapters.memory.broker import MemoryBroker, MemoryConsumer
from taskq.broker_adapters.memory.store import MemoryStore
from taskq.errors import PublishErrors
from taskq.seams.broker import BrokerConfig
from taskq.seams.store import StoreConfig
from taskq.seams.urls import SCHEMES, Scheme

SCHEMES["faulty"] = Scheme("tests.faults:FaultyBroker", "tests.faults:FaultyStore")

#: URL -> verb -> the errors of its next calls; FOREVER at the end repeats the one before it.
PLANS: defaultdict[str, defaultdict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
FOREVER = object()


def fail(app: TaskQ, verb: str, *errors: Any) -> None:
    """Have the next calls of a verb fail with these errors."""
    PLANS[app.conf.broker_url][verb][:] = errors


def heal(app: TaskQ) -> None:
    """No more errors."""
    PLANS.pop(app.conf.broker_url, None)


def faulty(url: str, verb: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(call)
    async def planned(*args: Any, **kwargs: Any) -> Any:
        plan = PLANS[url][verb]
        if len(plan) > 1 and plan[1] is FOREVER:
            raise plan[0]
        if plan and (error := plan.pop(0)) is not None:
            if isinstance(error, PublishErrors):  # the others are accepted
                await call([message for i, message in enumerate(args[0]) if i not in error.failures])
            raise error
        return await call(*args, **kwargs)

    return planned


class FaultyBroker(MemoryBroker):
    def __init__(self, config: BrokerConfig) -> None:
        super().__init__(config)
        self._url = config.url
        for verb in ("open", "publish", "revoked", "bury"):
            setattr(self, verb, faulty(config.url, verb, getattr(self, verb)))

    async def consume(self, queues: Sequence[str], *, prefetch: int) -> MemoryConsumer:
        consumer = await super().consume(queues, prefetch=prefetch)
        for verb in ("receive", "settle", "park", "strike", "resize", "close"):
            setattr(consumer, verb, faulty(self._url, verb, getattr(consumer, verb)))
        return consumer


class FaultyStore(MemoryStore):
    def __init__(self, config: StoreConfig) -> None:
        super().__init__(config)
        for verb in ("save", "join_many", "load"):
            setattr(self, verb, faulty(config.url, verb, getattr(self, verb)))
