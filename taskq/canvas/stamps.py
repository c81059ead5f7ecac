"""Stamps: marks on the messages of a workflow, by which tasks can be found and revoked (wire-format.md 5.8).

A stamp is an option of a signature that its option `stamped_headers` names.
"""

from collections.abc import Callable, Mapping
from typing import Any

Stamps = dict[str, Any]
NAMES = "stamped_headers"


class StampingVisitor:
    """Gives the stamps of a workflow, part by part: `signature.stamp(Visitor())`.

    Each method returns a mapping: all of it becomes stamps, or with a key `stamped_headers` only what that names;
    the rest goes on to the parts below without becoming a stamp. `headers` is what came from above. The part is a
    `Signature`, `group`, `chain` or `chord`, as the method's name says.
    """

    def on_signature(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:  # noqa: ARG002 - for subclasses
        """Stamps of a single task."""
        return None

    def on_group_start(self, group: Any, **headers: Any) -> Mapping[str, Any] | None:  # noqa: ARG002 - for subclasses
        """Stamps of all members of a group."""
        return None

    def on_group_end(self, group: Any, **headers: Any) -> None:
        """After the members."""

    def on_chain_start(self, chain: Any, **headers: Any) -> Mapping[str, Any] | None:  # noqa: ARG002 - for subclasses
        """Stamps of all steps of a chain."""
        return None

    def on_chain_end(self, chain: Any, **headers: Any) -> None:
        """After the steps."""

    def on_chord_header_start(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Stamps of the header of a chord; by default those of its group."""
        return self.on_group_start(sig.header, **headers)

    def on_chord_header_end(self, sig: Any, **headers: Any) -> None:
        """After the header; by default the end of its group."""
        self.on_group_end(sig.header, **headers)

    def on_chord_body(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:  # noqa: ARG002 - for subclasses
        """Stamps of the body of a chord."""
        return None

    def on_callback(self, callback: Any, **headers: Any) -> Mapping[str, Any] | None:  # noqa: ARG002 - for subclasses
        """Stamps of a `link`."""
        return None

    def on_errback(self, errback: Any, **headers: Any) -> Mapping[str, Any] | None:  # noqa: ARG002 - for subclasses
        """Stamps of a `link_error`."""
        return None


Method = Callable[..., Mapping[str, Any] | None]


class Stamping:
    """One stamping of a workflow, part by part from the outside in.

    Args:
        visitor: gives further stamps; None = there are only those of the call.
        twice: what becomes of a stamp that a part has already: of its value and the new one.
    """

    def __init__(self, visitor: StampingVisitor | None, twice: Callable[[Any, Any], Any]) -> None:
        self.visitor = visitor or StampingVisitor()
        self._twice = twice

    def asked(self, stamps: Stamps, method: Method, part: Any) -> Stamps:
        """What holds from this part on: what came from above and what the visitor gives here, which wins."""
        given = dict(method(part, **stamps) or {})
        names = {*stamps.get(NAMES, stamps), *given.get(NAMES, given)}
        return {**stamps, **given, NAMES: sorted(names)}

    def merged(self, stamps: Stamps, options: Mapping[str, Any]) -> Stamps:
        """The options of a task with its stamps: those it has already, and those it gets here."""
        new = {name: stamps[name] for name in stamps[NAMES] if name in stamps}
        for name in options.get(NAMES) or ():
            if name in new and name in options:
                new[name] = self._twice(options[name], new[name])
        names = sorted({*(options.get(NAMES) or ()), *new})
        return {**options, **new, NAMES: names}


def first(had: Any, new: Any) -> Any:  # noqa: ARG001 - one of those that Stamping takes
    """The value that is there stays."""
    return had


def last(had: Any, new: Any) -> Any:  # noqa: ARG001 - one of those that Stamping takes
    """The new value takes its place."""
    return new


def both(had: Any, new: Any) -> list[Any]:
    """A list of the two, without doubles."""
    values = [*_listed(had), *_listed(new)]
    return [value for index, value in enumerate(values) if value not in values[:index]]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set) else [value]
