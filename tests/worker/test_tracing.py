"""Traces of calls and runs, by OpenTelemetry's own in-memory exporter."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from taskq import TaskQ
from taskq.calls import CallBuilder
from taskq.tracing import SENT, trace_tasks
from tests.harness import running
from tests.polling import eventually


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    found, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    tracing = trace_tasks(provider)
    yield found
    tracing.end()


def by_name(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    spans: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        spans.setdefault(span.name, []).append(span)
    return spans


def span_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return int(context.span_id)


def parent_id(span: ReadableSpan) -> int | None:
    return None if span.parent is None else int(span.parent.span_id)


async def test_a_chain_with_a_thread_is_one_trace(app: TaskQ, exporter: InMemorySpanExporter) -> None:
    @app.task(name="t.first")
    async def first() -> int:
        return 1

    @app.task(name="t.second")
    def second(x: int) -> int:
        return x + 1

    async with running(app):
        assert await (await (first.s() | second.s()).apply_async()).get(10) == 2
    spans = by_name(exporter)
    assert {name: len(found) for name, found in spans.items()} == dict.fromkeys(
        [
            "publish t.first",
            "wait t.first",
            "run t.first",
            "publish t.second",
            "wait t.second",
            "run t.second",
        ],
        1,
    )
    assert len({span.context.trace_id for found in spans.values() for span in found if span.context}) == 1
    [sent], [run], [then] = spans["publish t.first"], spans["run t.first"], spans["publish t.second"]
    assert parent_id(run) == span_id(sent)
    assert [link.context.span_id for link in run.links] == [span_id(sent)]
    assert parent_id(then) == span_id(run)
    assert parent_id(spans["run t.second"][0]) == span_id(then)
    assert (sent.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)


async def test_retries_and_failures_are_told(app: TaskQ, exporter: InMemorySpanExporter) -> None:
    @app.task(name="t.fails", bind=True, max_retries=1)
    async def fails(self: Any) -> None:
        raise self.retry(exc=ValueError("no"), countdown=0)

    async with running(app):
        with pytest.raises(ValueError, match="no"):
            await (await fails.delay()).get(10)
        await eventually(lambda: len(by_name(exporter).get("run t.fails", ())) == 2)
    first, second = by_name(exporter)["run t.fails"]
    assert [event.name for event in first.events] == ["retry"]
    assert first.status.status_code is StatusCode.UNSET
    assert second.status.status_code is StatusCode.ERROR
    assert second.attributes is not None
    assert second.attributes["taskq.run.retries"] == 1
    again = by_name(exporter)["publish t.fails"][1]
    assert parent_id(again) == span_id(first)


def test_messages_bear_the_context_as_w3c_writes_it(app: TaskQ, exporter: InMemorySpanExporter) -> None:
    message = app.encoded(app.signature("t.any"), None, "")
    version, trace, parent, flags = message.headers["traceparent"].split("-")
    assert (version, len(trace), len(parent)) == ("00", 32, 16)
    assert int(flags, 16) & 1  # sampled
    assert message.headers[SENT] > 0


def test_off_unless_asked(app: TaskQ) -> None:
    assert CallBuilder.marks == []
    assert "traceparent" not in app.encoded(app.signature("t.any"), None, "").headers
