"""Queues by name and size, as several commands show them."""

from collections.abc import Sequence

from taskq.app import TaskQ


async def sizes(app: TaskQ, names: Sequence[str] | None) -> dict[str, int]:
    """How many messages wait in these queues; default all that the settings know. Raises OperationalError."""
    broker = await app.open_broker()
    return {name: await broker.size(name) for name in names or app.router.queues}
