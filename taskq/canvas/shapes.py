"""Canvases: signatures made of signatures. Pure data; taskq/canvas/lowering.py turns them into what is sent."""

import itertools
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, Unpack, cast, overload

from taskq.canvas.signature import KINDS, AnySignature, Signature, as_signature, as_signatures
from taskq.canvas.stamps import Stamping, Stamps
from taskq.errors import ConfigError, DecodeError
from taskq.options import CallOptions
from taskq.seams.app import App
from taskq.wire.fields import check_options

if TYPE_CHECKING:
    from taskq.results.handles import AsyncResult, GroupResult
    from taskq.sync import SyncCalls, SyncGroupResult

R = TypeVar("R")
S = TypeVar("S")

#: Options about where a canvas returns to: those of the part that ends it.
END = ("group_id", "group_index", "chord", "chain")
#: Options of a canvas that do not go to its members as they are.
_NOT_SHARED = frozenset(("task_id", "link", "link_error"))
_NOT_OF_FIRST = _NOT_SHARED.union(END)


class group(Signature[list[R]]):  # noqa: N801 - Celery's name
    """Signatures that run side by side: `await group(add.s(i, i) for i in range(4)).apply_async()`.

    Its result is a `GroupResult`; awaiting that gives the list of values in order. Arguments and options of a
    call are given to every member. Groups inside it become part of it.

    An async generator of signatures is sent as it comes, a batch at a time; such a group can only be sent by
    itself or as the header of a chord that is (`chord(members(), body)`), and needs an `app`.
    """

    __slots__ = ("source", "tasks")

    subtask_type: ClassVar[str | None] = "group"

    def __init__(
        self,
        *tasks: "Signature[R] | Mapping[str, Any] | Iterable[Signature[R] | Mapping[str, Any]] | AsyncIterable[Signature[R]]",
        app: App | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        check_options(options)
        super().__init__("celery.group", options=options, app=app)
        self.source: AsyncIterable[Signature[R]] | None = None
        if len(tasks) == 1 and isinstance(tasks[0], AsyncIterable):
            self.source, tasks = tasks[0], ()
        self.tasks: tuple[Signature[R], ...] = tuple(_flattened(_members(tasks), app))
        self.app = app or _first_app(self.tasks)

    def __call__(self, *args: Any, **kwargs: Any) -> "Coroutine[Any, Any, GroupResult[R]]":
        """The same as `delay`."""
        return self.delay(*args, **kwargs)

    @property
    def sync(self) -> "SyncCalls[..., SyncGroupResult[R]]":  # type: ignore[override]  # a group's handles
        """The calling verbs, blocking: `group.sync.delay().get()`."""
        calls: SyncCalls[..., SyncGroupResult[R]] = self._sender().blocking(self)
        return calls

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """A copy whose members have countdowns of `start`, `start + step`, ... seconds, below `stop` if given.

        When the countdowns are used up they begin again at `start`.
        """
        period = None if stop is None else max(1, math.ceil((stop - start) / step))
        delays = (start + step * (index % period if period else index) for index in itertools.count())
        return self.each(lambda task: task.set(countdown=next(delays)))

    def wire_kwargs(self) -> dict[str, Any]:
        """The members, as Celery keeps them. Raises ConfigError as `known`."""
        return {"tasks": [task.to_dict() for task in known(self)]}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], app: App | None) -> "group[Any]":
        """The value of a wire mapping with `subtask_type` group."""
        made: group[Any] = cls(_wire_members(data, "tasks"), app=app)
        return made.with_wire_fields(data)

    def replaced(self, **fields: Any) -> Self:
        """A copy with other values in some slots."""
        return super().replaced(**{"tasks": self.tasks, "source": self.source, **fields})

    def merged(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Self:
        """Arguments go to the members at once, so that each keeps its own immutability."""
        made = self.each(lambda task: task.merged(args, kwargs, {})) if args or kwargs else self
        return made.replaced(options={**self.options, **options})

    def each(self, change: Callable[[Signature[R]], Signature[R]]) -> Self:
        """A copy with every member changed, also those that are yet to come."""
        source = None if self.source is None else _changed(self.source, change)
        return self.replaced(tasks=tuple(map(change, self.tasks)), source=source)

    async def delay(self, *args: Any, **kwargs: Any) -> "GroupResult[R]":  # type: ignore[override]  # a group's handle
        """Send all members."""
        return cast("GroupResult[R]", await super().delay(*args, **kwargs))

    async def apply_async(  # type: ignore[override]  # a group's handle
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> "GroupResult[R]":
        """Send all members, each with these arguments and options merged in."""
        return cast("GroupResult[R]", await super().apply_async(args, kwargs, **options))

    def stamped(self, by: Stamping, stamps: Stamps) -> Self:
        """A copy whose members are stamped."""
        asked = by.asked(stamps, by.visitor.on_group_start, self)
        stamped = self.with_stamped_links(by, asked).each(lambda task: task.stamped(by, asked))
        by.visitor.on_group_end(stamped, **asked)
        return stamped

    def __or__(self, other: Signature[S]) -> Signature[S]:
        """A chord with this as its header, also of one member or none: what follows gets a list."""
        return chord(self, app=self.app) | other

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.tasks))})"


