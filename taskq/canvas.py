"""Canvases: signatures made of signatures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, Unpack, cast

from taskq.errors import DecodeError
from taskq.options import CallOptions, check_options
from taskq.results import GroupResult
from taskq.signature import KINDS, AnySignature, Sender, Signature, as_signature, new_id

R = TypeVar("R")


class group(Signature[list[R]]):  # noqa: N801 - Celery's name
    """Signatures that run side by side: `await group(add.s(i, i) for i in range(4)).apply_async()`.

    Its result is a `GroupResult`; awaiting that gives the list of values in order. Arguments of a call are
    given to every member.
    """

    __slots__ = ("tasks",)

    subtask_type: ClassVar[str | None] = "group"

    def __init__(
        self,
        *tasks: "Signature[R] | Iterable[Signature[R]]",
        app: Sender | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        check_options(options)
        super().__init__("celery.group", options=options, app=app)
        members = tasks[0] if len(tasks) == 1 and not isinstance(tasks[0], Signature | Mapping) else tasks
        self.tasks: tuple[Signature[R], ...] = tuple(
            as_signature(member, app) for member in cast("Sequence[AnySignature]", members)
        )
        if self.app is None:
            self.app = next((task.app for task in self.tasks if task.app is not None), None)

    def wire_kwargs(self) -> dict[str, Any]:
        """The members, as Celery keeps them."""
        return {"tasks": [task.to_dict() for task in self.tasks]}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], app: Sender | None) -> "group[Any]":
        """The value of a wire mapping with `subtask_type` group."""
        members = (data.get("kwargs") or {}).get("tasks")
        if not isinstance(members, Sequence):
            raise DecodeError(f"a group without tasks: {data!r:.200}")
        made: group[Any] = cls(*(as_signature(member, app) for member in members), app=app)
        made.options = dict(data.get("options") or {})
        made.args = tuple(data.get("args") or ())
        made.immutable = bool(data.get("immutable"))
        return made

    def replaced(self, **fields: Any) -> "group[R]":
        return super().replaced(**{"tasks": self.tasks, **fields})

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

    def members(self) -> tuple[str, list[Signature[R]]]:
        """The group id, and the members as they are sent: with arguments, options, ids and places."""
        shared = dict(self.options)
        group_id = shared.pop("task_id", None) or new_id()
        sent = []
        for index, member in enumerate(self.tasks):
            placed = member.merged(self.args, self.kwargs, {"task_id": new_id(), **shared, **member.options})
            sent.append(
                placed.replaced(options={**placed.options, "group_id": group_id, "group_index": index})
            )
        return group_id, sent

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.tasks))})"


KINDS["group"] = group.from_wire
