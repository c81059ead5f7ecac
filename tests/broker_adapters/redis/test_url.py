"""Redis URLs: what they mean, what is refused, and that TLS verifies."""

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import SSLConnection

from taskq.broker_adapters.redis.url import Target, parse_target
from taskq.errors import ConfigError, ConnectionLost
from tests.servers import free_port, redis_server


def parse(url: str, options: dict[str, Any] | None = None, tls: dict[str, Any] | None = None) -> Target:
    return parse_target(url, options or {}, tls, timeout=4.0, name="test")


def tls_context(target: Target) -> ssl.SSLContext:
    made = target.endpoints[0].connection()
    assert isinstance(made, SSLConnection)
    return made.ssl_context.get()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", ("localhost", 6379, None, None, None, 0)),
        ("redis://h", ("h", 6379, None, None, None, 0)),
        ("redis://h:1/5", ("h", 1, None, None, None, 5)),
        ("redis://:p%40%2F@h/", ("h", 6379, None, None, "p@/", 0)),
        ("redis://us%C5%BC:p@[::1]:7/15", ("::1", 7, None, "usż", "p", 15)),
        ("valkey://h?db=3", ("h", 6379, None, None, None, 3)),
        ("redis+socket:///run/r%20s.sock?virtual_host=2", (None, None, "/run/r s.sock", None, None, 2)),
        ("valkey+socket:///run/redis.sock", (None, None, "/run/redis.sock", None, None, 0)),
    ],
)
def test_parts(url: str, expected: tuple[Any, ...]) -> None:
    (end,) = parse(url).endpoints
    names = ("host", "port", "path", "username", "password", "db")
    made = end.connection()
    assert tuple(getattr(made, name, None) for name in names) == expected
    assert not isinstance(made, SSLConnection)


@pytest.mark.parametrize("url", ["rediss://h", "valkeys://h", "rediss://h?ssl_cert_reqs=CERT_REQUIRED"])
def test_tls_verifies_unless_told_otherwise(url: str) -> None:
    context = tls_context(parse(url))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize(
    ("url", "tls"),
    [
        ("rediss://h?ssl_cert_reqs=none", None),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", None),
        ("rediss://h", {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("redis://h", {"cert_reqs": "none"}),  # broker_use_ssl alone turns it on, as in Celery
    ],
)
def test_tls_without_verification(url: str, tls: dict[str, Any] | None) -> None:
    context = tls_context(parse(url, tls=tls))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_the_hostname_check_can_be_left_out() -> None:
    context = tls_context(parse("rediss://h?ssl_check_hostname=false"))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "empty"),
        ("redis://:s3cret@h:99999/0", "not a URL"),
        ("redis://:s3cret@h/celery", "a number"),
        ("http://:s3cret@h", "scheme"),
        ("redis://:s3cret@h?ssl_cert_reqs=none", "rediss"),
        ("redis://:s3cret@h?colour=red", "unknown URL options colour"),
        ("rediss://:s3cret@h?ssl_ca_cert=/x", "unknown TLS options ca_cert"),
        ("rediss://:s3cret@h?ssl_ca_certs=/does/not/exist", "TLS cannot be set up"),
        ("rediss://:s3cret@h?ssl_cert_reqs=maybe", "TLS cannot be set up"),
        ("sentinel://:s3cret@h", "master_name"),
    ],
)
def test_what_cannot_work_is_refused_without_showing_secrets(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse(url)
    assert "s3cret" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    target = parse(
        "redis://u:s3cret@h;sentinel://:s3cret@h",
        {"master_name": "m", "sentinel_kwargs": {"password": "s3cret"}},
    )
    assert "s3cret" not in repr(target)


def test_sentinels_have_their_own_port_and_login() -> None:
    target = parse(
        "sentinel://:p@a/2;sentinel://:p@b:1/2",
        {"master_name": "m", "sentinel_kwargs": {"username": "u", "password": "q"}},
    )
    assert target.sentinels == [("a", 26379), ("b", 1)]
    assert target.sentinel_options == {"ssl": False, "username": "u", "password": "q"}
    assert (target.endpoints[0].options["password"], target.endpoints[0].db) == ("p", 2)


@pytest.fixture(scope="module")
def tls_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key, port = folder / "cert.pem", folder / "key.pem", free_port()
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with redis_server(folder, *options, "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"):
        yield port, certificate


async def test_a_certificate_is_verified(tls_port: tuple[int, Path]) -> None:
    port, certificate = tls_port
    with pytest.raises(ConnectionLost, match=r"certificate verify failed"):
        await parse(f"rediss://localhost:{port}/0").connect()
    with pytest.raises(ConnectionLost, match=r"IP address mismatch"):
        await parse(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}").connect()
    for url in (
        f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}",
        f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none",
    ):
        session = await parse(url).connect()
        assert await session.call("PING") == b"PONG"
        session.abort("done")
