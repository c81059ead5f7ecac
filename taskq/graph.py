"""A workflow as a graph: tasks with their states, and what goes on to what; as text and in Graphviz's language."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Final

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
    """A task. `state` is "" where nobody has looked; `note` is a further line about it, such as its value."""

    id: str
    label: str
    state: str = ""
    note: str = ""

    @property
    def colour(self) -> str:
        """The fill colour of its state."""
        return COLOURS.get(self.state, RUNNING)


@dataclass(slots=True)
class Edge:
    """`kind` is what makes the second follow: "" for the line of work, "callback" or "errback"."""

    start: str
    end: str
    kind: str = ""


@dataclass(slots=True)
class Graph:
    """Tasks in the order they were met, and the edges between them."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)

    def add(self, node: Node, after: Iterable[str] = (), kind: str = "") -> str:
        """Add a task that follows others; its id."""
        self.nodes.setdefault(node.id, node)
        for start in after:
            if not any(edge.start == start and edge.end == node.id for edge in self.edges):
                self.edges.append(Edge(start, node.id, kind))
        return node.id

    def roots(self) -> list[Node]:
        """Tasks that follow no other."""
        followers = {edge.end for edge in self.edges}
        return [node for node in self.nodes.values() if node.id not in followers]

    def to_text(self) -> str:
        """A tree of lines; what follows several tasks is drawn under the last of them."""
        last = {edge.end: edge.start for edge in self.edges}
        below: dict[str, list[Edge]] = {}
        for edge in self.edges:
            if last[edge.end] == edge.start:
                below.setdefault(edge.start, []).append(edge)
        counts: dict[str, int] = {}
        for edge in self.edges:
            counts[edge.end] = counts.get(edge.end, 0) + 1
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
