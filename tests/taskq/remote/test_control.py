import pytest

from taskq.remote.control import Mailbox


def test_addresses() -> None:
    mailbox = Mailbox("proj", ttl=1, expires=2)
    node, caller = mailbox.node("w@host"), mailbox.caller("oid")
    assert (node.name, node.exchange.name, node.key) == ("w@host.proj.pidbox", "proj.pidbox", "")
    assert (caller.name, caller.exchange.name, caller.key) == (
        "oid.reply.proj.pidbox",
        "reply.proj.pidbox",
        "oid",
    )
    assert (node.ttl, node.expires, caller.exchange.kind) == (1, 2, "direct")


@pytest.mark.parametrize(
    ("exchange", "key", "is_caller"),
    [
        ("reply.celery.pidbox", "9c52cd9e-4ab3-3a0c-8a8d-0f7a4d2b7b0a", True),
        ("reply.celery.pidbox", "9C52CD9E4AB33A0C8A8D0F7A4D2B7B0A", True),
        ("reply.other.pidbox", "9c52cd9e-4ab3-3a0c-8a8d-0f7a4d2b7b0a", False),
        ("celery", "9c52cd9e-4ab3-3a0c-8a8d-0f7a4d2b7b0a", False),
        ("", "celery", False),
        ("reply.celery.pidbox", "celery", False),
        ("reply.celery.pidbox", "9c52cd9e-4ab3-3a0c-8a8d-0f7a4d2b7b0a.x", False),
        ("reply.celery.pidbox", "", False),
    ],
)
def test_a_caller_is_told_from_other_addresses(exchange: str, key: str, is_caller: bool) -> None:  # noqa: FBT001 - a case
    assert Mailbox().is_caller(exchange, key) is is_caller
