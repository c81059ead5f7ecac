"""Which commands of remote control are obeyed where there are secrets: those that are signed, in time, and once."""

from collections.abc import Sequence

from taskq.clock import now
from taskq.errors import UntrustedMessage
from taskq.wire.message import Message
from taskq.wire.signing import HEADER, verify

#: Seconds by which the clocks of a caller and a worker may differ.
SKEW = 60.0
#: The furthest end of a command that is believed, in seconds from now: so long is it remembered.
LONGEST = 3600.0


class Guard:
    """Remembers the commands that were obeyed until they have ended: read from the broker and sent again, they count no more."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self._seen: dict[str, float] = {}

    def require(self, message: Message) -> None:
        """Raise UntrustedMessage unless the command may be obeyed."""
        if not self._secrets:
            return
        verify(message, self._secrets)
        time, ends, signature = now(), message.headers.get("expires"), message.headers[HEADER]
        if not isinstance(ends, int | float) or not time - SKEW <= ends <= time + LONGEST:
            raise UntrustedMessage("refused: a signed command says when it ends, and that is not over")
        self._seen = {known: end for known, end in self._seen.items() if end + SKEW >= time}
        if signature in self._seen:
            raise UntrustedMessage("refused: this command was obeyed before")
        self._seen[signature] = ends
