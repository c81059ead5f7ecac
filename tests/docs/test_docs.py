"""The pages of docs/ are true: their Python blocks run, and what they say comes out.

A page's blocks run in order, in one namespace of a module `proj.tasks`, with a worker beside them from the moment
there is an `app`. ```python no-run blocks are only read. The comment after an expression says what must come of it:

    await result          # -> 4
    add.delay(1, 2, 3)    # raises TypeError
"""

import ast
import inspect
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taskq import registry, signals
from tests.harness import running

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [name for name in ("calling", "tasks", "canvas", "schedules") if (DOCS / f"{name}.md").exists()]

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMISE = re.compile(r"\s*#\s*(?:->|:|(?P<raises>raises))\s*(?P<text>\S.*?)\s*$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)\s]*)?\)")
_ANCHOR = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class Block(NamedTuple):
    """The Python of one block; `line` is the page's line before its first."""

    page: Path
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """What runs of a page."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        yield Block(page, found[1], text.count("\n", 0, found.start(1)))


def promise(block: Block, statement: ast.stmt) -> re.Match[str] | None:
    """The comment that says what comes of an expression: on its last line, or alone on the next."""
    assert statement.end_lineno is not None
    assert statement.end_col_offset is not None
    last, *after = [*block.text.splitlines()[statement.end_lineno - 1 :], ""][:2]
    rest = last.encode()[statement.end_col_offset :].decode()
    return _PROMISE.fullmatch(rest) or (None if rest.strip() else _PROMISE.fullmatch(after[0]))


async def perform(statement: ast.stmt, block: Block, namespace: dict[str, Any]) -> Any:
    """Run one statement as at an asynchronous prompt; the value if it is an expression."""
    ast.increment_lineno(statement, block.line)
    if isinstance(statement, ast.Expr):
        tree: ast.Expression | ast.Module = ast.Expression(statement.value)
    else:
        tree = ast.Module([statement], [])
    mode = "eval" if isinstance(tree, ast.Expression) else "exec"
    code = compile(tree, str(block.page), mode, _FLAGS)
    value = eval(code, namespace)
    return await value if code.co_flags & inspect.CO_COROUTINE else value


async def keep(said: re.Match[str], statement: ast.stmt, block: Block, namespace: dict[str, Any]) -> None:
    """Run an expression and compare what came of it with what is said."""
    text, where = said["text"], f"{block.page.name}:{block.line + statement.lineno}"
    if said["raises"]:
        name, _, message = text.partition(": ")
        with pytest.raises(Exception, match=re.escape(message) or None) as caught:
            await perform(statement, block, namespace)
        assert type(caught.value).__name__ == name, where
        return
    value = await perform(statement, block, namespace)
    try:
        assert value == ast.literal_eval(text), where
    except (ValueError, SyntaxError):
        assert repr(value) == text, where


@pytest.fixture(autouse=True)
async def own_process_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A broker for `TaskQ("proj")`; shared tasks and receivers of signals are as before when the page has run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKQ_BROKER_URL", f"sqlite:///{tmp_path}/taskq.db")
    shared = dict(registry.shared)
    listening = [signal for signal in vars(signals).values() if isinstance(signal, signals.Signal)]
    receivers = [list(signal.receivers) for signal in listening]
    yield
    registry.shared.clear()
    registry.shared.update(shared)
    for signal, before in zip(listening, receivers, strict=True):
        signal.receivers[:] = before


@pytest.mark.parametrize("name", PAGES)
async def test_what_a_page_shows_is_so(name: str) -> None:
    namespace: dict[str, Any] = {"__name__": "proj.tasks"}
    kept = 0
    async with AsyncExitStack() as stack:
        working = False
        for block in blocks(DOCS / f"{name}.md"):
            for statement in ast.parse(block.text).body:
                said = promise(block, statement) if isinstance(statement, ast.Expr) else None
                if said is None:
                    await perform(statement, block, namespace)
                else:
                    await keep(said, statement, block, namespace)
                    kept += 1
                if not working and "app" in namespace:
                    app = await stack.enter_async_context(namespace["app"])
                    await stack.enter_async_context(running(app, queues=["celery", "priority.high"]))
                    working = True
    assert kept > 0


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        assert (page.parent / link).exists(), link


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_anchors_are_headings(page: Path) -> None:
    for link, anchor in _ANCHOR.findall(page.read_text()):
        assert anchor in anchors(page.parent / link if link else page), (link, anchor)


def test_the_readme_links_every_page() -> None:
    linked = set(_LINK.findall((ROOT / "README.md").read_text()))
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= linked
