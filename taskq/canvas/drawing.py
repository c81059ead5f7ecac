"""The graph of a signature: what will be done when it is sent."""

from collections.abc import Sequence
from typing import Any

from taskq.canvas.graph import Graph, Node
from taskq.canvas.shapes import chain, chord, group
from taskq.canvas.signature import Signature, as_signatures, new_id


def signature_graph(signature: Signature[Any]) -> Graph:
    """What a signature will do when it is sent."""
    graph = Graph()
    _draw(graph, signature, ())
    return graph


def _draw(graph: Graph, signature: Signature[Any], after: Sequence[str], kind: str = "") -> Sequence[str]:
    """Draw a part behind others; the tasks it ends with."""
    if isinstance(signature, chain):
        ends = after
        for step in signature.tasks:
            ends, kind = _draw(graph, step, ends, kind), ""
    elif isinstance(signature, group):
        ends = [end for task in signature.tasks for end in _draw(graph, task, after, kind)]
    elif isinstance(signature, chord):
        ends = _draw(graph, signature.header, after, kind)
        if signature.body is not None:
            ends = _draw(graph, signature.body, ends)
    else:
        node_id = signature.options.get("task_id") or new_id()
        ends = [graph.add(Node(node_id, repr(signature), name=signature.task), after, kind)]
    for option, name in (("link", "callback"), ("link_error", "errback")):
        for link in as_signatures(signature.options.get(option)):
            _draw(graph, link, ends, name)
    return ends
