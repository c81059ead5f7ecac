"""Remote control: commands come over the bus, are carried out one by one, and answered (wire-format.md 8)."""

import asyncio
import inspect
import logging
from collections.abc import Mapping
from typing import Any

from taskq.errors import DecodeError, EncodeError, OperationalError
from taskq.remote.control import mailbox_of
from taskq.seams.bus import Listener
from taskq.wire.control import ControlCommand, read_command, write_reply
from taskq.wire.message import Message
from taskq.wire.repr import saferepr
from taskq.wire.signing import sign
from taskq.worker.remote import diagnosis, inspection, steering
from taskq.worker.remote.guard import Guard
from taskq.worker.remote.panel import COMMANDS, NoReply, Panel, PanelCommand

logger = logging.getLogger("taskq.worker")

#: Seconds between tries to listen.
RETRY = 5.0
#: Where the commands are: importing them enters them into the table.
HOMES = (diagnosis, inspection, steering)
#: The whole table.
TABLE: Mapping[str, PanelCommand] = COMMANDS


class RemoteControl:
    """Obeys commands. None of them, however broken, ends it."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._conf = panel.app.conf
        self._mailbox = mailbox_of(panel.app.conf)
        self._guard = Guard(self._conf.security_secrets)
        self._listener: Listener | None = None
        self._told = False

    async def open(self) -> None:
        """Begin to listen; where that is not possible now, `run` tries again."""
        try:
            self._listener = await self._panel.broker.bus.listen(self._mailbox.node(self._panel.hostname))
        except OperationalError as error:
            if not self._told:
                text = "no remote control yet (is there another worker called %s? -n names this one): %s"
                logger.warning(text, self._panel.hostname, error)
            self._told = True

    async def run(self) -> None:
        """Obey until cancelled."""
        while True:
            if self._listener is None:
                await asyncio.sleep(RETRY)
                await self.open()
                continue
            for message in await self._listener.receive():
                await self.handle(message)

    async def close(self) -> None:
        """Listen no longer."""
        if self._listener is not None:
            await self._listener.close()

    async def handle(self, message: Message) -> None:
        """Carry out one command and answer it."""
        panel = self._panel
        try:
            self._guard.require(message)
            command = read_command(message, self._conf.accept_content)
            panel.app.clock.adjust(command.clock)
            if not command.is_for(panel.hostname, pcre=self._conf.worker_pcre_matchers):
                return
            value = await self._carry_out(command)
            if command.reply_to:
                await self._reply(command, value)
        except NoReply:
            return
        except (DecodeError, ValueError) as error:
            logger.warning("a control command was passed over: %s", error)
        except OperationalError as error:
            logger.warning("a control command could not be answered: %s", error)
        except Exception:
            logger.exception("a control command failed")

    async def _carry_out(self, command: ControlCommand) -> Any:
        """Its value; errors are values, too, as with Celery."""
        try:
            value = TABLE[command.method].handler(self._panel, **command.arguments)
            return await value if inspect.isawaitable(value) else value
        except NoReply:
            raise
        except Exception as error:  # noqa: BLE001 - the caller is told
            logger.info("control command %s failed: %r", saferepr(command.method, 60), error)
            return {"error": repr(error)}

    async def _reply(self, command: ControlCommand, value: Any) -> None:
        if not self._mailbox.is_caller(command.reply_exchange, command.reply_to):
            name, address = command.method, (command.reply_exchange, command.reply_to)
            text = "no reply to the control command %s: %s is no address of a caller"
            logger.warning(text, saferepr(name, 60), saferepr(address, 120))
            return
        panel = self._panel
        tick = panel.app.clock.forward()
        try:
            message = write_reply(command, panel.hostname, value, tick)
        except EncodeError as error:
            message = write_reply(command, panel.hostname, {"error": repr(error)}, tick)
        sign([message], self._conf.security_secrets)
        await panel.broker.bus.announce(self._mailbox.replies, [message])
