"""A workflow as a graph: tasks with their states, and what goes on to what; as text and in Graphviz's language."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from taskq import states

#: Fill colours of the states, light enough for black text.
COLOURS: Final[Mapping[str, str]] = {
    states.SUCCESS: "#cdeac0",
    states.FAILURE: "#ffc2b5",
    states.REVOKED: "#e2d3f4",
    states.RETRY: "#ffe5a8",
    states.STARTED: "#c5e1f9",
    states.PENDING: "#eeeeee",
    "": "#ffffff",
}
#: Custom states are states of a task that runs.
RUNNING: Final = COLOURS[states.STARTED]


@dataclass(slots=True)
class Node:
    """A task. `state` is "" where nobody has looked; `note` is a further line about it, such as its value.

    `name` is that of the task, "" where it is not known.
    """

    id: str
    label: str
    state: str = ""
    note: str = ""
    name: str = ""

    @property
    def colour(self) -> str:
        """The fill colour of its state."""
        return COLOURS.get(self.state, RUNNING)


@dataclass(slots=True, frozen=True)
class Edge:
    """`kind` is what makes the second follow: "" for the line of work, "callback" or "errback"."""

    start: str
    end: str
    kind: str = ""


@dataclass(slots=True)
class Graph:
    """Tasks in the order they were met, and the edges between them."""

    nodes: dict[str, Node] = field(default_factory=dict)
    #: Of each task: what it follows, with the kind of the edge.
    before: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def edges(self) -> list[Edge]:
        """All edges, in the order of the tasks they lead to."""
        return [
            Edge(start, end, kind) for end, starts in self.before.items() for start, kind in starts.items()
        ]

    def add(self, node: Node, after: Iterable[str] = (), kind: str = "") -> str:
        """Add a task that follows others; its id."""
        self.nodes.setdefault(node.id, node)
        before = self.before.setdefault(node.id, {})
        for start in after:
            before.setdefault(start, kind)
        return node.id

    def roots(self) -> list[Node]:
        """Tasks that follow no other."""
        return [node for node in self.nodes.values() if not self.before.get(node.id)]

    def folded(self, most: int = 10) -> "Graph":
        """The same with one box for more than `most` alike: of one task and state, that follow and lead to the same."""
        after: dict[str, set[tuple[str, str]]] = {}
        for edge in self.edges:
            after.setdefault(edge.start, set()).add((edge.end, edge.kind))
        alike: dict[Any, list[str]] = {}
        for node in self.nodes.values():
            around = frozenset(self.before[node.id].items()), frozenset(after.get(node.id, ()))
            alike.setdefault((node.name or node.id, node.state, *around), []).append(node.id)
        instead = {one: ids[0] for ids in alike.values() if len(ids) > most for one in ids}
        counts = Counter(instead.values())
        graph = Graph()
        for node in self.nodes.values():
            if instead.get(node.id, node.id) != node.id:
                continue
            if node.id in counts:
                node = Node(node.id, f"{node.name} × {counts[node.id]}", node.state)  # noqa: PLW2901, RUF001 - a sign
            starts = self.before[node.id].items()
            graph.nodes[node.id] = node
            graph.before[node.id] = {instead.get(start, start): kind for start, kind in starts}
        return graph

    def to_text(self) -> str:
        """A tree of lines; what follows several tasks is drawn under the last of them."""
        below: dict[str, list[Edge]] = {}
        for end, starts in self.before.items():
            for start, kind in list(starts.items())[-1:]:
                below.setdefault(start, []).append(Edge(start, end, kind))
        counts = {end: len(starts) for end, starts in self.before.items()}
        lines: list[str] = []
        todo = [(node.id, "", "", "") for node in reversed(self.roots())]
        while todo:
            node_id, lead, branch, kind = todo.pop()
            lines.append(f"{lead}{branch}{_line(self.nodes[node_id], kind, counts.get(node_id, 0))}")
            inner = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
            edges = below.get(node_id, [])
            marks = ["├─ "] * (len(edges) - 1) + ["└─ "]
            todo += [
                (edge.end, inner, mark, edge.kind)
                for edge, mark in reversed(list(zip(edges, marks, strict=False)))
            ]
        return "\n".join(lines)

    def to_dot(self, file: IO[str] | None = None) -> str:
        """Graphviz's language; written to a file as well, if one is given."""
        lines = [
            "digraph workflow {",
            '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11];',
        ]
        for node in self.nodes.values():
            label = "\n".join(part for part in (node.label, node.state, node.note) if part)
            lines.append(f"  {_quoted(node.id)} [label={_quoted(label)}, fillcolor={_quoted(node.colour)}];")
        for edge in self.edges:
            style = f" [style=dashed, label={_quoted(edge.kind)}]" if edge.kind else ""
            lines.append(f"  {_quoted(edge.start)} -> {_quoted(edge.end)}{style};")
        text = "\n".join([*lines, "}", ""])
        if file is not None:
            file.write(text)
        return text

    def __str__(self) -> str:
        return self.to_text()


def _line(node: Node, kind: str, count: int) -> str:
    parts = [f"{kind}: {node.label}" if kind else node.label]
    if node.state:
        parts.append(node.state)
    if node.note:
        parts.append(node.note)
    if count > 1:
        parts.append(f"(after all {count})")
    return "  ".join(parts)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