class chain(Signature[R]):  # noqa: N801 - Celery's name
    """Signatures that run one after the other, each with the result of the one before: `a.s(1) | b.s() | c.s()`.

    The handle of its result is that of the last step, `parent` leads back. What follows a group becomes a
    chord with that group as header (wire-format.md 5.6), what follows a chord goes on from its body.
    """

    __slots__ = ("tasks",)

    subtask_type: ClassVar[str | None] = "chain"

    # The result of a chain is that of its last step, as far as a type checker can tell which one that is.
    @overload
    def __init__(self, a: "Signature[R]", /) -> None: ...
    @overload
    def __init__(self, a: AnySignature, b: "Signature[R]", /) -> None: ...
    @overload
    def __init__(self, a: AnySignature, b: AnySignature, c: "Signature[R]", /) -> None: ...
    @overload
    def __init__(
        self: "chain[Any]",
        *tasks: "AnySignature | Iterable[AnySignature]",
        app: App | None = None,
        **options: Unpack[CallOptions],
    ) -> None: ...
    def __init__(
        self,
        *tasks: "AnySignature | Iterable[AnySignature]",
        app: App | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        check_options(options)
        super().__init__("celery.chain", options=options, app=app)
        self.tasks: tuple[Signature[Any], ...] = tuple(_steps(_members(tasks), app))
        self.app = app or _first_app(self.tasks)

    def __call__(self, *args: Any, **kwargs: Any) -> "Coroutine[Any, Any, AsyncResult[R]]":
        """The same as `delay`."""
        return self.delay(*args, **kwargs)

    def wire_kwargs(self) -> dict[str, Any]:
        """The steps in running order, as Celery keeps them."""
        return {"tasks": [task.to_dict() for task in self.tasks]}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], app: App | None) -> "chain[Any]":
        """The value of a wire mapping with `subtask_type` chain."""
        made: chain[Any] = cls(_wire_members(data, "tasks"), app=app)
        return made.with_wire_fields(data)

    def replaced(self, **fields: Any) -> Self:
        """A copy with other values in some slots."""
        return super().replaced(**{"tasks": self.tasks, **fields})

    def merged(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Self:
        """Arguments are those of the first step."""
        tasks = self.tasks
        if tasks and (args or kwargs):
            tasks = (tasks[0].merged(args, kwargs, {}), *tasks[1:])
        return self.replaced(tasks=tasks, options={**self.options, **options})

    def stamped(self, by: Stamping, stamps: Stamps) -> Self:
        """A copy whose steps are stamped."""
        asked = by.asked(stamps, by.visitor.on_chain_start, self)
        tasks = tuple(task.stamped(by, asked) for task in self.tasks)
        stamped = self.with_stamped_links(by, asked).replaced(tasks=tasks)
        by.visitor.on_chain_end(stamped, **asked)
        return stamped

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks))


