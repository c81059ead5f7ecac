"""One line when a broker or store goes away, one when it is back, however many parts of a worker meet the outage."""

import logging
import threading
import time
from collections.abc import Collection

from taskq.errors import ConnectionLost, StoreError


class Outages(logging.Filter):
    """Of what is logged of an outage the first line passes; at DEBUG all do.

    A record is of an outage if one of its arguments is the error of a connection.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Whether results are where the broker is: then it is one outage.
        self.one_server = False
        self._since: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._unsaid: set[str] = set()
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Asked by each handler; the first answer stands."""
        known = record.__dict__
        if "repeats_outage" not in known:
            known["repeats_outage"] = not self._passes(record)
        return not known["repeats_outage"]

    def _passes(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        what = next((_WHAT[kind] for one in arguments for kind in _WHAT if isinstance(one, kind)), None)
        if what is None or logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return True
        with self._lock:
            what = BROKER if self.one_server else what
            if what in self._since:
                return False
            now = self._since[what] = time.monotonic()
            if now - self._ended.get(what, -SETTLING) >= SETTLING:
                return True
            self._unsaid.add(what)
            return False

    @property
    def away(self) -> Collection[str]:
        """What is away now: `broker`, `result store`."""
        return list(self._since)

    def over(self, what: str) -> float | None:
        """It is back; for how many seconds it was away, None if that was not said."""
        with self._lock:
            now = self._ended[what] = time.monotonic()
            seconds = now - self._since.pop(what)
            said = what not in self._unsaid
            self._unsaid.discard(what)
            return seconds if said else None

    def lasts(self, what: str) -> bool:
        """It is still away; whether that is to be said now."""
        with self._lock:
            unsaid = what in self._unsaid
            self._unsaid.discard(what)
            return unsaid


#: Seconds after an outage in which errors are taken for its last ones: a connection may find out late that it is lost.
SETTLING = 15.0
BROKER, STORE = "broker", "result store"
_WHAT: dict[type[Exception], str] = {ConnectionLost: BROKER, StoreError: STORE}

#: Those of this process.
OUTAGES = Outages()
