"""No result store: what tasks return is thrown away (Celery's `disabled://`)."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from taskq.errors import StoreError
from taskq.seams.store import ResultStore, StoreConfig, TaskResult


class DisabledStore(ResultStore):
    """Takes results and keeps none; asking for one raises StoreError. See `taskq.seams.store.ResultStore`."""

    def __init__(self, config: StoreConfig) -> None:
        self._url = config.url

    async def save(self, results: Sequence[TaskResult]) -> None:
        """Thrown away."""

    async def load(self, task_ids: Sequence[str]) -> Sequence[TaskResult | None]:
        raise self._refusal(f"state of {', '.join(task_ids)}")

    async def watch(self, task_id: str) -> AsyncGenerator[TaskResult, None]:
        raise self._refusal(f"state of {task_id}")
        yield  # makes this a generator, so that the error comes where states are awaited

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Nothing is stored."""

    async def begin_chords(self, sizes: Mapping[str, int]) -> None:
        raise self._refusal(f"parts of the chords {', '.join(sizes)}")

    async def grow_chord(self, group_id: str, task_id: str) -> None:
        raise self._refusal(f"part {task_id} of chord {group_id}")

    async def save_group(self, group_id: str, data: Any) -> None:  # noqa: ARG002 - the seam's signature
        raise self._refusal(f"group {group_id}")

    async def load_group(self, group_id: str) -> Any:
        raise self._refusal(f"group {group_id}")

    async def forget_group(self, group_id: str) -> None:
        """Nothing is stored."""

    def _refusal(self, what: str) -> StoreError:
        return StoreError(
            f"no {what}, since no results are kept: result_backend is {self._url!r}; set it to a store, "
            "for example result_backend='sqlite:///.taskq/taskq.db' or 'redis://localhost/0'"
        )