class chord(Signature[R]):  # noqa: N801 - Celery's name
    """A group and what is called with the list of its results: `chord([add.s(i, i) for i in range(4)], total.s())`.

    `chord(header)(body)` sends it, as in Celery; so does `await chord(header, body).apply_async()`. The handle of
    its result is that of the body. A failed member fails the chord at once with ChordError.
    """

    __slots__ = ("body", "header")

    subtask_type: ClassVar[str | None] = "chord"

    def __init__(
        self,
        header: "Signature[Any] | Iterable[AnySignature] | AsyncIterable[Signature[Any]]",
        body: "Signature[R] | Mapping[str, Any] | None" = None,
        *,
        app: App | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        check_options(options)
        super().__init__("celery.chord", options=options, app=app)
        self.header: group[Any] = header if isinstance(header, group) else group(header, app=app)
        self.body: Signature[R] | None = None if body is None else as_signature(body, app)
        self.app = app or self.header.app or (self.body.app if self.body is not None else None)

    @overload
    def __call__(self) -> "Coroutine[Any, Any, AsyncResult[R]]": ...
    @overload
    def __call__(self, body: "Signature[S]") -> "Coroutine[Any, Any, AsyncResult[S]]": ...
    def __call__(self, body: "Signature[Any] | None" = None) -> "Coroutine[Any, Any, AsyncResult[Any]]":
        """Send it, with this body if one is given: `await chord(header)(body)`."""
        sent: chord[Any] = self if body is None else self.replaced(body=body)
        return sent.apply_async()

    def wire_kwargs(self) -> dict[str, Any]:
        """Header and body, as Celery keeps them."""
        body = None if self.body is None else self.body.to_dict()
        return {"kwargs": {}, "header": self.header.to_dict(), "body": body}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], app: App | None) -> "chord[Any]":
        """The value of a wire mapping with `subtask_type` chord; its header is a list or a group."""
        kwargs = data.get("kwargs") or {}
        header = kwargs.get("header")
        if isinstance(header, Mapping):
            members: Any = as_signature(header, app)
        else:
            members = _wire_members(data, "header")
        body = kwargs.get("body")
        if not isinstance(body, Mapping):
            raise DecodeError(f"a chord without a body: {data!r:.200}")
        made: chord[Any] = cls(members, body, app=app)
        return made.with_wire_fields(data)

    def replaced(self, **fields: Any) -> Self:
        """A copy with other values in some slots."""
        return super().replaced(**{"header": self.header, "body": self.body, **fields})

    def merged(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Self:
        """Arguments go to the members of the header."""
        return self.replaced(header=self.header.merged(args, kwargs, {}), options={**self.options, **options})

    def settled(self) -> Self:
        """A copy whose callbacks, errbacks and id are those of its body, as they mean."""
        if self.body is None:
            return self
        options = {key: value for key, value in self.options.items() if key not in _NOT_SHARED}
        links, errbacks = (as_signatures(self.options.get(key)) for key in ("link", "link_error"))
        body = self.body.link(*links).link_error(*errbacks)
        task_id = self.options.get("task_id")
        if task_id and not body.options.get("task_id"):
            body = body.replaced(options={**body.options, "task_id": task_id})
        return self.replaced(body=body, options=options)

    def stamped(self, by: Stamping, stamps: Stamps) -> Self:
        """A copy whose header and body are stamped."""
        asked = by.asked(stamps, by.visitor.on_chord_header_start, self)
        header = self.header.each(lambda task: task.stamped(by, asked))
        stamped = self.with_stamped_links(by, asked).replaced(header=header)
        by.visitor.on_chord_header_end(stamped, **asked)
        if stamped.body is None:
            return stamped
        below = by.asked(asked, by.visitor.on_chord_body, stamped)
        return stamped.replaced(body=stamped.body.stamped(by, below))

    def __repr__(self) -> str:
        return f"chord({self.header!r}, {self.body!r})"


def _members(tasks: Sequence[Any]) -> Iterable[AnySignature]:
    """What a canvas was given: signatures, or one iterable of them."""
    if len(tasks) == 1 and not isinstance(tasks[0], Signature | Mapping):
        return cast("Iterable[AnySignature]", tasks[0])
    return tasks


def _flattened(members: Iterable[AnySignature], app: App | None) -> Iterable[Signature[Any]]:
    for member in members:
        signature = as_signature(member, app)
        if isinstance(signature, group):
            yield from dissolved(signature)
        elif not isinstance(signature, chain) or signature.tasks:
            yield signature


async def _changed(
    source: AsyncIterable[Signature[R]], change: Callable[[Signature[R]], Signature[R]]
) -> AsyncIterator[Signature[R]]:
    async for task in source:
        yield change(task)


def known(members: "group[Any]") -> Sequence[Signature[Any]]:
    """The members of a group.

    Raises:
        ConfigError: they come from an async generator: nobody knows them yet.
    """
    if members.source is not None:
        raise ConfigError(
            "a group from an async generator can only be sent by itself or as the header of a chord"
        )
    return members.tasks


def dissolved(inner: "group[Any]") -> Iterable[Signature[Any]]:
    """The members of a group that becomes part of another, each with what the group's options mean for it."""
    options = inner.options
    shared = {key: value for key, value in options.items() if key not in _NOT_SHARED}
    links = [link.set(immutable=True) for link in as_signatures(options.get("link"))]
    errbacks = as_signatures(options.get("link_error"))
    for index, task in enumerate(known(inner)):
        member = task.replaced(options={**shared, **task.options}) if shared else task
        if (
            links and task.options.get("group_index", index) == 0
        ):  # wire-format.md 5.5: a group's link goes to its first member
            member = member.link(*links)
        yield member.link_error(*errbacks) if errbacks else member


def _steps(members: Iterable[AnySignature], app: App | None) -> list[Signature[Any]]:
    """The steps of a chain: chains inside are dissolved, groups and chords take in what follows them."""
    steps: list[Signature[Any]] = []
    for member in members:
        signature = as_signature(member, app)
        if not isinstance(signature, chain):
            _append(steps, signature)
        elif steps:
            for step in undone(signature):
                _append(steps, step)
        else:  # in order among themselves: a long line of pipes costs little
            steps += undone(signature)
    return steps


def undone(inner: "chain[Any]") -> Sequence[Signature[Any]]:
    """The steps of a chain that becomes part of another, with what its options mean for them."""
    steps = list(inner.tasks)
    if not steps or not inner.options:
        return steps
    errbacks = as_signatures(inner.options.get("link_error"))
    if errbacks:
        steps = [step.link_error(*errbacks) for step in steps]
    steps[-1] = at_end(steps[-1], inner.options)
    shared = {key: value for key, value in inner.options.items() if key not in _NOT_OF_FIRST}
    if shared:
        steps[0] = steps[0].replaced(options={**shared, **steps[0].options})
    return steps


def at_end(last: Signature[Any], options: Mapping[str, Any]) -> Signature[Any]:
    """The part that ends a canvas, with what the canvas's options say about its end."""
    if isinstance(last, chain) and last.tasks:
        *before, end = last.tasks
        tasks = (*before, at_end(end, {**options, "chain": None}))
        last, options = last.replaced(tasks=tasks), {"chain": options.get("chain")}
    moved = {key: options[key] for key in END if options.get(key) is not None}
    ended = last.replaced(options={**last.options, **moved}) if moved else last
    links = as_signatures(options.get("link"))
    return ended.link(*links) if links else ended


def _append(steps: list[Signature[Any]], step: Signature[Any]) -> None:
    """wire-format.md 5.6. A chord takes in tasks that follow it, but no further groups: so long lines stay flat."""
    last = steps[-1] if steps else None
    if isinstance(step, group) and not step.tasks and step.source is None:
        return
    if isinstance(step, group) and len(step) == 1:
        [step] = dissolved(step)
    if isinstance(last, group):
        steps[-1] = chord(last, step, app=last.app)
    elif isinstance(last, chord) and last.body is None:
        steps[-1] = last.replaced(body=step)
    elif isinstance(last, chord) and (ends_in_group(last) or not isinstance(step, group | chord)):
        settled = last.settled()
        steps[-1] = settled.replaced(body=joined(settled.body, step))
    else:
        steps.append(step)


def joined(*steps: Any) -> Signature[Any]:
    """These one after the other: a chain, or what it comes to."""
    made: chain[Any] = chain(*steps)
    return made.tasks[0] if len(made.tasks) == 1 else made


def ends_in_group(signature: Signature[Any]) -> bool:
    """Whether its result is that of a group: several tasks return at its end."""
    if isinstance(signature, chain) and signature.tasks:
        return ends_in_group(signature.tasks[-1])
    if isinstance(signature, chord) and signature.body is not None:
        return ends_in_group(signature.body)
    return isinstance(signature, group)


def _first_app(tasks: Sequence[Signature[Any]]) -> App | None:
    return next((task.app for task in tasks if task.app is not None), None)


def _wire_members(data: Mapping[str, Any], key: str) -> list[Any]:
    members = (data.get("kwargs") or {}).get(key)
    if not isinstance(members, list | tuple):
        raise DecodeError(f"a {data.get('subtask_type')} without {key}: {data!r:.200}")
    return list(members)


# --- made by a word ------------------------------------------------------------------------------------------


class chunks(group[list[R]]):  # noqa: N801 - Celery's name
    """A group of `starmap` tasks: each calls a task for a part of the items; its values are lists.

    Args:
        task: the task, without arguments.
        it: the items, each the positional arguments of a call.
        n: items of one part.
    """

    __slots__ = ()

    def __init__(self, task: Signature[R], it: Iterable[Sequence[Any]], n: int) -> None:
        items = [list(item) for item in it]
        parts = (xstarmap(task, items[start : start + n]) for start in range(0, len(items), n))
        super().__init__(parts, app=task.app)

    def group(self) -> Self:
        """The group itself: in taskq, chunks are one from the start."""
        return self


def xmap(task: Signature[R], it: Iterable[Any]) -> Signature[list[R]]:
    """One task that calls another for each item, in one process: the list of results."""
    return _over("celery.map", task, list(it))


def xstarmap(task: Signature[R], it: Iterable[Sequence[Any]]) -> Signature[list[R]]:
    """The same with each item as the positional arguments of a call."""
    return _over("celery.starmap", task, [list(item) for item in it])


def _over(name: str, task: Signature[R], items: list[Any]) -> Signature[list[R]]:
    return Signature(name, (), {"task": task.to_dict(), "it": items}, app=task.app, immutable=True)


def signature(
    task: "str | AnySignature",
    args: Sequence[Any] | None = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    immutable: bool = False,
    app: App | None = None,
    **options: Unpack[CallOptions],
) -> Signature[Any]:
    """A signature by the task's name (`signature("tasks.add", args=(2, 2), countdown=10)`), or from its wire form.

    Args:
        task: the name; or a signature or its wire form, which is given back as a signature.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        immutable: ignore the result of a parent.
        app: sends it; default the current app.
        options: as for `Task.apply_async`.

    Raises:
        TypeError: an option is unknown.
        DecodeError: a mapping is no signature.
    """
    if not isinstance(task, str):
        return as_signature(task, app)
    check_options(options)
    return Signature(task, args, kwargs, options, immutable=immutable, app=app)


def maybe_signature(value: "AnySignature | None", app: App | None = None) -> Signature[Any] | None:
    """The signature of a wire form; None stays None."""
    return None if value is None else as_signature(value, app)


KINDS["group"] = group.from_wire
KINDS["chain"] = chain.from_wire
KINDS["chord"] = chord.from_wire
