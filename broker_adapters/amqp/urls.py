"""What the URL of a RabbitMQ server says, and the TLS settings."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from yarl import URL

from taskq.errors import ConfigError
from taskq.near import near_match
from taskq.seams.urls import mask

#: The TLS options under Celery's names, in `broker_use_ssl` and, with or without `ssl_` in front, in a URL.
_TLS_OPTIONS: Final = (
    "ca_certs",
    "ca_path",
    "certfile",
    "keyfile",
    "password",
    "cert_reqs",
    "check_hostname",
)
_YES_OR_NO: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class AmqpServer:
    """One server of a failover list: `url` for the driver, TLS options or None, seconds between heartbeats."""

    url: URL = field(repr=False)
    tls: Mapping[str, Any] | None = field(repr=False)
    heartbeat: float


def server_of(url: str, tls: Mapping[str, Any] | None, heartbeat: float) -> AmqpServer:
    """Read a URL; `tls` and `heartbeat` are the settings, which its own options go before.

    Raises:
        ConfigError: it names no host, or has an option that is unknown or cannot be.
    """
    scheme, colon, rest = url.partition("://")
    parsed = _parsed(f"{'amqps' if tls is not None or scheme == 'amqps' else 'amqp'}{colon}{rest}", url)
    options = {name.removeprefix("ssl_"): value for name, value in parsed.query.items()}
    if "heartbeat" in options:
        heartbeat = _seconds(url, options.pop("heartbeat"))
    for name in options:
        if name not in _TLS_OPTIONS:
            raise ConfigError(
                f"{mask(url)}: unknown option {name!r} in the URL."
                + near_match(name, ("heartbeat", *_TLS_OPTIONS))
            )
    if parsed.scheme != "amqps":
        if options:
            raise ConfigError(f"{mask(url)}: {', '.join(options)} are options of TLS: write amqps://")
        return AmqpServer(parsed.with_query(None), None, heartbeat)
    return AmqpServer(parsed.with_query(None), {**(tls or {}), **options}, heartbeat)


def _parsed(url: str, shown: str) -> URL:
    try:
        parsed = URL(url)
        if parsed.host and (parsed.port is None or parsed.port):
            return parsed
    except ValueError as error:
        raise ConfigError(
            f"the broker URL {mask(shown)} cannot be read: percent-encode what is special in user, password and vhost"
        ) from error
    raise ConfigError(f"no host in the broker URL {mask(shown)}: write amqp://user:password@host:5672/vhost")


def _seconds(url: str, text: str) -> float:
    try:
        seconds = int(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 65535:
        raise ConfigError(f"{mask(url)}: heartbeat is whole seconds from 0 (none) to 65535, not {text!r}")
    return float(seconds)


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """The TLS settings under Celery's names (`broker_use_ssl`); the server is verified unless told otherwise.

    Raises:
        ConfigError: a file cannot be read; it is named.
    """
    for name in ("ca_certs", "ca_path", "certfile", "keyfile"):
        _readable(name, options.get(name))
    try:
        context = ssl.create_default_context(cafile=options.get("ca_certs"), capath=options.get("ca_path"))
        if options.get("certfile"):
            context.load_cert_chain(options["certfile"], options.get("keyfile"), options.get("password"))
    except (OSError, ValueError) as error:  # SSLError among them
        files = ", ".join(str(options[name]) for name in _TLS_OPTIONS[:4] if options.get(name))
        raise ConfigError(f"the TLS files ({files}) cannot be used: {error}") from error
    required = _verify_mode(options.get("cert_reqs", ssl.CERT_REQUIRED))
    check = _flag(options.get("check_hostname", required != ssl.CERT_NONE))
    if check and required == ssl.CERT_NONE:
        raise ConfigError("check_hostname needs a certificate: cert_reqs CERT_REQUIRED or CERT_OPTIONAL")
    context.check_hostname = check
    context.verify_mode = required
    return context


def _readable(name: str, path: Any) -> None:
    if path and not os.access(path, os.R_OK):
        raise ConfigError(f"{name} {str(path)!r} is not there, or cannot be read")


def _flag(value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() not in _YES_OR_NO:
            raise ConfigError(f"check_hostname is true or false, not {value!r}")
        return _YES_OR_NO[value.lower()]
    return bool(value)


def _verify_mode(value: Any) -> ssl.VerifyMode:
    """A number of the ssl module, or its name as in URLs: `CERT_REQUIRED`, `required`."""
    if isinstance(value, str):
        name = f"CERT_{value.upper().removeprefix('CERT_')}"
        if name not in ssl.VerifyMode.__members__:
            raise ConfigError(f"cert_reqs {value!r} is none of CERT_REQUIRED, CERT_OPTIONAL, CERT_NONE")
        return ssl.VerifyMode[name]
    return ssl.VerifyMode(value)
