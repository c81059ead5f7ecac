"""Parts of chords that lie in the result store, signed: who can write there chooses no arguments of a chord's body."""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from taskq import states
from taskq.errors import DecodeError, UntrustedMessage
from taskq.wire.exceptions import encode_exception
from taskq.wire.result import TaskResult
from taskq.wire.serializers import Serializer
from taskq.wire.signing import part_is_signed, sign_part

_SEALED = frozenset(("task_id", "state", "data", "taskq-signature"))


class Seals:
    """Signs parts on their way in; those that come out and that nobody has signed are failures. Without secrets nothing."""

    def __init__(self, serializer: Serializer, secrets: Sequence[str]) -> None:
        self._serializer = serializer
        self._secrets = secrets

    def seal(self, part: TaskResult) -> TaskResult:
        """A part as it lies in the store. Raises EncodeError."""
        if not self._secrets:
            return part
        return replace(part, value=_seal(part, str(part.group_id), self._serializer, self._secrets))

    def opened(self, parts: Sequence[TaskResult], group_id: str) -> Sequence[TaskResult]:
        """Parts as they were before."""
        if not self._secrets:
            return parts
        return [_opened(one, group_id, self._serializer, self._secrets) for one in parts]


def _seal(part: TaskResult, group_id: str, serializer: Serializer, secrets: Sequence[str]) -> dict[str, str]:
    data = serializer.dumps(part.value)
    about = {"task_id": part.task_id, "state": part.state}
    signature = sign_part({**about, "chord": group_id}, data, secrets)
    return {**about, "data": b64encode(data).decode(), "taskq-signature": signature}


def _opened(part: TaskResult, group_id: str, serializer: Serializer, secrets: Sequence[str]) -> TaskResult:
    try:
        # A part that stands for a group of the header holds its members: a list of those, in any depth.
        if isinstance(part.value, list):
            return replace(part, value=[_value(one, group_id, serializer, secrets) for one in part.value])
        if (part.value["task_id"], part.value["state"]) != (part.task_id, part.state):
            raise UntrustedMessage("refused: it is the part of another task (security_secrets)")
        return replace(part, value=_value(part.value, group_id, serializer, secrets))
    except (DecodeError, TypeError, ValueError, KeyError, RecursionError) as error:
        refused = UntrustedMessage(f"refused: a part of a chord is not signed (security_secrets): {error}")
        return replace(part, state=states.FAILURE, value=encode_exception(refused))


def _value(value: Any, group_id: str, serializer: Serializer, secrets: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_value(one, group_id, serializer, secrets) for one in value]
    if not _SEALED.issuperset(value):
        raise ValueError("it has no signature")
    data = b64decode(value["data"], validate=True)
    about = {"task_id": value["task_id"], "state": value["state"], "chord": group_id}
    if not part_is_signed(about, data, str(value["taskq-signature"]), secrets):
        raise ValueError("its signature is wrong")
    return serializer.loads(data)
