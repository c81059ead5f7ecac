"""An app and a worker for tests: in the test's own loop, on each broker there is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taskq import TaskQ
from taskq.testing import start_worker


@dataclass(frozen=True)
class Place:
    """Where an app keeps its messages and results; `settings` are further settings of the app."""

    broker: str
    backend: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def app(self, **settings: Any) -> TaskQ:
        """A fresh app here."""
        return TaskQ("proj", broker=self.broker, backend=self.backend, **{**self.settings, **settings})


running = start_worker
