"""Probes and metrics over HTTP, served from threads: they answer while the event loop is blocked. Read-only."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from ipaddress import ip_address
from socket import AF_INET6, SHUT_RDWR, gethostname, socket
from typing import Any

import orjson

from taskq.errors import ConfigError
from taskq.worker.health.health import Health

logger = logging.getLogger("taskq.worker")

#: So many connections are served at a time; a further one takes the place of the oldest.
_CONNECTIONS = 32
#: A connection is cut off after so many seconds, whatever its client does.
_PATIENCE = 5.0

LOOPBACK = "127.0.0.1"
_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"
_NO_METRICS = "metrics need prometheus-client: pip install 'taskq-asyncio[metrics]'\n"

#: Status, content type, body.
Answer = tuple[int, str, bytes]


def parse_bind(text: str, number: int = 1) -> tuple[str, int]:
    """`host:port`, `[address]:port`, or a port alone, which is on the loopback address.

    Args:
        text: where to listen.
        number: of the worker process: the n-th takes the n-th port.

    Raises:
        ConfigError: it is none of these.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) + number - 1 > 65535:
        raise ConfigError(f"http_bind = {text!r}: expected host:port or a port")
    return host.strip("[]") or LOOPBACK, int(port) + number - 1 if int(port) else 0


class HttpServer:
    """Serves `/live`, `/ready`, `/metrics` and `/status` of one worker.

    Raises:
        ConfigError: it cannot listen there.
    """

    def __init__(self, health: Health, host: str, port: int) -> None:
        self._health = health
        self._host = host
        self._exposition = _exposition(health)
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = kind((host, port), self._handler())
        except OSError as error:
            raise ConfigError(f"cannot serve HTTP on {host}:{port} (http_bind): {error}") from error
        self._server.daemon_threads = True
        self.address: tuple[str, int] = self._server.server_address[:2]  # type: ignore[assignment]  # of AF_INET
        self._thread = threading.Thread(target=self._server.serve_forever, name="taskq-http", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()
        logger.info("http://%s:%d serves /live /ready /metrics /status", *self.address)

    def stop(self) -> None:
        """End; returns when no new request is taken."""
        self._server.shutdown()
        self._server.server_close()

    # --- answers --------------------------------------------------------------------------------------------

    def answer(self, path: str, host: str = "") -> Answer:
        """What a GET of the path gets.

        Args:
            path: with or without a query.
            host: the header Host. `/status` tells names and ids of tasks: a page in a browser of this network must not read
                them by a name of its own that leads here (DNS rebinding).
        """
        if path.partition("?")[0] == "/status" and not self._is_ours(host):
            return 403, _TEXT, b"ask by the address of this worker, or by its host name\n"
        pages: dict[str, Callable[[], Answer]] = {
            "/live": lambda: _verdict(self._health.why_dead()),
            "/ready": lambda: _verdict(self._health.why_not_ready()),
            "/metrics": self._metrics,
            "/status": lambda: (200, _JSON, orjson.dumps(self._health.status()) + b"\n"),
        }
        page = pages.get(path.partition("?")[0])
        return page() if page is not None else (404, _TEXT, f"try {' '.join(pages)}\n".encode())

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.strip("[]").lower()
        return name in {"", "localhost", self._host.lower(), gethostname().lower()} or _is_address(name)

    def _metrics(self) -> Answer:
        if self._exposition is None:
            return 501, _TEXT, _NO_METRICS.encode()
        return 200, self._exposition.content_type, self._exposition.text()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = answer(self.path, self.headers.get("Host", ""))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base class
                logger.debug("http: %s", format % args)

        return Handler


class _Server(ThreadingHTTPServer):
    """A slow client has its thread for `_PATIENCE` seconds in all, and less when others come."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: dict[socket, float] = {}  # since when, the oldest first
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._open) >= _CONNECTIONS:
            self._cut_off(next(iter(self._open.copy()), None))
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called by the server between requests, twice a second at least."""
        late = time.monotonic() - _PATIENCE
        for request, since in self._open.copy().items():
            if since < late:
                self._cut_off(request)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for request in self._open.copy():
            self._cut_off(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as in the base class
        """The base class prints a traceback, of clients that went away, too."""
        error = sys.exception()
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        logger.log(level, "could not answer %s", client_address, exc_info=error)

    def _cut_off(self, request: socket | None) -> None:
        """Its thread wakes up at the end of the stream, and closes it."""
        if request is not None and self._open.pop(request, None) is not None:
            with suppress(OSError):
                request.shutdown(SHUT_RDWR)


class _Server6(_Server):
    address_family = AF_INET6


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _verdict(problems: list[str]) -> Answer:
    return (503, _TEXT, "\n".join([*problems, ""]).encode()) if problems else (200, _TEXT, b"ok\n")


def _exposition(health: Health) -> Any:
    """The metrics as text, where the library for it is installed."""
    if find_spec("prometheus_client") is None:
        return None
    from taskq.worker.health.exposition import Exposition  # noqa: PLC0415 - an optional extra

    return Exposition(health)
