"""What tests of the RabbitMQ adapter share."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from taskq.broker_adapters.amqp.broker import AmqpBroker
from taskq.broker_adapters.amqp.consumer import AmqpConsumer
from taskq.wire.message import Delivery, Message

Open = Callable[..., Awaitable[AmqpBroker]]


def message(queue: str, n: int = 0, **fields: Any) -> Message:
    return Message(
        {"task": "t", "id": f"id-{n}"}, b"[[], {}, {}]", correlation_id=f"id-{n}", routing_key=queue, **fields
    )


async def take(consumer: AmqpConsumer, wanted: int, within: float = 20.0) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(within):
        while len(taken) < wanted:
            taken += await consumer.receive(wanted - len(taken))
    return taken


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message.headers["id"] for delivery in deliveries]
