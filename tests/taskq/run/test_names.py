"""Names against duplicates: no sender can take the name that what follows another's message will get."""

from dataclasses import replace

from taskq import TaskQ
from taskq.run.chords import completed
from taskq.run.outcome import ChordPart, name_of
from taskq.wire.message import Delivery, Message
from taskq.wire.request import Request
from taskq.wire.result import TaskResult


def delivery() -> Delivery:
    return Delivery(
        Message({"task": "a", "id": "1", "retries": 0}, b"[[],{},{}]"), "jobs", None, serial="tag"
    )


def test_a_delivery_has_the_same_name_each_time() -> None:
    again = replace(delivery(), redelivered=True, deaths=1, tag="another")
    assert name_of(delivery()) == name_of(again)


def test_another_message_with_the_same_tag_has_another_name() -> None:
    message = delivery().message
    others = [
        replace(delivery(), serial="other"),
        replace(delivery(), queue="elsewhere"),
        replace(delivery(), message=replace(message, headers={**message.headers, "id": "2"})),
        replace(delivery(), message=replace(message, headers={**message.headers, "retries": 1})),
        replace(delivery(), message=replace(message, body=b"[[1],{},{}]")),
    ]
    assert len({name_of(other) for other in (delivery(), *others)}) == 6


def test_the_body_of_a_chord_is_not_silenced_by_another_of_its_group() -> None:
    app = TaskQ("names", broker="memory://names", backend="memory://names")

    def name(task_id: str, part_id: str) -> str | None:
        part = TaskResult(part_id, "SUCCESS", 1, group_id="group")
        body = {"task": "b", "options": {"task_id": task_id}}
        done = completed(app, ChordPart(body, 0, part, Request(part_id, "a")), [part])
        return done.follow.messages[0].once

    assert name("body", "one") == name("body", "two")
    assert name("body", "one") != name("other", "one")
