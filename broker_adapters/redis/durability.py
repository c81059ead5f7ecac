"""Options `durable` and `durable_replicas`: publishing returns when the messages would survive a loss of power, or of the master.

Without them a publish returns when Redis has the message in memory: with `appendfsync everysec` a loss of power takes
up to a second of them, a failover what had not reached the replica.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from taskq.broker_adapters.redis.session import REPLY_TIMEOUT, RedisSession
from taskq.errors import ConfigError, ConnectionLost, OperationalError

#: Milliseconds of one wait, after which the next one begins: while Redis waits it answers nothing else on that connection,
#: and what is sent behind it must have its reply within `REPLY_TIMEOUT`.
LONGEST_WAIT: Final = int(REPLY_TIMEOUT * 500)


class Durability(NamedTuple):
    """What a message must have reached: the disk of the server, and so many replicas (their disks, with `disk`)."""

    disk: bool
    replicas: int
    patience: float

    async def check(self, session: RedisSession, shown: str) -> None:
        """On a new connection, before anything is sent: can this server say what is on its disk?

        Raises:
            OperationalError: it cannot.
        """
        if not self.disk:
            return
        [asked] = session.send(("WAITAOF", 1, 0, 1))
        try:
            session.checked(await asked)
        except ConnectionLost:
            raise
        except OperationalError as error:
            raise OperationalError(
                f"{shown}: durable needs WAITAOF (Redis 7.2 or later) and appendonly yes: {error}"
            ) from error

    async def confirm(self, session: RedisSession, marker: str, keep: int, shown: str) -> None:
        """Wait for all that was written on this connection.

        Raises:
            OperationalError: it was taken, but is not as safe as wanted (`maybe_accepted`).
        """
        wanted = [1, self.replicas] if self.disk else [self.replicas]
        rest = max(1, int(self.patience * 1000))  # whole milliseconds: 0 is for ever
        while True:
            limit = min(rest, LONGEST_WAIT)
            reached = await self._wait(session, ("EXPIRE", marker, keep), limit)
            if all(have >= want for have, want in zip(reached, wanted, strict=True)):
                return
            rest -= limit
            if rest <= 0:
                raise OperationalError(f"{shown}: {self._shortfall(reached)}", maybe_accepted=True)

    async def _wait(self, session: RedisSession, write: Sequence[Any], limit: int) -> Sequence[int]:
        command = ("WAITAOF", 1, self.replicas, limit) if self.disk else ("WAIT", self.replicas, limit)
        # Redis looks at the writes of this connection: after a reconnect there must be one.
        written, waited = session.send(write, command)
        session.checked(await written)
        answer = session.checked(await waited)
        return list(answer) if self.disk else [answer]

    def _shortfall(self, reached: Sequence[int]) -> str:
        within = f"within {self.patience:g} s"
        if self.disk and reached[0] < 1:
            return f"taken, but Redis did not write it to its disk {within}: look at its appendonly file"
        return (
            f"taken, but only {reached[-1]} of {self.replicas} replicas had it {within}: look at the replication,"
            " or lower durable_replicas"
        )


def read_durability(options: Mapping[str, Any], patience: float) -> Durability | None:
    """What `broker_transport_options` ask for; None: nothing more than Redis does by itself.

    Raises:
        ConfigError: a value cannot work.
    """
    disk, replicas = options.get("durable", False), options.get("durable_replicas", 0)
    if not isinstance(disk, bool):
        raise ConfigError(f"broker_transport_options: durable is true or false, not {disk!r}")
    if not isinstance(replicas, int) or replicas < 0:
        raise ConfigError(
            f"broker_transport_options: durable_replicas is a number from 0 up, not {replicas!r}"
        )
    return Durability(disk, replicas, patience) if disk or replicas else None
