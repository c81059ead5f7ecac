"""OpenTelemetry traces of tasks. Needs the extra `taskq-asyncio[otel]`; off until `trace_tasks()` is called.

A call is a span of kind producer and travels in the message as W3C `traceparent`; its wait in the queue and its run are spans
below it. What a run sends (the next step of a chain, a retry, other tasks) hangs below the run, with a link to where it was
sent, so that a whole workflow is one trace.
"""

import time
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, SpanKind, StatusCode, TracerProvider

from taskq import signals
from taskq.calls import CallBuilder
from taskq.version import VERSION
from taskq.wire.message import Message
from taskq.wire.request import Request, current

#: When the message was made (Unix seconds): where its wait begins.
SENT = "taskq-sent"


def trace_tasks(provider: TracerProvider | None = None) -> "Tracing":
    """Trace every call and run of this process from now on: call it once, where the app is made.

    Args:
        provider: default the one that is set for the process.
    """
    tracing = Tracing(trace.get_tracer("taskq", VERSION, provider))
    tracing.begin()
    return tracing


class Tracing:
    """Makes the spans; `end` stops it."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._receivers = (
            (signals.task_prerun, self._started),
            (signals.task_failure, self._failed),
            (signals.task_retry, self._retried),
            (signals.task_postrun, self._ended),
        )

    def begin(self) -> None:
        """Begin to trace."""
        CallBuilder.marks.append(self._sent)
        for signal, receiver in self._receivers:
            signal.connect(receiver)

    def end(self) -> None:
        """Trace no longer."""
        CallBuilder.marks.remove(self._sent)
        for signal, receiver in self._receivers:
            signal.disconnect(receiver)

    def _sent(self, message: Message) -> None:
        """A message is made: its context goes with it."""
        name, task_id = message.headers["task"], message.headers["id"]
        attributes = {"messaging.system": "taskq", "messaging.message.id": task_id, "taskq.task": name}
        with self._tracer.start_as_current_span(
            f"publish {name}", kind=SpanKind.PRODUCER, attributes=attributes
        ):
            propagate.inject(message.headers)
            message.headers[SENT] = time.time()

    def _started(self, **_: Any) -> None:
        """A run begins, in a context of its own."""
        request = current.get()
        if request is None:
            return
        carrier = {key: value for key, value in request.headers.items() if isinstance(value, str)}
        parent = propagate.extract(carrier)
        self._waited(request, parent)
        sent_by = trace.get_current_span(parent).get_span_context()
        span = self._tracer.start_span(
            f"run {request.name}",
            parent,
            SpanKind.CONSUMER,
            {
                "messaging.system": "taskq",
                "messaging.message.id": request.id,
                "messaging.destination.name": str(request.delivery_info.get("routing_key", "")),
                "taskq.task": request.task,
                "taskq.run.retries": request.retries,
            },
            [Link(sent_by)] if sent_by.is_valid else (),
        )
        context.attach(trace.set_span_in_context(span, parent))

    def _waited(self, request: Request, parent: context.Context) -> None:
        sent = request.headers.get(SENT)
        if isinstance(sent, int | float):
            span = self._tracer.start_span(f"wait {request.name}", parent, start_time=int(sent * 1e9))
            span.end()

    def _failed(self, exception: BaseException, **_: Any) -> None:
        span = trace.get_current_span()
        span.record_exception(exception)
        span.set_status(StatusCode.ERROR, f"{type(exception).__name__}: {exception}")

    def _retried(self, reason: BaseException | None = None, **_: Any) -> None:
        trace.get_current_span().add_event("retry", {"reason": repr(reason)})

    def _ended(self, **_: Any) -> None:
        trace.get_current_span().end()
