"""The names of servers are checked as far as their certificates are."""

import ssl

import pytest

from taskq.broker_adapters.amqp.urls import tls_context


@pytest.mark.parametrize(
    ("given", "checked"),
    [
        ({}, True),
        ({"cert_reqs": "CERT_REQUIRED"}, True),
        ({"cert_reqs": ssl.CERT_OPTIONAL}, True),
        ({"cert_reqs": "none"}, False),
        ({"cert_reqs": "optional", "check_hostname": False}, False),
    ],
)
def test_the_host_name_is_checked(given: dict[str, object], *, checked: bool) -> None:
    assert tls_context(given).check_hostname is checked
