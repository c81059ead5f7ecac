"""Walking from a result to what its task has sent: callbacks, next steps, sub-tasks."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, Protocol

from taskq import states
from taskq.errors import IncompleteStream
from taskq.graph import Graph, Node
from taskq.saferepr import saferepr
from taskq.store import ResultStore, TaskResult


class Leaf(Protocol):
    """The handle of one task."""

    id: str

    @property
    def state(self) -> str: ...
    @property
    def seen(self) -> TaskResult | None: ...
    @property
    def result(self) -> Any: ...
    def see(self, state: TaskResult) -> None: ...


class Handle(Protocol):
    """A handle of a task or of a group."""

    @property
    def children(self) -> Sequence[Any]: ...
    def leaves(self) -> Iterator[Any]: ...


async def look(store: ResultStore, leaves: Sequence[Leaf]) -> None:
    """Refresh many handles in one question."""
    for leaf, found in zip(leaves, await store.load([leaf.id for leaf in leaves]), strict=True):
        if found is not None:
            leaf.see(found)


async def walk(
    root: Handle, store: ResultStore, *, intermediate: bool
) -> AsyncGenerator[tuple[Any, Any], None]:
    """Every handle from here on with the one it comes from (None for the first), level by level.

    Raises:
        IncompleteStream: one has not ended, so that what it sends is not known; not with `intermediate`.
    """
    level: list[tuple[Any, Any]] = [(None, root)]
    while level:
        leaves = [leaf for _, handle in level for leaf in handle.leaves()]
        await look(store, [leaf for leaf in leaves if leaf.state not in states.READY])
        below: list[tuple[Any, Any]] = []
        for parent, handle in level:
            yield parent, handle
            if not intermediate:
                _require_end(handle)
            below += [(handle, child) for child in handle.children]
        level = below


def _require_end(handle: Handle) -> None:
    for leaf in handle.leaves():
        if leaf.state not in states.READY:
            raise IncompleteStream(f"task {leaf.id} is {leaf.state}")


async def result_graph(root: Handle, store: ResultStore, *, intermediate: bool) -> Graph:
    """The graph of a result and what came of it, with the states; groups are shown by their members."""
    graph = Graph()
    ends: dict[int, list[str]] = {}
    async for parent, handle in walk(root, store, intermediate=intermediate):
        after = ends.get(id(parent), [])
        header: Any = getattr(handle, "parent", None)
        if _members(header):  # the body of a chord, which stands behind the whole header
            await look(store, list(header.leaves()))
            after = [graph.add(_node(leaf), after) for leaf in header.leaves()]
        if _members(handle):
            ends[id(handle)] = after
        else:
            ends[id(handle)] = [graph.add(_node(handle), after)]
    return graph


def _members(handle: Any) -> Sequence[Any]:
    """The members of a group's handle; none of that of a task."""
    members: Sequence[Any] = getattr(handle, "results", ())
    return members


def _node(leaf: Leaf) -> Node:
    extra = (leaf.seen.extra if leaf.seen else None) or {}
    name = str(extra.get("name") or "")
    note = "" if leaf.seen is None else saferepr(leaf.result, 60)
    return Node(leaf.id, f"{name} {leaf.id}".strip(), leaf.state, note)
