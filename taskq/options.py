"""The options of one call, once for every verb that calls."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias, TypedDict


class Linkable(Protocol):
    """A signature, as far as options know it."""

    def to_dict(self) -> dict[str, Any]:
        """Its wire form."""
        ...


class Publishing(Protocol):
    """What hands messages to a broker: a `Publisher`."""

    @property
    def url(self) -> str: ...
    async def publish(self, messages: Sequence[Any]) -> None: ...


class Connected(Protocol):
    """Connections of one event loop: a `Connection`."""

    async def open_broker(self) -> Any: ...
    async def open_store(self) -> Any: ...


#: A signature or its wire form.
Link: TypeAlias = Linkable | Mapping[str, Any]


class RetryPolicy(TypedDict, total=False):
    """How a publish is tried again (wire-format.md 10.4); times in seconds.

    Wait `min(interval_start + n * interval_step, interval_max)` before try n+1; `max_retries` None = for ever.
    `retry_errors` are further exception types to try again for; `timeout` bounds all tries together.
    """

    max_retries: int | None
    interval_start: float
    interval_step: float
    interval_max: float
    timeout: float | None
    retry_errors: Sequence[type[BaseException]] | None


class CallOptions(TypedDict, total=False):
    """What `apply_async`, `signature` and `send_task` take, for type checkers; taskq/wire/fields.py says what each is.

    Times are in seconds; naive datetimes mean UTC; text is a time in ISO 8601.

    The last block is what workflows put on the tasks they send; callers rarely need it.
    """

    task_id: str | None
    countdown: float | None
    eta: datetime | str | None
    expires: float | timedelta | datetime | str | None
    link: Link | Sequence[Link] | None
    link_error: Link | Sequence[Link] | None
    retry: bool | None
    retry_policy: RetryPolicy | None
    serializer: str | None
    compression: str | None
    queue: str | None
    exchange: str | None
    routing_key: str | None
    priority: int | None
    headers: Mapping[str, Any] | None
    ignore_result: bool | None
    time_limit: float | None
    soft_time_limit: float | None
    shadow: str | None
    argsrepr: str | None
    kwargsrepr: str | None
    reply_to: str | None
    correlation_id: str | None
    delivery_mode: int | str | None
    publisher: Publishing | None
    producer: Publishing | None
    connection: Connected | None

    root_id: str | None
    parent_id: str | None
    group_id: str | None
    group_index: int | None
    retries: int | None
    chain: Sequence[Mapping[str, Any]] | None
    chord: Link | None
    replaced_task_nesting: int | None
    stamped_headers: Sequence[str] | None
