"""From a signature to the call that goes on the wire: options, task and settings in order of precedence."""

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Protocol

from taskq.canvas.signature import Signature, as_signature, as_signatures, new_id
from taskq.config.routing import Router
from taskq.config.settings import Settings
from taskq.wire.fields import aware, check_values
from taskq.wire.kinds import TEXT
from taskq.wire.message import Message
from taskq.wire.protocol import Call, encode
from taskq.wire.request import Request
from taskq.wire.serializers import get_serializer
from taskq.wire.signing import sign

_HOST = socket.gethostname()
#: Options whose values have a form of their own on the wire.
_OF_SIGNATURES = frozenset(("link", "link_error", "chain", "chord", "stamped_headers"))
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

        Raises:
            TypeError, ValueError: an option is none: those of a signature may have come from anywhere.
        """
        options, exchange, routing_key = self._route(signature, task, parent)
        if type(signature.task) is not str or not signature.task.isascii():
            TEXT.check("the task's name", signature.task)
        if options:
            check_values(options)
        self._complete(options, task, parent)
        get = options.get
        return Call(
            signature.task,
            get("task_id") or new_id(),
            signature.args,
            signature.kwargs,
            get_serializer(
                get("serializer") or (task.serializer if task else None) or self._conf.task_serializer
            ),
            options,
            self._sender_name(),
            exchange,
            routing_key,
            get("reply_to") or reply_to,
        )

    def _route(
        self, signature: Signature[Any], task: TaskDefaults | None, parent: Request | None
    ) -> tuple[dict[str, Any], str, str]:
        """The options of the call with those its route adds, and where that leads: exchange and routing key."""
        options = dict(signature.options)
        queue = None if task is None else task.queue
        priority = None if task is None else task.priority
        if parent is not None and self._conf.task_inherit_parent_priority and priority is None:
            priority = parent.delivery_info.get("priority")
        asked = options
        if queue is not None and options.get("queue") is None:
            asked = {**asked, "queue": queue}
        if priority is not None and options.get("priority") is None:
            asked = {**asked, "priority": priority}
        route = self._router.route(signature.task, signature.args, signature.kwargs, asked)
        if route.options:
            options.update(
                (name, value) for name, value in route.options.items() if options.get(name) is None
            )
        if route.priority is not None:
            options["priority"] = route.priority
        return options, route.exchange, route.routing_key

    def _complete(self, options: dict[str, Any], task: TaskDefaults | None, parent: Request | None) -> None:
        """What the call leaves open: the task's own value, else that of the settings. Then all is as it travels."""
        get, conf = options.get, self._conf
        if parent is not None:  # wire-format.md 5.3: its parent, and the parent's root as root
            options["root_id"] = get("root_id") or parent.root_id or parent.id
            options["parent_id"] = get("parent_id") or parent.id
        ignored, expires, compression = get("ignore_result"), get("expires"), get("compression")
        if task is not None:
            ignored = task.ignore_result if ignored is None else ignored
            expires = task.expires if expires is None else expires
            compression = compression or task.compression
        options["ignore_result"] = conf.task_ignore_result if ignored is None else ignored
        options["compression"] = compression or conf.task_compression
        options["delivery_mode"] = _DELIVERY_MODES[get("delivery_mode") or conf.task_default_delivery_mode]
        if expires is not None:
            options["expires"] = self._at(expires)
        if when := get("countdown") or get("eta"):  # a countdown of 0 means now (wire-format.md 1.5)
            options["eta"] = self._at(when)
        if not _OF_SIGNATURES.isdisjoint(options):
            _write_signatures(options)

    def message(
        self, signature: Signature[Any], task: TaskDefaults | None, parent: Request | None, reply_to: str
    ) -> Message:
        """The message of that call, signed where the settings have secrets for it.

        Raises:
            EncodeError: its arguments cannot be written.
            TypeError, ValueError: an option is none.
        """
        message = encode(self.build(signature, task, parent, reply_to), self._conf.max_message_values)
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

    def _at(self, when: float | timedelta | datetime | str) -> datetime:
        """An aware time: seconds count from now, text is ISO 8601, a naive datetime is UTC."""
        if isinstance(when, str):
            when = datetime.fromisoformat(when)
        if isinstance(when, datetime):
            return aware(when)
        seconds = when.total_seconds() if isinstance(when, timedelta) else when
        return datetime.fromtimestamp(self._now() + seconds, UTC)


def _write_signatures(options: dict[str, Any]) -> None:
    """Signatures as they travel, and stamps in order."""
    for option in ("link", "link_error"):
        if options.get(option) is not None:
            options[option] = [link.to_dict() for link in as_signatures(options[option])] or None
    # Steps that came by the wire go on as they are: a long line is not taken apart at each of its steps.
    if options.get("chain"):
        options["chain"] = [
            step if type(step) is dict else as_signature(step).to_dict() for step in options["chain"]
        ]
    if options.get("chord") is not None:
        options["chord"] = as_signature(options["chord"]).to_dict()
    if options.get("stamped_headers") is not None:
        options["stamped_headers"] = sorted(options["stamped_headers"])
