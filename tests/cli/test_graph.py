"""`taskq graph`: of signatures and of results."""

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest

from taskq import TaskQ, chain, chord, group
from tests.cli.conftest import Taskq
from tests.harness import running

FLOWS = """
from taskq import TaskQ

app = TaskQ("flows", broker="sqlite:///flows.db", result_extended=True)


@app.task(name="add")
async def add(x, y):
    return x + y


@app.task(name="xsum")
async def xsum(numbers):
    return sum(numbers)


nightly = add.s(1, 1) | add.s(2)
number = 4
"""


@pytest.fixture
def flows(folder: Path) -> Path:
    (folder / "flows.py").write_text(FLOWS)
    return folder


def test_a_signature_of_a_module(taskq: Taskq, flows: Path) -> None:
    assert taskq("graph", "flows:nightly").out == "add(1, 1)\n└─ add(2)\n"
    said = taskq("graph", "flows:number")
    assert said.code == 2
    assert "flows:number is no signature but int" in said.err


def test_a_signature_as_json(taskq: Taskq, flows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = TaskQ("other", broker="memory://other")
    text = json.dumps((app.signature("a") | app.signature("b")).to_dict())
    drawn = "a()\n└─ b()\n"
    assert taskq("graph", text).out == drawn
    (flows / "flow.json").write_text(text)
    assert taskq("graph", "flow.json").out == drawn
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert taskq("graph", "-").out == drawn
    said = taskq("graph", "{not json")
    assert said.code == 2
    assert "a signature is a JSON object" in said.err


def test_formats_and_files(taskq: Taskq, flows: Path) -> None:
    assert taskq("graph", "flows:nightly", "-f", "dot").out.startswith("digraph")
    assert taskq("graph", "flows:nightly", "-o", "flow.svg").out == ""
    assert (flows / "flow.svg").read_text().startswith("<svg")
    taskq("graph", "flows:nightly", "-o", "flow.dot")
    assert (flows / "flow.dot").read_text().startswith("digraph")
    taskq("graph", "flows:nightly", "-o", "flow.txt")
    assert (flows / "flow.txt").read_text().startswith("add(1, 1)")


def test_results_with_their_states(taskq: Taskq, flows: Path) -> None:
    ids: dict[str, str] = {}

    async def work() -> None:
        url = f"sqlite:///{flows}/flows.db"
        app = TaskQ("flows", broker=url, result_extended=True)
        add = app.task(name="add")(lambda x, y: x + y)
        xsum = app.task(name="xsum")(sum)
        async with app, running(app):
            result = await chain(add.s(1, 1), group(add.s(1), add.s(2)), xsum.s(), add.s(3)).apply_async()
            await result.get(timeout=10)
            saved = await group(add.s(0, 0), add.s(4, 4)).apply_async()
            await saved.get(timeout=10)
            await saved.save()
        ids.update(last=result.id, group=saved.id)

    asyncio.run(work())
    assert shape(taskq("-A", "flows", "graph", ids["last"]).out) == [
        "add SUCCESS 2",
        "├─ add SUCCESS 3",
        "└─ add SUCCESS 4",
        "   └─ xsum SUCCESS 7 (after all 2)",
        "      └─ add SUCCESS 10",
    ]
    assert shape(taskq("-A", "flows", "graph", ids["last"], "--from-here").out) == ["add SUCCESS 10"]
    assert shape(taskq("-A", "flows", "graph", ids["group"]).out) == ["add SUCCESS 0", "add SUCCESS 8"]
    assert taskq("-A", "flows", "graph", "unknown").out == "unknown  PENDING\n"


def test_a_chord_is_drawn_from_the_id_of_any_of_its_tasks(taskq: Taskq, flows: Path) -> None:
    ids: dict[str, str] = {}

    async def work() -> None:
        app = TaskQ("flows", broker=f"sqlite:///{flows}/flows.db", result_extended=True)
        add = app.task(name="add")(lambda x, y: x + y)
        xsum = app.task(name="xsum")(sum)
        async with app, running(app):
            flow = chord([add.s(1, 1) | add.s(1), chord([add.s(2, 2), add.s(0, 0)], xsum.s())], xsum.s())
            result = await flow.apply_async()
            await result.get(timeout=10)
            failed = await chord([add.s(1, "x")], xsum.s()).apply_async()
            await failed.get(timeout=10, propagate=False)
            many = await chord((add.s(i, 0) for i in range(20)), xsum.s()).apply_async()
            await many.get(timeout=10)
            ids.update(last=result.id, failed=failed.id, many=many.id)

    asyncio.run(work())
    drawn = shape(taskq("-A", "flows", "graph", ids["last"]).out)
    assert sorted(line.strip("├└─│ ") for line in drawn) == [
        "add SUCCESS 0",
        "add SUCCESS 2",
        "add SUCCESS 3",
        "add SUCCESS 4",
        "xsum SUCCESS 4 (after all 2)",
        "xsum SUCCESS 7 (after all 2)",
    ]
    first, body = taskq("-A", "flows", "graph", ids["failed"]).out.splitlines()
    assert "FAILURE  TypeError" in first
    assert f"{ids['failed']}  FAILURE  ChordError" in body
    folded = taskq("-A", "flows", "graph", ids["many"]).out.splitlines()
    assert [line for line in folded if "\u00d7" in line] == ["add \u00d7 20  SUCCESS"]
    assert folded[1].endswith("SUCCESS  190")
    assert len(taskq("-A", "flows", "graph", ids["many"], "--all").out.splitlines()) == 21


def shape(text: str) -> list[str]:
    """The lines without the ids."""

    def without_id(line: str) -> str:
        words = line.lstrip("├└─│ ")
        branch = line.removesuffix(words)
        return branch + " ".join(word for word in words.split() if len(word) != 36)

    return [without_id(line) for line in text.splitlines()]
