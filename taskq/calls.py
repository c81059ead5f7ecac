"""From a signature to the call that goes on the wire: options, task and settings in order of precedence."""

import os
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Protocol

from taskq.canvas.signature import Signature, as_signature, as_signatures, new_id
from taskq.config.routing import Router
from taskq.config.settings import Settings
from taskq.errors import EncodeError
from taskq.wire.message import Message
from taskq.wire.protocol import Call, encode
from taskq.wire.repr import saferepr
from taskq.wire.request import Request, WireSignature
from taskq.wire.serializers import get_serializer
from taskq.wire.signing import sign

_HOST = socket.gethostname()
#: What a plain member of a group has; the others are looked for only where there are more.
_OF_MEMBERS = frozenset(("task_id", "reply_to", "group_id", "group_index"))
_DELIVERY_MODES: dict[int | str, int] = {1: 1, "transient": 1, 2: 2, "persistent": 2}


class TaskDefaults(Protocol):
    """What a task says about calls of it; None means that the settings decide."""

    serializer: str | None
    compression: str | None
    ignore_result: bool | None
    time_limit: float | None
    soft_time_limit: float | None
    priority: int | None
    expires: float | timedelta | datetime | None
    queue: str | None


class CallBuilder:
    """Builds `Call`s for one app. Pure but for the clock it is given."""

    #: What every message made in this process is shown to, before it is signed: see taskq/tracing.py.
    marks: ClassVar[list[Callable[[Message], None]]] = []

    def __init__(self, conf: Settings, router: Router, now: Callable[[], float]) -> None:
        self._conf = conf
        self._router = router
        self._now = now
        self._origin_pid = 0
        self._origin = ""

    def build(
        self, signature: Signature[Any], task: TaskDefaults | None, parent: Request | None, reply_to: str
    ) -> Call:
        """The call a plain (single-task) signature stands for.

        `parent` is the run that sends it: it gives root and parent id, and with `task_inherit_parent_priority`
        the priority.
        """
        get = signature.options.get
        serializer = get("serializer") or (task.serializer if task else None) or self._conf.task_serializer
        call = Call(
            signature.task,
            get("task_id") or new_id(),
            signature.args,
            signature.kwargs,
            get_serializer(serializer),
            self._sender_name(),
        )
        call.compression = (
            get("compression") or (task.compression if task else None) or self._conf.task_compression
        )
        call.reply_to = get("reply_to") or reply_to
        call.delivery_mode = self._delivery_mode(get("delivery_mode"))
        call.correlation_id = get("correlation_id") or call.id
        options = self._route(call, signature, task, parent)
        self._relate(call, options, parent)
        if options:
            self._options(call, options)
        self._defaults(call, options, task)
        return call

    def message(
        self, signature: Signature[Any], task: TaskDefaults | None, parent: Request | None, reply_to: str
    ) -> Message:
        """The message of that call, signed where the settings have secrets for it.

        Raises:
            EncodeError: its arguments cannot be written, or an id, address or priority is none: the options of a
                signature may have come from anywhere.
        """
        call = self.build(signature, task, parent, reply_to)
        _check_names(call)
        message = encode(call, self._conf.max_message_values)
        for mark in self.marks:
            mark(message)
        sign([message], self._conf.security_secrets)
        return message

    def _sender_name(self) -> str:
        """`gen<pid>@<host>`, as Celery names any sender; made anew after a fork."""
        pid = os.getpid()
        if pid != self._origin_pid:
            self._origin_pid, self._origin = pid, f"gen{pid}@{_HOST}"
        return self._origin

    def _delivery_mode(self, mode: int | str | None) -> int:
        if mode is None:
            mode = self._conf.task_default_delivery_mode
        known = _DELIVERY_MODES.get(mode)
        if known is None:
            raise TypeError(f"delivery_mode is {mode!r}: persistent (2) or transient (1)")
        return known

    def _relate(self, call: Call, options: Mapping[str, Any], parent: Request | None) -> None:
        """wire-format.md 5.3: sent by a task, the call has that task as parent and its root as root."""
        call.root_id, call.parent_id = options.get("root_id"), options.get("parent_id")
        if parent is not None:
            call.root_id = call.root_id or parent.root_id or parent.id
            call.parent_id = call.parent_id or parent.id
        call.root_id = call.root_id or call.id

    def _route(
        self, call: Call, signature: Signature[Any], task: TaskDefaults | None, parent: Request | None
    ) -> Mapping[str, Any]:
        """Set where it goes and how urgent it is; the options of the call with those its route adds."""
        asked = options = signature.options
        queue = None if task is None else task.queue
        priority = None if task is None else task.priority
        if parent is not None and self._conf.task_inherit_parent_priority and priority is None:
            priority = parent.delivery_info.get("priority")
        if queue is not None and options.get("queue") is None:
            asked = {**asked, "queue": queue}
        if priority is not None and options.get("priority") is None:
            asked = {**asked, "priority": priority}
        route = self._router.route(signature.task, signature.args, signature.kwargs, asked)
        call.exchange, call.routing_key = route.exchange, route.routing_key
        call.priority = route.priority or 0
        return {**route.options, **options} if route.options else options

    def _options(self, call: Call, options: Mapping[str, Any]) -> None:
        get = options.get
        call.group, call.group_index = get("group_id"), get("group_index")
        if options.keys() <= _OF_MEMBERS:
            return
        call.retries = get("retries") or 0
        call.shadow = get("shadow")
        call.argsrepr, call.kwargsrepr = get("argsrepr"), get("kwargsrepr")
        call.replaced_task_nesting = get("replaced_task_nesting") or 0
        call.headers = get("headers")
        call.eta = self._eta(get("countdown"), get("eta"))
        call.callbacks = _wire(get("link"))
        call.errbacks = _wire(get("link_error"))
        chain = get("chain")
        # Steps that came by the wire go on as they are: a long line is not taken apart at each of its steps.
        call.chain = chain and [
            step if type(step) is dict else as_signature(step).to_dict() for step in chain
        ]
        chord = get("chord")
        call.chord = None if chord is None else as_signature(chord).to_dict()
        stamped = get("stamped_headers")
        if stamped is not None:
            call.stamped_headers = sorted(stamped)
            call.stamps = {name: options[name] for name in call.stamped_headers if name in options}

    def _defaults(self, call: Call, options: Mapping[str, Any], task: TaskDefaults | None) -> None:
        """What the call leaves open: the task's own value, else nothing (the worker's settings then decide)."""
        call.time_limit, call.soft_time_limit = options.get("time_limit"), options.get("soft_time_limit")
        call.ignore_result = options.get("ignore_result")
        expires = options.get("expires")
        if task is not None:
            if call.ignore_result is None:
                call.ignore_result = task.ignore_result
            if expires is None:
                expires = task.expires
        if call.ignore_result is None:
            call.ignore_result = self._conf.task_ignore_result
        if expires is not None:
            call.expires = self._at(expires)

    def _eta(self, countdown: float | None, eta: datetime | None) -> datetime | None:
        """A countdown beats an eta, and a countdown of 0 means now (wire-format.md 1.5)."""
        if countdown:
            return self._at(countdown)
        return None if eta is None else self._at(eta)

    def _at(self, when: float | timedelta | datetime) -> datetime:
        """An aware time: seconds count from now, a naive datetime is UTC."""
        if isinstance(when, datetime):
            return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        seconds = when.total_seconds() if isinstance(when, timedelta) else when
        return datetime.fromtimestamp(self._now() + seconds, UTC)


def _check_names(call: Call) -> None:
    names = (call.task, call.id, call.exchange, call.routing_key, call.reply_to, call.correlation_id)
    try:
        "".join(names).encode()
    except (TypeError, UnicodeEncodeError) as exc:
        raise EncodeError(f"a task's name, ids and addresses are text, not {saferepr(names, 200)}") from exc
    priority: Any = call.priority
    if not isinstance(priority, int) or not -(2**31) <= priority < 2**31:
        raise EncodeError(f"priority is {saferepr(priority, 60)}, not a number")


def _wire(link: Any) -> list[WireSignature] | None:
    if link is None:
        return None
    return [signature.to_dict() for signature in as_signatures(link)] or None
