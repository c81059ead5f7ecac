"""Walking from a result to what its task has sent: callbacks, next steps, sub-tasks."""

from collections.abc import AsyncGenerator, Container, Iterator, Sequence
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

    id: str
    parent: Any

    @property
    def children(self) -> Sequence[Any]: ...
    def leaves(self) -> Iterator[Any]: ...


async def look(store: ResultStore, leaves: Sequence[Leaf]) -> None:
    """Refresh many handles in one question."""
    for leaf, found in zip(leaves, await store.load([leaf.id for leaf in leaves]), strict=True):
        if found is not None:
            leaf.see(found)


async def walk(
    root: Handle, store: ResultStore, *, intermediate: bool, lineage: bool = False
) -> AsyncGenerator[tuple[Any, Any], None]:
    """Every handle from here on with the one it comes from (None for the first), level by level.

    With `lineage` also what stands between the two: earlier steps and headers, which their tuples tell of.

    Raises:
        IncompleteStream: one has not ended, so that what it sends is not known; not with `intermediate`.
    """
    level: list[tuple[Any, Any]] = [(None, root)]
    seen: set[str] = set()
    while level:
        leaves = [leaf for _, handle in level for leaf in handle.leaves()]
        await look(store, [leaf for leaf in leaves if leaf.state not in states.READY])
        below: list[tuple[Any, Any]] = []
        for parent, handle in level:
            yield parent, handle
            if not intermediate:
                _require_end(handle)
            seen.add(handle.id)
            for child in handle.children:
                between = _between(child, seen) if lineage else ()
                below += [(handle, one) for one in (*between, child)]
        level = below


def _between(handle: Any, seen: Container[str]) -> list[Any]:
    """What a handle comes from, by what it says itself, the first one first, as far as it was not met before."""
    found: list[Any] = []
    while (handle := handle.parent) is not None and handle.id not in seen:
        found.append(handle)
    return found[::-1]


def _require_end(handle: Handle) -> None:
    for leaf in handle.leaves():
        if leaf.state not in states.READY:
            raise IncompleteStream(f"task {leaf.id} is {leaf.state}")


async def result_graph(root: Handle, store: ResultStore, *, intermediate: bool) -> Graph:
    """The graph of a result and what came of it, with the states; groups are shown by their members."""
    graph = Graph()
    async for parent, handle in walk(root, store, intermediate=intermediate, lineage=True):
        await look(store, _family(handle))
        _add(graph, handle, [] if parent is None else _ends(parent))
    return graph


def _add(graph: Graph, handle: Any, after: Sequence[str]) -> Sequence[str]:
    """Add a handle behind what it says that it comes from, or else behind these; the tasks it ends with."""
    if handle.parent is not None:
        after = _add(graph, handle.parent, after)
    if members := _members(handle):
        return [end for member in members for end in _add(graph, member, after)]
    if handle.id not in graph.nodes:
        graph.add(_node(handle), after)
    return [handle.id]


def _ends(handle: Any) -> list[str]:
    """The tasks that a handle ends with."""
    members = _members(handle)
    return [end for member in members for end in _ends(member)] if members else [handle.id]


def _family(handle: Any) -> list[Any]:
    """The single tasks of a handle and of all it says that it comes from."""
    found = [] if handle.parent is None else _family(handle.parent)
    members = _members(handle)
    return found + ([leaf for member in members for leaf in _family(member)] if members else [handle])


def _members(handle: Any) -> Sequence[Any]:
    """The members of a group's handle; none of that of a task."""
    members: Sequence[Any] = getattr(handle, "results", ())
    return members


def _node(leaf: Leaf) -> Node:
    extra = (leaf.seen.extra if leaf.seen else None) or {}
    name = str(extra.get("name") or "")
    note = "" if leaf.seen is None else saferepr(leaf.result, 60)
    return Node(leaf.id, f"{name} {leaf.id}".strip(), leaf.state, note)
