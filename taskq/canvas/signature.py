"""A signature: one intended call, as an immutable value in Python and a plain mapping on the wire."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeAlias, TypeVar, Union, Unpack

from taskq.canvas.stamps import Method, Stamping, StampingVisitor, Stamps, both, last
from taskq.errors import DecodeError
from taskq.options import CallOptions
from taskq.registry import current
from taskq.seams.app import App
from taskq.wire.fields import aware, check_options
from taskq.wire.repr import saferepr
from taskq.wire.request import WireSignature

if TYPE_CHECKING:
    from taskq.results.handles import AsyncResult
    from taskq.sync import SyncCalls, SyncResult

R = TypeVar("R")
S = TypeVar("S")

#: What every place that takes a signature accepts: the value, or its wire form.
AnySignature: TypeAlias = Union["Signature[Any]", Mapping[str, Any]]

#: Options that a signature keeps when it is called with others (wire-format.md 5.2).
_KEPT = frozenset(("group_id", "stamped_headers"))
#: Options about the sending itself, which mean nothing to another process.
_LOCAL = frozenset(("publisher", "producer", "connection"))


class Signature(Generic[R]):
    """One intended call of a task: `add.s(2, 2)`. Never changes; what looks like a change returns a new one.

    Attributes:
        task: the task's name.
        args: positional arguments; those of a later call come before them.
        kwargs: keyword arguments; those of a later call win over them.
        options: as for `Task.apply_async`.
        immutable: ignore arguments of a later call (a parent's result).
    """

    __slots__ = ("app", "args", "immutable", "kwargs", "options", "task")

    subtask_type: ClassVar[str | None] = None

    def __init__(
        self,
        task: str,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        app: App | None = None,
    ) -> None:
        self.task = task
        self.args: tuple[Any, ...] = args if type(args) is tuple else as_args(args)
        self.kwargs: dict[str, Any] = as_kwargs(kwargs) if kwargs else {}
        self.options: dict[str, Any] = dict(options) if options else {}
        self.immutable = immutable
        self.app = app

    # --- building -------------------------------------------------------------------------------------------

    def clone(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Self:
        """A copy with these arguments and options merged in, by the rules of a later call.

        Raises:
            TypeError: an option is unknown.
        """
        check_options(options)
        return self.merged(args, kwargs, options)

    def set(self, *, immutable: bool | None = None, **options: Unpack[CallOptions]) -> Self:
        """A copy with these options: `add.s(2).set(queue="slow", countdown=10)`.

        Raises:
            TypeError: an option is unknown.
        """
        check_options(options)
        return self.replaced(
            options={**self.options, **options},
            immutable=self.immutable if immutable is None else immutable,
        )

    def link(self, *callbacks: AnySignature) -> Self:
        """A copy that calls these with its result when it has ended well; the signature itself stays as it is."""
        return self._extended("link", callbacks)

    def link_error(self, *errbacks: AnySignature) -> Self:
        """A copy that calls these when it has failed."""
        return self._extended("link_error", errbacks)

    def on_error(self, errback: AnySignature) -> Self:
        """The same as `link_error`, for the end of a line: `(a.s() | b.s()).on_error(handler.s())`."""
        return self.link_error(errback)

    def _extended(self, option: str, links: Sequence[AnySignature]) -> Self:
        known = as_signatures(self.options.get(option))
        added = [link for link in as_signatures(links) if link not in known]
        return self.replaced(options={**self.options, option: [*known, *added]}) if added else self

    def stamp(
        self,
        visitor: StampingVisitor | None = None,
        append_stamps: bool = False,  # noqa: FBT001, FBT002 - Celery's signature
        **stamps: Any,
    ) -> Self:
        """A copy whose messages carry these marks, those of its callbacks and errbacks included.

        Tasks can be found and revoked by them (wire-format.md 5.8).

        Args:
            visitor: gives further stamps, part by part.
            append_stamps: a stamp that is there already becomes a list of both; else the new one takes its place.
            stamps: the marks, by name.
        """
        stamping = Stamping(visitor, both if append_stamps else last)
        given = {**stamps, "stamped_headers": stamps.get("stamped_headers", sorted(stamps))}
        return self.stamped(stamping, given)

    def stamped(self, by: Stamping, stamps: Stamps) -> Self:
        """A copy with the stamps that one stamping gives it: a canvas hands them on to its parts."""
        linked = self.with_stamped_links(by, stamps)
        return linked.replaced(
            options=by.merged(by.asked(stamps, by.visitor.on_signature, self), linked.options)
        )

    def with_stamped_links(self, by: Stamping, stamps: Stamps) -> Self:
        """A copy whose callbacks and errbacks are stamped."""
        methods: dict[str, Method] = {"link": by.visitor.on_callback, "link_error": by.visitor.on_errback}
        changed = {
            option: [link.stamped(by, by.asked(stamps, method, link)) for link in as_signatures(links)]
            for option, method in methods.items()
            if (links := self.options.get(option))
        }
        return self.replaced(options={**self.options, **changed}) if changed else self

    def merged(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Self:
        """wire-format.md 5.2: new arguments come first, options in `_KEPT` stay."""
        if not (args or kwargs or options):
            return self
        merged = self.options
        if options:
            kept = {key: value for key, value in merged.items() if key in _KEPT}
            merged = {**merged, **options, **kept}
        if self.immutable:
            return self.replaced(options=merged)
        return self.replaced(
            args=(*as_args(args), *self.args) if args else self.args,
            kwargs={**self.kwargs, **as_kwargs(kwargs)} if kwargs else self.kwargs,
            options=merged,
        )

    def replaced(self, **fields: Any) -> Self:
        """A copy with other values in some slots; nothing is validated again."""
        new = object.__new__(type(self))
        new.task, new.args, new.kwargs, new.options = self.task, self.args, self.kwargs, self.options
        new.immutable, new.app = self.immutable, self.app
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    # --- the wire form --------------------------------------------------------------------------------------

    def to_dict(self) -> WireSignature:
        """The mapping Celery uses for a signature (wire-format.md 5.1)."""
        return {
            "task": self.task,
            "args": list(self.args),
            "kwargs": self.wire_kwargs(),
            "options": {
                key: _wire_option(key, value) for key, value in self.options.items() if key not in _LOCAL
            },
            "subtask_type": self.subtask_type,
            "immutable": self.immutable,
        }

    def wire_kwargs(self) -> dict[str, Any]:
        """What `kwargs` is on the wire: a canvas keeps its members there."""
        return self.kwargs

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], app: App | None) -> "Signature[Any]":
        """The value of one wire mapping of this kind."""
        made = cls(data["task"], data.get("args") or (), data.get("kwargs"), app=app)
        return made.with_wire_fields(data)

    def with_wire_fields(self, data: Mapping[str, Any]) -> Self:
        """A copy with the options and the mark that every kind has on the wire; a null option is not given."""
        options = {key: value for key, value in (data.get("options") or {}).items() if value is not None}
        return self.replaced(options=options, immutable=bool(data.get("immutable")))

    # --- calling --------------------------------------------------------------------------------------------

    async def delay(self, *args: Any, **kwargs: Any) -> "AsyncResult[R]":
        """Send it, with these arguments before and over its own."""
        result: AsyncResult[R] = await self._sender().send(self.merged(args, kwargs, {}))
        return result

    async def apply_async(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> "AsyncResult[R]":
        """Send it, with these arguments and options merged in; see `Task.apply_async`."""
        check_options(options)
        result: AsyncResult[R] = await self._sender().send(self.merged(args, kwargs, options))
        return result

    @property
    def sync(self) -> "SyncCalls[..., SyncResult[R]]":
        """The calling verbs, blocking, for code without an event loop: `signature.sync.delay().get()`."""
        calls: SyncCalls[..., SyncResult[R]] = self._sender().blocking(self)
        return calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task's function here and now, as if it were no task; a canvas is sent."""
        called = self.merged(args, kwargs, {})
        return self._sender().require_task(self.task)(*called.args, **called.kwargs)

    def apply(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Run it here and now, in this process; see `Task.apply`."""
        check_options(options)
        return self._sender().apply(self.merged(args, kwargs, options))

    def __invert__(self) -> R:
        """Send it and wait for its value, at a prompt without an event loop: `~add.s(2, 2)`."""
        return self.sync.apply_async().get()

    def _sender(self) -> App:
        return self.app or current()

    def __or__(self, other: "Signature[S]") -> "Signature[S]":
        """This, then the other with its result: a chain, or a chord if this is a group."""
        made: Any = KINDS["chain"]({"task": "celery.chain", "kwargs": {"tasks": [self, other]}}, self.app)
        steps = made.tasks
        return steps[0] if len(steps) == 1 else made  # type: ignore[no-any-return]  # a canvas, read by its kind

    # --- value ----------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # arguments may be unhashable

    def __repr__(self) -> str:
        parts = [repr(arg) for arg in self.args] + [f"{key}={value!r}" for key, value in self.kwargs.items()]
        return f"{self.task}({', '.join(parts)})"


#: `subtask_type` or task name -> the class that reads it. Canvases add themselves (taskq/canvas/shapes.py).
KINDS: dict[str | None, Callable[[Mapping[str, Any], App | None], Signature[Any]]] = {}


def as_signature(value: "AnySignature", app: App | None = None) -> Signature[Any]:
    """A signature from a signature or its wire form, belonging to `app` unless it already has one.

    Raises:
        DecodeError: it is neither.
    """
    if isinstance(value, Signature):
        return value if app is None or value.app is not None else value.replaced(app=app)
    data: Any = value  # from the wire: anything may come
    if not _is_wire_form(data):
        raise DecodeError(f"not a signature: {value!r:.200}")
    read = KINDS.get(data.get("subtask_type"), Signature.from_wire)
    return read(data, app)


def _is_wire_form(data: Any) -> bool:
    return (
        isinstance(data, Mapping)
        and isinstance(data.get("task"), str)
        and isinstance(data.get("args"), list | tuple | None)
        and isinstance(data.get("kwargs"), Mapping | None)
        and isinstance(data.get("options"), Mapping | None)
    )


def as_signatures(
    value: "AnySignature | Sequence[AnySignature] | None", app: App | None = None
) -> list[Signature[Any]]:
    """The signatures of a `link` or `link_error` option: one, several, or none."""
    if value is None:
        return []
    if isinstance(value, Signature | Mapping):
        return [as_signature(value, app)]
    return [as_signature(item, app) for item in value]


def _wire_option(key: str, value: Any) -> Any:
    """As Celery writes it, so that any serializer can: times as ISO 8601 text, spans as seconds (from when it is sent)."""
    if isinstance(value, datetime):
        return aware(value).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if key in {"link", "link_error"}:
        return [signature.to_dict() for signature in as_signatures(value)]
    if key == "chord" and isinstance(value, Signature):
        return value.to_dict()
    return value


def as_args(args: Any) -> tuple[Any, ...]:
    """Positional arguments: a list, a tuple or the like; None stands for none, as in Celery.

    Raises:
        TypeError: it is something else, a text (a forgotten comma) or a mapping among them.
    """
    if args is None:
        return ()
    if not isinstance(args, Sequence) or isinstance(args, str | bytes | bytearray | memoryview):
        raise TypeError(
            f"args is {saferepr(args, 60)}: a list or tuple of arguments is needed, such as ({saferepr(args, 60)},)"
        )
    return tuple(args)


def as_kwargs(kwargs: Any) -> dict[str, Any]:
    """Keyword arguments by their names.

    Raises:
        TypeError: it is no mapping, or a key is no text.
    """
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise TypeError(f"kwargs is {saferepr(kwargs, 60)}: a mapping of names to arguments is needed")
    return dict(kwargs)


def new_id() -> str:
    """A task id: a random UUID (version 4) as text, at a third of the price of `str(uuid4())`."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"
