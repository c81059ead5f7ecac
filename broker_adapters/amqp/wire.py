"""The seam under the driver: the socket of an AMQP connection, tapped.

aiormq takes a `transport_factory` that makes the streams of a connection. Ours makes the same streams, with a
protocol that looks at each frame before it reaches the driver's reader: data frames of the channels we serve
(codec.py) are taken out, everything else goes on untouched. What we write goes to the same transport in whole
frames, as the driver's writes do. That is all: no private name of the driver is used.

The tap also sees what the driver keeps to itself (connection.blocked) and how long the server has been silent.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from aiormq.connection import SSLContextProvider, TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from taskq.broker_adapters.amqp.codec import (
    BLOCKED,
    FRAME_METHOD,
    FRAME_OVERHEAD,
    HEARTBEAT,
    UNBLOCKED,
    ChannelReader,
    frame_start,
)

#: asyncio's own default for streams.
_STREAM_LIMIT = 2**16


class Tap:
    """One connection's socket: which frames are ours, when the server last spoke, whether it takes publishes."""

    def __init__(self, heartbeat: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._heartbeat = heartbeat
        self._readers: dict[int, ChannelReader] = {}
        self._rest = b""
        self._driver_fed = self._heard = self._loop.time()
        self._suspect = False
        self._watch: asyncio.TimerHandle | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.blocked = ""  # why the server takes no publishes now, "" if it does
        self.blocked_at = 0.0  # by the loop's clock
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.closed = False
        self.on_closed: list[Callable[[], None]] = []

    def serve(self, channel: int, reader: ChannelReader) -> None:
        """From now on the data frames of this channel are the reader's."""
        self._readers[channel] = reader

    def release(self, channel: int, reader: ChannelReader | None) -> None:
        """Give a channel back to the driver; by now its number may be another's."""
        if self._readers.get(channel) is reader:
            self._readers.pop(channel, None)

    def write(self, frames: bytes) -> None:
        """Send whole frames; dropped when the connection is lost, as everything in flight then is."""
        if self.writer is not None and not self.closed:
            self.writer.write(frames)

    async def drain(self) -> None:
        """Wait until the socket takes more."""
        if self.writer is not None and not self.closed:
            try:
                await self.writer.drain()
            except ConnectionError:
                self.abort()

    def started(self, writer: asyncio.StreamWriter) -> None:
        """The socket is connected: watch it from now on."""
        self.writer = writer
        if self._heartbeat:
            self._watch = self._loop.call_later(self._heartbeat, self._look)

    def abort(self) -> None:
        """Drop the connection without a word; the driver sees it end."""
        if self.writer is not None:
            self.writer.transport.abort()

    def lost(self) -> None:
        """The socket is gone."""
        self.closed = True
        self.unblocked.set()
        if self._watch is not None:
            self._watch.cancel()
        for call in self.on_closed:
            call()

    def feed(self, data: bytes) -> bytes:
        """Take our frames out of what arrived; returns what is the driver's."""
        now = self._heard = self._loop.time()
        self._suspect = False
        if self._rest:
            data = self._rest + data
        if data[:4] == b"AMQP":
            return data  # the server refuses our version: the driver's to say
        others = self._sort(data)
        if others:
            self._driver_fed = now
        elif now - self._driver_fed > self._heartbeat / 2 > 0:
            # The server sends no heartbeats while it sends other frames, and the driver would take
            # the silence that we made for a dead server.
            self._driver_fed = now
            return HEARTBEAT
        return b"".join(others)

    def _sort(self, data: bytes) -> list[bytes]:
        others = []
        at, size, readers = 0, len(data), self._readers
        while size - at >= FRAME_OVERHEAD:
            kind, channel, length = frame_start(data, at)
            end = at + FRAME_OVERHEAD + length
            if end > size:
                break
            reader = readers.get(channel)
            if reader is None or not reader.take(kind, data, at + 7, end - 1):
                if channel == 0 and kind == FRAME_METHOD:
                    self._note_blocked(data, at + 7)
                others.append(data[at:end])
            at = end
        self._rest = data[at:]
        return others

    def _note_blocked(self, data: bytes, at: int) -> None:
        method = int.from_bytes(data[at : at + 4], "big")
        if method == BLOCKED:
            reason = data[at + 5 : at + 5 + data[at + 4]]
            self.blocked = reason.decode("utf-8", "replace") or "no reason given"
            self.blocked_at = self._heard
            self.unblocked.clear()
        elif method == UNBLOCKED:
            self.blocked = ""
            self.unblocked.set()

    def _look(self) -> None:
        """The server owes us a frame at least every heartbeat/2: silence of a whole one means it is gone."""
        silence = self._loop.time() - self._heard
        if silence < self._heartbeat:
            self._suspect = False
            wait = self._heartbeat - silence
        elif self._suspect:
            self.abort()
            return
        else:
            self._suspect = (
                True  # a blocked loop of ours looks the same: what arrived is read before the next look
            )
            wait = 1.0
        self._watch = self._loop.call_later(wait, self._look)


class _TappedProtocol(asyncio.StreamReaderProtocol):
    def __init__(self, reader: asyncio.StreamReader, tap: Tap) -> None:
        super().__init__(reader)
        self._tap = tap
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            others = self._tap.feed(data)
        except Exception:
            # Frames of which one cannot be read have no known border any more.
            if self._transport is not None:
                self._transport.abort()
            raise
        if others:
            super().data_received(others)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tap.lost()
        super().connection_lost(exc)


class TappedTransport(TransportFactory):
    """Makes the streams of one connection, tapped."""

    def __init__(self, tap: Tap, heartbeat: float) -> None:
        self._tap = tap
        self._heartbeat = heartbeat

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the URL's host."""
        loop = asyncio.get_running_loop()
        provider: SSLContextProvider = kwargs.pop("ssl_context_provider")
        context: ssl.SSLContext | None = await provider.get_context() if url.scheme == "amqps" else None
        reader = asyncio.StreamReader(limit=_STREAM_LIMIT, loop=loop)
        protocol = _TappedProtocol(reader, self._tap)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, host=url.host or "", port=url.port or 0, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        keep_alive(transport.get_extra_info("socket"), self._heartbeat)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._tap.started(writer)
        return reader, writer


def keep_alive(sock: socket.socket | None, heartbeat: float) -> None:
    """Let the kernel give up on a peer that acknowledges nothing for as long as a heartbeat."""
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if heartbeat and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(heartbeat * 1000))
