"""A TCP proxy that fails in the ways networks do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards to a port. `swallow` cuts the connection of the next answer, once, and the answer is lost; `refuse`
    lets nobody in; `rewrite` changes what clients ask; without `flow` nothing passes, and nobody is told; `delay`
    is added on each way, in seconds.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.swallow = False
        self.refuse = False
        self.rewrite: Callable[[bytes], bytes] = bytes
        self.flow = asyncio.Event()
        self.flow.set()
        self.delay = 0.0
        self.connections = self.refused = 0
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._accepted: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """End all connections now."""
        for writer in self._writers:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            self.refused += 1
            writer.transport.abort()
            return
        if (task := asyncio.current_task()) is not None:
            self._accepted.add(task)
            task.add_done_callback(self._accepted.discard)
        self.connections += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # nobody is there: as if there were no proxy
            writer.transport.abort()
            return
        both = {writer, server_writer}
        self._writers |= both
        requests = asyncio.create_task(self._forward(reader, server_writer))
        answers = asyncio.create_task(self._forward(server_reader, writer, answers=True))
        await asyncio.wait([requests, answers], return_when=asyncio.FIRST_COMPLETED)
        requests.cancel()
        answers.cancel()
        await asyncio.wait([requests, answers])
        for one in both:
            one.transport.abort()
        self._writers -= both

    async def end(self) -> None:
        """Cut all, and wait until nobody is left."""
        self.flow.set()
        self.cut()
        if self._accepted:
            await asyncio.wait(self._accepted)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await reader.read(65536):
                if answers and self.swallow:
                    self.swallow = False
                    return
                await self.flow.wait()
                loop.call_later(self.delay, writer.write, data if answers else self.rewrite(data))
                await writer.drain()


@asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    running = Proxy(target)
    server = await asyncio.start_server(running.accept, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        await running.end()
        await server.wait_closed()
