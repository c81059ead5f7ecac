"""`taskq graph`: a workflow as a tree of lines, in Graphviz's language or as a picture."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from taskq.app import TaskQ
from taskq.canvas.drawing import signature_graph
from taskq.canvas.graph import Graph
from taskq.canvas.picture import to_svg
from taskq.canvas.signature import Signature, as_signature
from taskq.cli.apps import app_or_settings, connected
from taskq.cli.state import AppCommand, get_state
from taskq.config.finder import put_first_on_path
from taskq.config.loading import load_symbol
from taskq.printable import printable
from taskq.results.handles import AsyncResult, GroupResult
from taskq.results.tree import workflow_graph


def _to_text(drawn: Graph) -> str:
    return f"{printable(drawn.to_text(), lines=True)}\n"


def _to_dot(drawn: Graph) -> str:
    return drawn.to_dot()


WRITERS: Final[Mapping[str, Callable[[Graph], str]]] = {"text": _to_text, "dot": _to_dot, "svg": to_svg}
_NAMED: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@click.command(cls=AppCommand)
@click.argument("workflow")
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(list(WRITERS)),
    help="default that of the file's name, else text",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="write to this file")
@click.option("--from-here", is_flag=True, help="begin with this task, not with the first of its workflow")
@click.option("--all", "unfolded", is_flag=True, help="draw every task, also of many that are alike")
def graph(*, workflow: str, form: str | None, output: Path | None, from_here: bool, unfolded: bool) -> None:
    """Draw a workflow: what it will do, or how far it has come.

    WORKFLOW is the id of a task or of a saved group, a signature in a module (`proj.flows:nightly`), its JSON, a
    file with that (`flow.json`), or - for standard input. Of an id, states and results are shown.
    """
    drawn = _of_signature(workflow)
    if drawn is None:
        app = app_or_settings(get_state())
        drawn = connected(app, lambda app: _of_result(app, workflow, climb=not from_here))
    if form is None:
        suffix = output.suffix[1:] if output is not None else ""
        form = suffix if suffix in WRITERS else "text"
    text = WRITERS[form](drawn if unfolded else drawn.folded())
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def _of_signature(workflow: str) -> Graph | None:
    """The graph of what will be done; None if this is no signature."""
    if _NAMED.fullmatch(workflow):
        put_first_on_path(Path.cwd())
        found: Any = load_symbol(workflow)
        if not isinstance(found, Signature | Mapping):
            raise click.UsageError(f"{workflow} is no signature but {type(found).__name__}")
        return signature_graph(as_signature(found))
    if workflow == "-":
        return _of_json(sys.stdin.read())
    if workflow.lstrip().startswith("{"):
        return _of_json(workflow)
    if workflow.endswith(".json") and Path(workflow).exists():
        return _of_json(Path(workflow).read_text(encoding="utf-8"))
    return None


def _of_json(text: str) -> Graph:
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"a signature is a JSON object, and this is none: {error}") from None
    return signature_graph(as_signature(data))


async def _of_result(app: TaskQ, result_id: str, *, climb: bool) -> Graph:
    task = await app.AsyncResult(result_id).refresh()
    saved = await GroupResult.restore(result_id, app) if task.seen is None else None
    handle: AsyncResult[Any] | GroupResult[Any] = task if saved is None else saved
    return await workflow_graph(handle, await app.open_store()) if climb else await handle.graph()
