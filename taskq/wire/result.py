"""What is stored of a task (wire-format.md 4.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class TaskResult:
    """One state of one task, as stored (wire-format.md 4.3).

    `value` is the return value; for exception states the encoded exception (4.4); for custom states the meta.
    `children` holds result tuples (4.5). `date_done` is ISO 8601 text, None until the state is final.
    `extra` are further top-level keys of the stored mapping (`result_extended`). `reply_to` is where a store
    that sends results to the caller (rpc) finds it; it is never stored.
    """

    task_id: str
    state: str
    value: Any = None
    traceback: str | None = None
    children: Sequence[Any] | None = None
    date_done: str | None = None
    group_id: str | None = None
    parent_id: str | None = None
    extra: Mapping[str, Any] | None = None
    reply_to: str = ""

    def payload(self) -> dict[str, Any]:
        """The mapping that is stored, and published to those who wait."""
        data: dict[str, Any] = {
            "status": self.state,
            "result": self.value,
            "traceback": self.traceback,
            "children": self.children,
            "date_done": self.date_done,
            "task_id": self.task_id,
        }
        if self.group_id is not None:
            data["group_id"] = self.group_id
        if self.parent_id is not None:
            data["parent_id"] = self.parent_id
        for key, value in (self.extra or {}).items():
            data.setdefault(key, value)  # a stamp may have any name
        return data

    @classmethod
    def from_payload(cls, data: Mapping[str, Any]) -> "TaskResult":
        """The reverse of `payload`; unknown keys are kept in `extra`."""
        get = data.get
        read = cls(
            data["task_id"],
            data["status"],
            get("result"),
            get("traceback"),
            get("children"),
            get("date_done"),
            get("group_id"),
            get("parent_id"),
        )
        if not data.keys() <= _PAYLOAD_KEYS:
            read.extra = {key: value for key, value in data.items() if key not in _PAYLOAD_KEYS}
        return read


_PAYLOAD_KEYS = frozenset(
    ("status", "result", "traceback", "children", "date_done", "task_id", "group_id", "parent_id")
)
