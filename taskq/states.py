"""Task states: Celery's names (wire-format.md 4.1). Any other text is a custom state."""

from typing import Final

PENDING: Final = "PENDING"
RECEIVED: Final = "RECEIVED"
STARTED: Final = "STARTED"
RETRY: Final = "RETRY"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"
IGNORED: Final = "IGNORED"
REJECTED: Final = "REJECTED"

#: Final states: nothing follows.
READY: Final = frozenset({SUCCESS, FAILURE, REVOKED})
#: States whose result is an encoded exception.
EXCEPTION: Final = frozenset({RETRY, FAILURE, REVOKED})
#: States that `AsyncResult.get` raises for.
PROPAGATE: Final = frozenset({FAILURE, REVOKED})
