"""Names of worker nodes (celery-protocol.md 9.1)."""

import re

DEFAULT_NAME = "celery"


def node_name(given: str | None, host: str) -> str:
    """`name@host` from what `-n` says: text without `@` is the host part, as in Celery.

    `%h` is the whole host name, `%n` its first part, `%d` the rest, `%%` a percent sign.
    """
    name, at, node_host = (given or "").rpartition("@")
    if not at:
        name = DEFAULT_NAME
    first, _, domain = host.partition(".")
    parts = {"h": host, "n": first, "d": domain, "%": "%"}
    text = f"{name or DEFAULT_NAME}@{node_host or host}"
    return re.sub("%([hnd%])", lambda match: parts[match[1]], text)
