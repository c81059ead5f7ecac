"""A graph as an SVG picture, from left to right: no program and no library is needed to draw it."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Final, NamedTuple

from taskq.canvas.graph import Edge, Graph, Node

#: Pixels.
LINE: Final = 16
PADDING: Final = 10
BETWEEN_BOXES: Final = 14
BETWEEN_COLUMNS: Final = 56
CHARACTER: Final = 7.2
#: The most characters of one line; the whole of it is in the box's tooltip.
LONGEST: Final = 42
#: The length of ids of which a picture shows the beginning only; the tooltip has the rest.
UUID: Final = 36

HEAD: Final = """<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" \
viewBox="0 0 {width:.0f} {height:.0f}" font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="12">
<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">\
<path d="M0 0L10 5L0 10z" fill="#555555"/></marker></defs>
<rect width="100%" height="100%" fill="#ffffff"/>
"""


class Box(NamedTuple):
    """A task in the picture, or where an edge passes a column: then there is no `node`."""

    node: Node | None
    lines: Sequence[str] = ()
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = LINE

    @property
    def middle(self) -> float:
        """Where edges come and go."""
        return self.y + self.height / 2


#: Boxes of a column, by the id of the task or the name of the passage.
Column = dict[str, Box]
#: An edge and what it passes, with its ends.
Route = tuple[Edge, Sequence[str]]


def to_svg(graph: Graph) -> str:
    """The picture of a graph as an SVG document."""
    columns, routes = _columns(graph)
    boxes = _placed(_ordered(columns, routes))
    width = max((box.x + box.width for box in boxes.values()), default=0) + PADDING
    height = max((box.y + box.height for box in boxes.values()), default=0) + PADDING
    parts = [_path(edge, [boxes[name] for name in names]) for edge, names in routes]
    parts += [_drawn(box, box.node) for box in boxes.values() if box.node is not None]
    return HEAD.format(width=width, height=height) + "\n".join([*parts, "</svg>", ""])


def _columns(graph: Graph) -> tuple[list[Column], list[Route]]:
    """The tasks by the longest way to them; an edge past a column has a place in it."""
    depth = _depths(graph)
    columns: list[Column] = [{} for _ in range(max(depth.values(), default=-1) + 1)]
    for node in graph.nodes.values():
        columns[depth[node.id]][node.id] = _box(node)
    routes: list[Route] = []
    for number, edge in enumerate(graph.edges):
        passed = [f"{number} {place}" for place in range(depth[edge.start] + 1, depth[edge.end])]
        for place, name in enumerate(passed, depth[edge.start] + 1):
            columns[place][name] = Box(None)
        routes.append((edge, [edge.start, *passed, edge.end]))
    return columns, routes


def _depths(graph: Graph) -> dict[str, int]:
    before: dict[str, list[str]] = {node_id: [] for node_id in graph.nodes}
    for edge in graph.edges:
        before[edge.end].append(edge.start)
    depth = dict.fromkeys(graph.nodes, 0)
    for _ in graph.nodes:  # a way is no longer than there are tasks
        deeper = {n: max((depth[start] + 1 for start in starts), default=0) for n, starts in before.items()}
        if deeper == depth:
            break
        depth = deeper
    return depth


def _ordered(columns: Sequence[Column], routes: Sequence[Route]) -> list[Column]:
    """In each column the order of what its boxes follow."""
    before: dict[str, list[str]] = {}
    for _, names in routes:
        for start, end in pairwise(names):
            before.setdefault(end, []).append(start)
    height: dict[str, float] = {}
    ordered: list[Column] = []
    for column in columns:
        names = sorted(column, key=lambda name: _mean([height.get(one, 0.0) for one in before.get(name, ())]))
        height.update((name, place - len(names) / 2) for place, name in enumerate(names))
        ordered.append({name: column[name] for name in names})
    return ordered


def _mean(places: Sequence[float]) -> float:
    return sum(places) / len(places) if places else 0.0


def _placed(columns: Sequence[Column]) -> Column:
    """Boxes under each other in their column, the columns in the middle of the picture."""
    heights = [sum(box.height + BETWEEN_BOXES for box in column.values()) for column in columns]
    x, boxes = float(PADDING), {}
    for column, height in zip(columns, heights, strict=True):
        width = max(box.width for box in column.values())
        y = PADDING + (max(heights) - height) / 2
        for name, box in column.items():
            boxes[name] = box._replace(x=x, y=y, width=box.width if box.node else width)
            y += box.height + BETWEEN_BOXES
        x += width + BETWEEN_COLUMNS
    return boxes


def _box(node: Node) -> Box:
    label = node.label.replace(node.id, node.id[:8]) if len(node.id) == UUID else node.label
    lines = [_short(part) for part in (label, node.state, node.note) if part]
    width = max(map(len, lines)) * CHARACTER + 2 * PADDING
    return Box(node, lines, width=width, height=len(lines) * LINE + PADDING)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _drawn(box: Box, node: Node) -> str:
    whole = escape("\n".join(part for part in (node.label, node.id, node.note) if part), quote=False)
    texts = "".join(
        f'<text x="{box.x + PADDING:.0f}" y="{box.y + (number + 1) * LINE:.0f}">{escape(line, quote=False)}</text>'
        for number, line in enumerate(box.lines)
    )
    return (
        f"<g><title>{whole}</title>"
        f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="6"'
        f' fill="{node.colour}" stroke="#777777"/>{texts}</g>'
    )


def _path(edge: Edge, boxes: Sequence[Box]) -> str:
    """From the first box past those between to the last one."""
    steps = [f"M{boxes[0].x + boxes[0].width:.0f} {boxes[0].middle:.0f}"]
    for start, end in pairwise(boxes):
        x1, x2 = start.x + start.width, end.x
        bend = (x2 - x1) / 2
        curve = (x1 + bend, start.middle, x2 - bend, end.middle, x2, end.middle)
        steps.append("C" + " ".join(f"{number:.0f}" for number in curve))
        if end is not boxes[-1]:
            steps.append(f"H{end.x + end.width:.0f}")
    colour = "#c0392b" if edge.kind == "errback" else "#555555"
    dashes = ' stroke-dasharray="5 3"' if edge.kind else ""
    return (
        f'<path d="{"".join(steps)}" fill="none" stroke="{colour}"{dashes} marker-end="url(#arrow)"/>'
        + _label(edge.kind, boxes[0], boxes[1], colour)
    )


def _label(kind: str, start: Box, end: Box, colour: str) -> str:
    if not kind:
        return ""
    x, y = (start.x + start.width + end.x) / 2, (start.middle + end.middle) / 2 - 4
    halo = 'stroke="#ffffff" stroke-width="3" paint-order="stroke"'
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="10" fill="{colour}" {halo} text-anchor="middle">{kind}</text>'
