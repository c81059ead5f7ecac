"""Names of worker nodes (wire-format.md 9)."""

import re

DEFAULT_NAME = "celery"


def node_name(given: str | None, host: str, number: str | None = None) -> str:
    """`name@host` from what `-n` says: text without `@` is the host part, as in Celery.

    `%h` is the whole host name, `%n` its first part, `%d` the rest, `%i` the number of the process among several,
    `%%` a percent sign. Without `%i` the number ends the name: each process is a node of its own.
    """
    name, at, node_host = (given or "").rpartition("@")
    if not at:
        name = DEFAULT_NAME
    first, _, domain = host.partition(".")
    parts = {"h": host, "n": first, "d": domain, "i": number or "0", "%": "%"}
    own = f"{name or DEFAULT_NAME}"
    if number is not None and "%i" not in f"{own}{node_host}":
        own = f"{own}-{number}"
    return re.sub("%([hndi%])", lambda match: parts[match[1]], f"{own}@{node_host or host}")
