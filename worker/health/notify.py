"""Telling systemd how we are (sd_notify): datagrams to the socket that NOTIFY_SOCKET names."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Sends states such as `READY=1`; without NOTIFY_SOCKET it does nothing.

    Attributes:
        active: whether there is somebody to tell.
        watchdog: seconds within which `WATCHDOG=1` is expected; None: it is not.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # "@": an abstract one
        self.active = bool(address)
        usec = environ.get("WATCHDOG_USEC", "")
        self.watchdog = int(usec) / 1e6 if self.active and usec.isdecimal() else None

    def tell(self, state: str) -> None:
        """Send a state. One that cannot be sent is left: systemd then decides by its own means."""
        if not self.active:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(self._address)
            sock.send(state.encode())
