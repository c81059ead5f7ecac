"""What a URL may say, and what is wrong with one is named."""

import ssl
from pathlib import Path

import pytest

from taskq.broker_adapters.amqp.urls import server_of, tls_context
from taskq.errors import ConfigError


def test_a_plain_url() -> None:
    server = server_of("pyamqp://u:p@host:1234/vh", None, 15.0)
    assert (str(server.url), server.tls, server.heartbeat) == ("amqp://u:p@host:1234/vh", None, 15.0)
    assert "u:p" not in repr(server)


def test_options_go_before_settings() -> None:
    server = server_of(
        "amqps://host?heartbeat=30&ssl_ca_certs=/ca&cert_reqs=none", {"ca_certs": "/other"}, 15.0
    )
    assert (server.heartbeat, server.tls) == (30.0, {"ca_certs": "/ca", "cert_reqs": "none"})
    assert str(server.url) == "amqps://host"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://u:s3cret@host?hartbeat=3", "unknown option 'hartbeat'.*Did you mean 'heartbeat'"),
        ("amqp://host?heartbeat=soon", "whole seconds.*'soon'"),
        ("amqp://host?heartbeat=70000", "whole seconds"),
        ("amqp://u:s3cret@host?ca_certs=/x", "amqps://"),
        ("amqp:///vhost", "no host"),
        ("amqp://u:s3/cret@host", "percent-encode"),
    ],
)
def test_what_is_wrong_is_named(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        server_of(url, None, 15.0)
    assert "cret" not in str(caught.value)


def test_missing_and_unfit_files_are_named(tmp_path: Path) -> None:
    missing, unfit = tmp_path / "no.pem", tmp_path / "unfit.pem"
    unfit.write_text("no certificate")
    for options, named in (
        ({"ca_certs": str(missing)}, missing),
        ({"ca_path": str(missing)}, missing),
        ({"certfile": str(missing)}, missing),
        ({"ca_certs": str(unfit)}, unfit),
        ({"certfile": str(unfit)}, unfit),
    ):
        with pytest.raises(ConfigError, match=named.name):
            tls_context(options)


def test_who_is_at_the_other_end_is_looked_at_unless_told_otherwise() -> None:
    def checks(**options: object) -> tuple[ssl.VerifyMode, bool]:
        context = tls_context(options)
        return context.verify_mode, context.check_hostname

    assert checks() == (ssl.CERT_REQUIRED, True)
    assert checks(cert_reqs="CERT_OPTIONAL") == (ssl.CERT_OPTIONAL, True)
    assert checks(cert_reqs="none") == (ssl.CERT_NONE, False)
    assert checks(check_hostname="no") == (ssl.CERT_REQUIRED, False)
    for wrong in (
        {"cert_reqs": "some"},
        {"check_hostname": "maybe"},
        {"cert_reqs": "none", "check_hostname": True},
    ):
        with pytest.raises(ConfigError):
            tls_context(wrong)
