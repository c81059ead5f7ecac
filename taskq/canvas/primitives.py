"""Signatures made by a word: `signature`, `chunks`, `xmap`, `xstarmap`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar, Unpack

from taskq.canvas.shapes import group
from taskq.canvas.signature import AnySignature, Signature, as_signature
from taskq.options import CallOptions, check_options
from taskq.seams.app import App

R = TypeVar("R")


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
    args: Sequence[Any] = (),
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
