from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import ConfigError
from taskq.seams.broker import BrokerConfig, open_broker
from taskq.seams.store import StoreConfig, open_store
from taskq.seams.urls import check_url, mask, mask_value, split_urls


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:pw@localhost:6379/0", "redis://:**@localhost:6379/0"),
        ("rediss://u:pw@h/0?ssl_cert_reqs=required", "rediss://u:**@h/0?ssl_cert_reqs=required"),
        ("amqp://guest:guest@localhost:5672//", "amqp://guest:**@localhost:5672//"),
        ("amqp://user@localhost//", "amqp://user@localhost//"),
        ("amqp://u:p@ss/w@rd@h:5672/vh", "amqp://u:**@h:5672/vh"),
        ("amqp://u:pa?ss@h/vh", "amqp://u:**@h/vh"),
        (
            "redis+socket:///run/r.sock?virtual_host=1&password=pw",
            "redis+socket:///run/r.sock?virtual_host=1&password=**",
        ),
        ("redis://h?password=&x=1", "redis://h?password=&x=1"),
        ("https://h/p?api_key=abc&keyprefix=k", "https://h/p?api_key=**&keyprefix=k"),
        ("x://h/?via=redis://:pw@h", "x://h/?via=redis://:**@h"),
        ("sqlite:////var/a:b@c.db", "sqlite:////var/a:b@c.db"),
        ("sqlite:///.taskq/taskq.db", "sqlite:///.taskq/taskq.db"),
        ("redis:u:pw@h", "redis:u:**@h"),
        ("redis://:p?a=CANARY@h/0", "redis://:**@h/0"),
        ("amqp://u:p?a=b&c=CANARY@h?heartbeat=5", "amqp://u:**@h?heartbeat=5"),
        ("amqp:/u:pw@h", "amqp:/u:**@h"),
        ("amqp:////u:pw@h", "amqp:////u:**@h"),
        ("u:pw@h", "u:**@h"),
        ("//u:pw@h", "//u:**@h"),
        ("pw@h", "**@h"),
        ("disabled", "disabled"),
        ("", ""),
        (
            "sentinel://:one@h1:26379;sentinel://:two;x@h2:26379",
            "sentinel://:**@h1:26379;sentinel://:**@h2:26379",
        ),
    ],
)
def test_secrets_of_urls_are_masked(url: str, shown: str) -> None:
    assert mask(url) == shown


WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1)


@given(WORD, st.text("CANARY!$*()~:/@+#[]", min_size=8).map(lambda noise: f"CANARY{noise}"), WORD)
def test_no_password_shows_whatever_it_holds(user: str, password: str, host: str) -> None:
    assert "CANARY" not in mask(f"amqp://{user}:{password}@{host}:5672/vh")


def test_failover_lists_split_at_schemes_only() -> None:
    assert split_urls(" redis://:a;b@h1;redis://h2 ") == ["redis://:a;b@h1", "redis://h2"]
    assert split_urls(" ") == []


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("broker_url", ["redis://:pw@a", "redis://b"], ["redis://:**@a", "redis://b"]),
        ("redis_password", "pw", "**"),
        ("redis_password", None, None),
        (
            "broker_transport_options",
            {"sentinel_kwargs": {"password": "pw"}, "master_name": "m"},
            {"sentinel_kwargs": {"password": "**"}, "master_name": "m"},
        ),
        ("accept_content", ("json",), ("json",)),
        ("worker_concurrency", 4, 4),
        ("task_default_routing_key", "celery", "celery"),
    ],
)
def test_values_are_masked_by_name_and_shape(name: str, value: Any, shown: Any) -> None:
    assert mask_value(name, value) == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://:S3cret/rest@h:1/0",
        "redis://:S3cret#rest@h:1/0",
        "redis://:S3cret?rest@h:1/0",
        "redis://:S3cret?a=rest@h:1/0",
        "amqp://guest:S3cret/rest@h:1/x",
        "amqp://guest:S3cret#rest@h:1/x",
        "amqp://guest:1234/S3cret@h:1/x",
        "redis://h1;redis://:S3cret/rest@h2",
    ],
)
def test_a_password_that_is_not_encoded_is_refused_unseen(url: str) -> None:
    with pytest.raises(ConfigError, match="percent-encoded") as caught:
        check_url(url)
    assert "S3cret" not in str(caught.value)
    for kind in (lambda: open_broker(BrokerConfig(url)), lambda: open_store(StoreConfig(url))):
        with pytest.raises(ConfigError, match="percent-encoded"):
            kind()


@pytest.mark.parametrize(
    "url", ["redis://h:6379/0\n", "redis://:p\nw@h", "sqlite:///x.db\r\n", "amqp://h\x00"]
)
def test_a_stray_line_feed_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="line feed or another control character"):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://user:p%2Fw@[::1]:6379/0",
        "redis://:a@b@h:1/0",
        "rediss://h:6379/0?ssl_ca_certs=/etc/a@b.pem",
        "redis+socket:///run/r.sock?virtual_host=1&password=a@b",
        "amqp://guest:guest@localhost:5672//",
        "amqp://",
        "memory://name",
        "sqlite:////var/a:b@c.db",
        "sqlite:///.taskq/taskq.db",
        "sentinel://:one@h1:26379;sentinel://:two;x@h2:26379",
    ],
)
def test_what_drivers_read_as_it_was_meant_is_taken(url: str) -> None:
    check_url(url)
