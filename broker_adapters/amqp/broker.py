"""RabbitMQ, over aio-pika: `amqp://`, `amqps://`, `pyamqp://`; see `taskq.seams.broker.Broker`.

Two connections: one publishes, the other consumes, because RabbitMQ stops reading from connections that publish
when it runs out of memory or disk, and acks are what frees both.

`broker_transport_options` that count here: `codec` (False: message frames by the driver alone), `namespace`
("taskq": what the names of our own queues begin with), `native_delayed_delivery_queue_type` ("quorum" or
"classic", as Celery's `broker_native_delayed_delivery_queue_type`), `consumer_timeout` (that of the server, in
seconds, where it is less than 30 minutes; else it is learned when the server first closes a channel over it).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import aiormq

from taskq.broker_adapters.amqp.boxes import AmqpBoxes
from taskq.broker_adapters.amqp.browse import Browser, SharedLog
from taskq.broker_adapters.amqp.bus import AmqpBus
from taskq.broker_adapters.amqp.consumer import AmqpConsumer, ConsumerShared
from taskq.broker_adapters.amqp.link import DRIVER_ERRORS, AmqpLink, OneAttempt
from taskq.broker_adapters.amqp.records import DeadLetters, Deaths, RecordNames, RevokedRecords
from taskq.broker_adapters.amqp.sender import AmqpSender
from taskq.broker_adapters.amqp.topology import Topology
from taskq.seams.broker import Broker, BrokerConfig, Features, Queue
from taskq.seams.exchanges import publish_sendable
from taskq.wire.message import DeadLetter, Delivery, Message


class AmqpBroker(Broker):
    """Connects to RabbitMQ."""

    features: ClassVar[Features] = Features(delays=True, celery=True)

    def __init__(self, config: BrokerConfig) -> None:
        names = RecordNames(config)
        self._config = config

        def queue(name: str) -> Queue:
            return names.declarations.get(name) or config.queue(name)

        ours = replace(config, queue=queue)
        self._publishing, self._consuming = AmqpLink(ours, "publish"), AmqpLink(ours, "consume")
        self._consuming_open = False
        self._opening = OneAttempt(self._open_consuming)
        self._sender = AmqpSender(self._publishing)
        self._topology = Topology(self._consuming)
        self._browser = browser = Browser(self._consuming, self._topology, self._sender)

        def log(name: str) -> SharedLog:
            return SharedLog(self._consuming, self._sender, browser, name)

        self._deaths = Deaths(log(names.deaths))
        self._revocations = RevokedRecords(log(names.revoked))
        self._letters = DeadLetters(names.dead, self._sender, browser)
        self._consumers: list[AmqpConsumer] = []
        self.boxes = AmqpBoxes(self._sender, self._consuming, self._connect_consuming)
        self.bus: AmqpBus = AmqpBus(self._publishing, self._consuming, self._connect_consuming)

    async def open(self) -> None:
        await self._publishing.open()

    async def close(self) -> None:
        for consumer in self._consumers:
            await consumer.close()
        await self.bus.close()
        self._consuming_open = False
        await self._consuming.close()
        await self._publishing.close()

    async def publish(self, messages: Sequence[Message]) -> None:
        await publish_sendable(messages, self._config, self._sender.publish)

    async def publish_each(self, messages: Sequence[Message]) -> Mapping[int, Exception]:
        """What went wrong with which (OperationalError or Refused). Raises as `publish`, where nothing was sent."""
        return await self._sender.send(messages)

    async def consume(self, queues: Sequence[str], *, prefetch: int) -> AmqpConsumer:
        await self._connect_consuming()
        parts = ConsumerShared(self._consuming, self._sender, self._topology, self._deaths, self._letters)
        consumer = AmqpConsumer(parts, queues, prefetch)
        await consumer.start()
        self._consumers = [known for known in self._consumers if not known.closed]
        self._consumers.append(consumer)
        return consumer

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:  # noqa: ARG002 - the seam's signature
        """No leases: RabbitMQ gives back what a dead connection held."""
        return []

    async def size(self, queue: str) -> int:
        """How many messages are ready; those in the delays are not known by queue."""
        try:
            declared = await self._sender.topology.do(
                lambda methods: methods.queue_declare(queue, passive=True)
            )
        except aiormq.exceptions.ChannelNotFoundEntity:
            return 0
        except DRIVER_ERRORS as error:
            raise self._publishing.error(error) from error
        return declared.message_count or 0

    async def ready(self, queue: str) -> int:
        return await self.size(queue)

    async def purge(self, queue: str) -> int:
        """Remove the messages that are ready; those in the delays arrive later."""
        try:
            return await self._sender.topology.do(lambda methods: methods.queue_purge(queue))
        except aiormq.exceptions.ChannelNotFoundEntity:
            return 0
        except DRIVER_ERRORS as error:
            raise self._publishing.error(error) from error

    async def promote(self, queue: str) -> None:
        """Nothing: those in the delays are not known by queue, and arrive in time."""

    async def recall(self, task_ids: Sequence[str]) -> None:
        """Nothing: those in the delays cannot be searched, and arrive in time."""

    async def revoke(self, task_ids: Sequence[str], until: float) -> None:
        await self._revocations.add(task_ids, until)

    async def revoked(self, task_ids: Sequence[str]) -> Collection[str]:
        await self._connect_consuming()
        return await self._revocations.among(task_ids)

    async def dead(self, limit: int = 1000) -> Sequence[DeadLetter]:
        await self._connect_consuming()
        return await self._letters.newest(limit)

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        await self._letters.bury(letters)

    async def revive(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        await self._connect_consuming()
        return await self._letters.revive(ids)

    async def _connect_consuming(self) -> None:
        if not self._consuming_open:
            await self._opening()

    async def _open_consuming(self) -> None:
        await self._consuming.open()
        self._consuming_open = True
