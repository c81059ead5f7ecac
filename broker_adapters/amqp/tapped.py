"""The data path by our own codec: one write per batch, confirms counted, deliveries built from the frames."""

import asyncio
from collections.abc import Sequence

import aio_pika
from aiormq.abc import DeliveredMessage
from aiormq.channel import EXCEPTION_MAPPING
from aiormq.exceptions import ChannelClosed

from taskq.broker_adapters.amqp.channel import (
    CHUNK,
    ChannelRefused,
    DataChannel,
    Deliver,
    Failures,
    refused,
    unconfirmed,
    unroutable,
)
from taskq.broker_adapters.amqp.codec import (
    FRAME_MAX,
    RETURN,
    ChannelReader,
    Envelope,
    write_ack,
    write_publish,
    write_requeue,
)
from taskq.broker_adapters.amqp.link import AmqpLink
from taskq.errors import ConnectionLost, OperationalError
from taskq.wire.message import Message


class _Batch:
    """The messages of one `send`, until the last of them is answered for."""

    __slots__ = ("done", "failures", "left", "messages")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.left = len(messages)
        self.failures: Failures = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(self, index: int, error: OperationalError | None) -> None:
        if error is not None:
            self.failures.setdefault(index, error)
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class TappedChannel(DataChannel):
    """Data frames by our own codec."""

    def __init__(
        self, link: AmqpLink, channel: aio_pika.abc.AbstractChannel, deliver: Deliver | None
    ) -> None:
        super().__init__(link, channel, deliver)
        self._number = 0
        self._reader: ChannelReader | None = None
        self._frame_max = 0
        self._last = 0  # number of the last publish on this channel, as confirms count them
        self._oldest = 1  # every publish before this one is answered for
        self._unconfirmed: dict[int, tuple[_Batch, int]] = {}
        self._answers = 0
        self._settled: list[bytes] = []  # frames of acks, written together

    async def start(self) -> None:
        await super().start()
        self._number = self._raw.number
        self._frame_max = self._raw.connection.connection_tune.frame_max or FRAME_MAX
        self._reader = ChannelReader(self)
        self.tap.serve(self._number, self._reader)

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            self.tap.release(self._number, self._reader)

    def check(self, messages: Sequence[Message]) -> None:
        for message in messages:
            write_publish(self._number, message, self._frame_max)

    async def send(self, messages: Sequence[Message], timeout: float) -> Failures:  # noqa: ASYNC109 - see the base
        batch = _Batch(messages)
        # All before the first is sent: confirms count what was sent, and a message that cannot be is to stop the rest.
        frames = [write_publish(self._number, message, self._frame_max) for message in messages]
        for start in range(0, len(frames), CHUNK):
            if start:
                await self._room(timeout)
            self._write(batch, start, frames[start : start + CHUNK])
        if batch.left:
            loop = asyncio.get_running_loop()
            watch = _Watch(self, batch, timeout, loop)
            try:
                await batch.done
            finally:
                watch.cancel()
        return batch.failures

    async def _room(self, timeout: float) -> None:  # noqa: ASYNC109 - see the base
        try:
            async with asyncio.timeout(timeout):
                await self.tap.drain()
        except TimeoutError:
            self.tap.abort()  # a server that reads nothing for so long: what is unconfirmed fails with the rest

    def _write(self, batch: _Batch, start: int, frames: Sequence[bytes]) -> None:
        for index in range(start, start + len(frames)):
            if self.closed:
                batch.answer(index, self._end())
            else:
                self._last += 1
                self._unconfirmed[self._last] = (batch, index)
        if not self.closed:
            self.tap.write(b"".join(frames))

    def answered(self, tag: int, *, multiple: bool, accepted: bool) -> None:
        self._answers += 1
        error = None if accepted else refused(self.link)
        for number in range(self._oldest, tag + 1) if multiple else (tag,):
            waiting = self._unconfirmed.pop(number, None)
            if waiting is not None:
                waiting[0].answer(waiting[1], error)
        if multiple:
            self._oldest = tag + 1

    def refused(self, code: int, reason: str) -> None:
        # Seen before the driver tells: what is written after its answer would close the whole connection.
        kind = EXCEPTION_MAPPING.get(code)
        self._on_close(self._channel, kind(reason) if kind is not None else ChannelClosed(code, reason))

    def arrived(self, envelope: Envelope, message: Message) -> None:
        if envelope.kind == RETURN:
            self._returned(envelope, message)
        elif self._deliver is not None:
            self._deliver(envelope.queue_tag, envelope.tag, envelope.redelivered, message)

    def _returned(self, envelope: Envelope, message: Message) -> None:
        # Returns carry no number, and come in the order of sending: the first that looks the same is meant.
        # Its confirm follows.
        for batch, index in self._unconfirmed.values():
            sent = batch.messages[index]
            if (
                sent.correlation_id == message.correlation_id
                and sent.routing_key == message.routing_key
                and sent.exchange == message.exchange
                and index not in batch.failures
            ):
                batch.failures[index] = unroutable(self.link, sent, envelope.reason)
                return

    def silent(self, batch: _Batch) -> None:
        """None of these was confirmed for too long: fail what is left of the batch."""
        error = unconfirmed(self.link)
        for number, (owner, index) in list(self._unconfirmed.items()):
            if owner is batch:
                del self._unconfirmed[number]
                batch.answer(index, error)

    @property
    def answers(self) -> int:
        """How many confirms came so far."""
        return self._answers

    def _lost(self) -> None:
        if self.closed:
            return
        unconfirmed_now, self._unconfirmed = self._unconfirmed, {}
        error = self._end(maybe_accepted=True)
        for batch, index in unconfirmed_now.values():
            batch.answer(index, error)
        super()._lost()

    def _end(self, *, maybe_accepted: bool = False) -> ConnectionLost:
        """What has become of a message, now that the channel is gone."""
        if self.refusal is not None:
            return ChannelRefused(self.link, self.refusal)
        return ConnectionLost(
            f"{self.link.shown} did not confirm the message (the connection broke)",
            maybe_accepted=maybe_accepted,
        )

    async def _on_message(self, delivered: DeliveredMessage) -> None:
        raise ConnectionLost(
            f"a delivery on channel {self._number} went past the tap: {delivered.delivery!r}"
        )

    def ack(self, tag: int, *, multiple: bool) -> None:
        self._settled.append(write_ack(self._number, tag, multiple))

    def requeue(self, tag: int) -> None:
        self._settled.append(write_requeue(self._number, tag))

    async def flush(self) -> None:
        settled, self._settled = self._settled, []
        if settled and not self.closed:
            self.tap.write(b"".join(settled))
        await self.tap.drain()


class _Watch:
    """Looks whether a batch still makes progress; one timer per batch."""

    __slots__ = ("_batch", "_channel", "_handle", "_left", "_loop", "_seen", "_timeout")

    def __init__(
        self, channel: TappedChannel, batch: _Batch, timeout: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._channel, self._batch, self._timeout, self._loop = channel, batch, timeout, loop
        self._seen, self._left = channel.answers, batch.left
        self._handle = loop.call_later(timeout, self._look)

    def _look(self) -> None:
        if self._batch.left == self._left:
            self._channel.silent(self._batch)
            if self._channel.answers == self._seen:
                self._channel.drop()
            return
        self._seen, self._left = self._channel.answers, self._batch.left
        self._handle = self._loop.call_later(self._timeout, self._look)

    def cancel(self) -> None:
        self._handle.cancel()
