"""Graphs of signatures, as text, in Graphviz's language and as pictures."""

import io
from xml.etree import ElementTree as ET

from taskq import TaskQ, chain, chord, group
from taskq.canvas.drawing import signature_graph
from taskq.canvas.graph import Graph, Node
from taskq.canvas.picture import to_svg
from taskq.canvas.signature import Signature

app = TaskQ("graphs", broker="memory://graphs")
SVG = "{http://www.w3.org/2000/svg}"


def t(name: str) -> Signature[object]:
    return app.signature(name)


FLOW = chain(
    t("a").link(t("told")),
    group(t("b"), chain(t("c"), t("d"))),
    t("e").link_error(t("failed")),
    chord([t("f"), t("g")], t("h")),
)


def test_a_workflow_as_a_tree_of_lines() -> None:
    assert signature_graph(FLOW).to_text().splitlines() == [
        "a()",
        "├─ callback: told()",
        "├─ b()",
        "└─ c()",
        "   └─ d()",
        "      └─ e()  (after all 2)",
        "         ├─ errback: failed()",
        "         ├─ f()",
        "         └─ g()",
        "            └─ h()  (after all 2)",
    ]


def test_several_roots_and_states() -> None:
    graph = Graph()
    graph.add(Node("1", "one", "SUCCESS", "4"))
    graph.add(Node("2", "two", "OWN STATE"))
    graph.add(Node("2", "again"), ["1"])
    assert str(graph).splitlines() == ["one  SUCCESS  4", "└─ two  OWN STATE"]
    assert graph.nodes["2"].colour == Node("3", "", "STARTED").colour


def test_graphviz() -> None:
    graph = Graph()
    graph.add(Node("1", 'say "a\\b"', "FAILURE", "no"))
    graph.add(Node("2", "two"), ["1", "1"])
    graph.add(Node("3", "three"), ["1"], "errback")
    file = io.StringIO()
    text = graph.to_dot(file)
    assert file.getvalue() == text
    assert '  "1" [label="say \\"a\\\\b\\"\\nFAILURE\\nno", fillcolor="#ffc2b5"];' in text
    assert '  "1" -> "2";' in text
    assert '  "1" -> "3" [style=dashed, label="errback"];' in text


def test_a_chord_without_a_body_is_its_header() -> None:
    assert signature_graph(chord([t("a"), t("b")])).to_text() == "a()\nb()"


def test_many_that_are_alike_are_folded_into_one() -> None:
    add, body = app.signature("add", (1, 1)), t("body")
    odd = chain(add, t("more"))
    graph = signature_graph(chain(t("first"), group(*[add] * 11, odd), body)).folded()
    assert graph.to_text().splitlines() == [
        "first()",
        "├─ add \u00d7 11",
        "└─ add(1, 1)",
        "   └─ more()",
        "      └─ body()  (after all 2)",
    ]
    whole = signature_graph(chord([add] * 10, body))
    assert whole.folded().to_text() == whole.to_text()
    mixed = Graph()
    for i in range(30):
        mixed.add(Node(str(i), f"add {i}", "FAILURE" if i % 15 == 0 else "SUCCESS", name="add"))
    assert mixed.folded().to_text().splitlines() == [
        "add 0  FAILURE",
        "add \u00d7 28  SUCCESS",
        "add 15  FAILURE",
    ]


# == pictures


def boxes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """Of each task: left, top, right, bottom."""
    found = {}
    for drawn in ET.fromstring(svg).iter(f"{SVG}g"):
        rect, text = drawn.find(f"{SVG}rect"), drawn.find(f"{SVG}text")
        assert rect is not None
        assert text is not None
        x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        found[str(text.text)] = (x, y, x + width, y + height)
    return found


def test_what_follows_stands_to_the_right_and_nothing_overlaps() -> None:
    graph = signature_graph(FLOW)
    svg = to_svg(graph)
    placed = boxes(svg)
    assert len(placed) == len(graph.nodes)
    for edge in graph.edges:
        assert placed[graph.nodes[edge.start].label][2] < placed[graph.nodes[edge.end].label][0]
    areas = list(placed.values())
    for number, (left, top, right, bottom) in enumerate(areas):
        for other_left, other_top, other_right, other_bottom in areas[number + 1 :]:
            apart = right < other_left or other_right < left or bottom < other_top or other_bottom < top
            assert apart
    root = ET.fromstring(svg)
    assert max(right for _, _, right, _ in areas) < float(root.attrib["width"])
    assert max(bottom for *_, bottom in areas) < float(root.attrib["height"])


def test_edges_and_their_kinds_are_drawn() -> None:
    root = ET.fromstring(to_svg(signature_graph(FLOW)))
    paths = [path for path in root.iter(f"{SVG}path") if "marker-end" in path.attrib]
    assert len(paths) == len(signature_graph(FLOW).edges)
    assert sum("stroke-dasharray" in path.attrib for path in paths) == 2
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"callback", "errback"} <= set(texts)
    assert any("H" in path.attrib["d"] for path in paths)  # past d, from b to e


def test_long_and_dangerous_labels() -> None:
    graph = Graph()
    graph.add(Node("1", "<&>" + "x" * 100, "SUCCESS", '"quoted"'))
    svg = to_svg(graph)
    [title] = ET.fromstring(svg).iter(f"{SVG}title")
    assert str(title.text).startswith("<&>" + "x" * 100)
    [label] = boxes(svg)
    assert label.endswith("…")


def test_ids_are_shown_by_their_beginning_and_whole_in_the_tooltip() -> None:
    graph = Graph()
    graph.add(Node("093cc99e-9281-49a6-892e-c71fce5c6ee5", "add 093cc99e-9281-49a6-892e-c71fce5c6ee5"))
    svg = to_svg(graph)
    assert list(boxes(svg)) == ["add 093cc99e"]
    [title] = ET.fromstring(svg).iter(f"{SVG}title")
    assert "093cc99e-9281-49a6-892e-c71fce5c6ee5" in str(title.text)


def test_nothing_gives_an_empty_picture() -> None:
    assert boxes(to_svg(Graph())) == {}
    assert Graph().to_text() == ""
