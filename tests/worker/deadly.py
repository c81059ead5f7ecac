"""Tasks that take their process along, for any app."""

import os

from taskq import registry, shared_task


@shared_task(name="deadly.exits", run_in="process")
def exits() -> None:
    os._exit(9)


@shared_task(name="deadly.exits_early", run_in="process", acks_late=False)
def exits_early() -> None:
    os._exit(9)


#: For the apps of the tests that ask for them: the others know nothing of these.
TASKS = {name: registry.shared.pop(name) for name in ("deadly.exits", "deadly.exits_early")}
