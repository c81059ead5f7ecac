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
