"""Walking from a result to what its task has sent: callbacks, next steps, sub-tasks."""

from collections.abc import AsyncGenerator, Container, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

from taskq import states
from taskq.canvas.graph import Graph, Node
from taskq.errors import IncompleteStream
from taskq.seams.store import ResultStore
from taskq.wire.repr import saferepr
from taskq.wire.result import TaskResult


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
            if handle.id in seen:  # what is stored may go round in a circle
                continue
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
    drawing = _Drawing(store)
    await drawing.grow(root, intermediate=intermediate)
    return drawing.graph


async def workflow_graph(root: Handle, store: ResultStore) -> Graph:
    """The same with what a result comes from, by what its and other records tell."""
    drawing = _Drawing(store)
    line = await _line(root, store)
    for parent, handle in pairwise([None, *line]):
        if handle is not None and not drawing.knows(handle):
            await drawing.grow(handle, intermediate=True)
            drawing.join(parent, handle)
    while above := drawing.above():
        await look(store, [parent for parent, _ in above])
        for parent, handle in above:
            if parent.seen is not None:
                await drawing.grow(parent, intermediate=True)
                drawing.join(parent, handle)
    return drawing.graph


async def _line(root: Any, store: ResultStore) -> list[Any]:
    """From the first task that a result comes from down to itself, as far as records are kept."""
    line = [root]
    leaf = next(root.leaves(), None)
    met = {root.id}
    while leaf is not None:
        await look(store, [leaf])
        parent = _parent(leaf)
        if leaf.seen is None or parent is None or parent.id in met:
            break
        met.add(parent.id)
        await look(store, [parent])
        if parent.seen is None:
            break
        line.append(parent)
        leaf = parent
    return line[::-1]


def _parent(leaf: Any) -> Any:
    """The handle of the task that sent this one, by its record."""
    parent_id = None if leaf.seen is None else leaf.seen.parent_id
    return type(leaf)(parent_id, leaf.backend) if parent_id else None


class _Drawing:
    """A graph that grows by handles."""

    def __init__(self, store: ResultStore) -> None:
        self.graph = Graph()
        self._store = store
        self._leaves: dict[str, Any] = {}
        self._asked: set[str] = set()

    async def grow(self, root: Handle, *, intermediate: bool) -> None:
        """Add a handle and all that came of it."""
        async for parent, handle in walk(root, self._store, intermediate=intermediate, lineage=True):
            family = _family(handle)
            await look(self._store, family)
            # A group's children are its members, and whoever ends a header is one of it: both are drawn with it.
            apart = parent is not None and not _members(parent) and parent not in family
            self._add_all(handle, _ends(parent) if apart else ())

    def _add(self, handle: Any, after: Sequence[str]) -> Sequence[str]:
        """Add a handle behind these; the tasks it ends with."""
        if members := _members(handle):
            return [end for member in members for end in self._add_all(member, after)]
        self._leaves.setdefault(handle.id, handle)
        if not self.graph.before.get(handle.id):
            self.graph.add(_node(handle), after)
        return [handle.id]

    def _add_all(self, handle: Any, after: Sequence[str]) -> Sequence[str]:
        for one in _lineage(handle):
            after = self._add(one, after)
        return after

    def knows(self, handle: Any) -> bool:
        """Whether all tasks of a handle are drawn."""
        return all(leaf.id in self.graph.nodes for leaf in handle.leaves())

    def above(self) -> list[tuple[Any, Any]]:
        """What sent the tasks that follow nothing, with these, as far as nobody has asked."""
        found = []
        for node in self.graph.roots():
            leaf = self._leaves[node.id]
            parent = _parent(leaf)
            if parent is not None and parent.id not in self._asked and parent.id not in self.graph.nodes:
                self._asked.add(parent.id)
                found.append((parent, leaf))
        return found

    def join(self, parent: Any, handle: Any) -> None:
        """What still follows nothing comes after what has sent it."""
        if parent is None:
            return
        for leaf in handle.leaves():
            if not self.graph.before[leaf.id]:
                self.graph.add(self.graph.nodes[leaf.id], [parent.id])


def _lineage(handle: Any) -> list[Any]:
    """A handle and what it says that it comes from, the first one first."""
    found = [handle]
    while (handle := handle.parent) is not None:
        found.append(handle)
    return found[::-1]


def _family(handle: Any) -> list[Any]:
    """The single tasks of a handle and of all it says that it comes from."""
    found: list[Any] = []
    for one in _lineage(handle):
        members = _members(one)
        found += [leaf for member in members for leaf in _family(member)] if members else [one]
    return found


def _ends(handle: Any) -> list[str]:
    """The tasks that a handle ends with."""
    members = _members(handle)
    return [end for member in members for end in _ends(member)] if members else [handle.id]


def _members(handle: Any) -> Sequence[Any]:
    """The members of a group's handle; none of that of a task."""
    members: Sequence[Any] = getattr(handle, "results", ())
    return members


def _node(leaf: Leaf) -> Node:
    extra = (leaf.seen.extra if leaf.seen else None) or {}
    name = str(extra.get("name") or "")
    note = "" if leaf.seen is None else saferepr(leaf.result, 60)
    return Node(leaf.id, f"{name} {leaf.id}".strip(), leaf.state, note, name)
