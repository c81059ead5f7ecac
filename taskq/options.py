"""The options of one call, once for every verb that calls."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from taskq.publisher import Producer
    from taskq.signature import AnySignature

Link = "AnySignature | Sequence[AnySignature]"


class RetryPolicy(TypedDict, total=False):
    """How a publish is tried again (celery-protocol.md 10.4); times in seconds.

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
    """What `apply_async`, `signature` and `send_task` take. Times are in seconds; naive datetimes mean UTC."""

    task_id: str
    countdown: float | None
    eta: datetime | None
    expires: float | timedelta | datetime | None
    link: "AnySignature | Sequence[AnySignature] | None"
    link_error: "AnySignature | Sequence[AnySignature] | None"
    retry: bool
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
    publisher: "Producer | None"
    producer: "Producer | None"
    connection: "Producer | None"
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    group_index: int | None
    retries: int
    chord: Any
    chain: Any
    add_to_parent: bool
    replaced_task_nesting: int
    stamped_headers: Sequence[str] | None
