"""Canvases: signatures made of signatures. Pure data; taskq/lowering.py turns them into what is sent."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar, Unpack, cast

from taskq.errors import DecodeError
from taskq.options import CallOptions, check_options
from taskq.results import GroupResult
from taskq.signature import KINDS, AnySignature, Sender, Signature, as_signature

R = TypeVar("R")


class group(Signature[list[R]]):  # noqa: N801 - Celery's name
    """Signatures that run side by side: `await group(add.s(i, i) for i in range(4)).apply_async()`.

    Its result is a `GroupResult`; awaiting that gives the list of values in order. Arguments and options of a
    call are given to every member. Groups inside it become part of it.
    """

    __slots__ = ("tasks",)

    subtask_type: ClassVar[str | None] = "group"

    def __init__(
        self,
        *tasks: "Signature[R] | Mapping[str, Any] | Iterable[Signature[R] | Mapping[str, Any]]",
        app: Sender | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        check_options(options)
        super().__init__("celery.group", options=options, app=app)
        self.tasks: tuple[Signature[R], ...] = tuple(_flattened(_members(tasks), app))
        self.app = app or _first_app(self.tasks)

    def wire_kwargs(self) -> dict[str, Any]:
        """The members, as Celery keeps them."""
        return {"tasks": [task.to_dict() for task in self.tasks]}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], app: Sender | None) -> "group[Any]":
        """The value of a wire mapping with `subtask_type` group."""
        made: group[Any] = cls(_wire_members(data, "tasks"), app=app)
        return made.with_wire_fields(data)

    def replaced(self, **fields: Any) -> Self:
        """A copy with other values in some slots."""
        return super().replaced(**{"tasks": self.tasks, **fields})

    def merged(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Self:
        """Arguments go to the members at once, so that each keeps its own immutability."""
        tasks = tuple(task.merged(args, kwargs, {}) for task in self.tasks)
        return self.replaced(tasks=tasks, options={**self.options, **options})

    async def delay(self, *args: Any, **kwargs: Any) -> GroupResult[R]:  # type: ignore[override]  # a group's handle
        """Send all members."""
        return cast("GroupResult[R]", await super().delay(*args, **kwargs))

    async def apply_async(  # type: ignore[override]  # a group's handle
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> GroupResult[R]:
        """Send all members, each with these arguments and options merged in."""
        return cast("GroupResult[R]", await super().apply_async(args, kwargs, **options))

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.tasks))})"


class chain(Signature[R]):  # noqa: N801 - Celery's name
    """Signatures that run one after the other, each with the result of the one before: `a.s(1) | b.s() | c.s()`.

    The handle of its result is that of the last step, `parent` leads back. What follows a group becomes a
    chord with that group as header (celery-protocol.md 5.6), what follows a chord goes on from its body.
    """

    __slots__ = ("tasks",)

    subtask_type: ClassVar[str | None] = "chain"

    def __init__(
        self,
        *tasks: "AnySignature | Iterable[AnySignature]",
        app: Sender | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        check_options(options)
        super().__init__("celery.chain", options=options, app=app)
        self.tasks: tuple[Signature[Any], ...] = tuple(_steps(_members(tasks), app))
        self.app = app or _first_app(self.tasks)

    def wire_kwargs(self) -> dict[str, Any]:
        """The steps in running order, as Celery keeps them."""
        return {"tasks": [task.to_dict() for task in self.tasks]}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], app: Sender | None) -> "chain[Any]":
        """The value of a wire mapping with `subtask_type` chain."""
        made: chain[Any] = cls(_wire_members(data, "tasks"), app=app)
        return made.with_wire_fields(data)

    def replaced(self, **fields: Any) -> Self:
        """A copy with other values in some slots."""
        return super().replaced(**{"tasks": self.tasks, **fields})

    def merged(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Self:
        """Arguments are those of the first step."""
        tasks = self.tasks
        if tasks and (args or kwargs):
            tasks = (tasks[0].merged(args, kwargs, {}), *tasks[1:])
        return self.replaced(tasks=tasks, options={**self.options, **options})

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
        header: "group[Any] | Iterable[AnySignature]",
        body: "Signature[R] | Mapping[str, Any] | None" = None,
        *,
        app: Sender | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        check_options(options)
        super().__init__("celery.chord", options=options, app=app)
        self.header: group[Any] = header if isinstance(header, group) else group(header, app=app)
        self.body: Signature[R] | None = None if body is None else as_signature(body, app)
        self.app = app or self.header.app or (self.body.app if self.body is not None else None)

    def __call__(self, body: "Signature[Any]") -> Any:
        """Send it with this body: `await chord(header)(body)`."""
        return self.replaced(body=body).apply_async()

    def wire_kwargs(self) -> dict[str, Any]:
        """Header and body, as Celery keeps them."""
        body = None if self.body is None else self.body.to_dict()
        return {"kwargs": {}, "header": self.header.to_dict(), "body": body}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], app: Sender | None) -> "chord[Any]":
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
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Self:
        """Arguments go to the members of the header."""
        return self.replaced(header=self.header.merged(args, kwargs, {}), options={**self.options, **options})

    def __repr__(self) -> str:
        return f"chord({self.header!r}, {self.body!r})"


def _members(tasks: Sequence[Any]) -> Iterable[AnySignature]:
    """What a canvas was given: signatures, or one iterable of them."""
    if len(tasks) == 1 and not isinstance(tasks[0], Signature | Mapping):
        return cast("Iterable[AnySignature]", tasks[0])
    return tasks


def _flattened(members: Iterable[AnySignature], app: Sender | None) -> Iterable[Signature[Any]]:
    for member in members:
        signature = as_signature(member, app)
        if isinstance(signature, group):
            yield from (task.merged((), None, _shared(signature, task)) for task in signature.tasks)
        else:
            yield signature


def _shared(outer: Signature[Any], inner: Signature[Any]) -> dict[str, Any]:
    """Options of a dissolved canvas that its member does not have itself."""
    return {
        key: value for key, value in outer.options.items() if key != "task_id" and key not in inner.options
    }


def _steps(members: Iterable[AnySignature], app: Sender | None) -> list[Signature[Any]]:
    """The steps of a chain: chains inside are dissolved, groups and chords take in what follows them."""
    steps: list[Signature[Any]] = []
    for member in members:
        signature = as_signature(member, app)
        inner = signature.tasks if isinstance(signature, chain) else (signature,)
        for step in inner:
            _append(steps, step)
    return steps


def _append(steps: list[Signature[Any]], step: Signature[Any]) -> None:
    """celery-protocol.md 5.6."""
    last = steps[-1] if steps else None
    if isinstance(step, group) and not step.tasks:
        return
    if isinstance(step, group) and len(step) == 1:
        step = step.tasks[0].merged((), None, _shared(step, step.tasks[0]))
    if isinstance(last, group):
        steps[-1] = chord(last, step, app=last.app)
    elif isinstance(last, chord):
        body = step if last.body is None else chain(last.body, step, app=last.app)
        steps[-1] = last.replaced(body=body)
    else:
        steps.append(step)


def _first_app(tasks: Sequence[Signature[Any]]) -> Sender | None:
    return next((task.app for task in tasks if task.app is not None), None)


def _wire_members(data: Mapping[str, Any], key: str) -> list[Any]:
    members = (data.get("kwargs") or {}).get(key)
    if not isinstance(members, list | tuple):
        raise DecodeError(f"a {data.get('subtask_type')} without {key}: {data!r:.200}")
    return list(members)


KINDS["group"] = group.from_wire
KINDS["chain"] = chain.from_wire
KINDS["chord"] = chord.from_wire
