"""How values become bytes: json with kombu's extended types, msgpack, yaml, pickle, and a registry for others."""

import pickle
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, ParamSpec, TypeVar

import msgpack

from taskq.errors import ConfigError, ContentDisallowed, DecodeError, EncodeError
from taskq.wire.json import MAX_DEPTH, check_shape, json_dumps, json_loads, kombu_text, register_type
from taskq.wire.repr import saferepr
from taskq.wire.values import counted, json_values, msgpack_values

__all__ = [
    "MAX_DEPTH",
    "PICKLE",
    "Serializer",
    "bounded",
    "content_allowed",
    "get_serializer",
    "json_dumps",
    "json_loads",
    "kombu_text",
    "register_serializer",
    "register_type",
    "require_accepted",
    "require_few_values",
]


P = ParamSpec("P")
T = TypeVar("T")


class Serializer(NamedTuple):
    """How values become bytes. `dumps` raises EncodeError, `loads` DecodeError.

    `content_type` and `content_encoding` go with every message ("utf-8" for text, "binary" for the rest).
    `values(data, most)` tells how many values `data` holds without building them, and may stop counting beyond
    `most`; None: it cannot be told.
    """

    name: str
    content_type: str
    content_encoding: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]
    values: Callable[[bytes, int], int] | None = None


#: The content type of what runs code when it is read.
PICKLE = "application/x-python-serialize"

_by_name: dict[str, Serializer] = {}
_by_type: dict[str, Serializer] = {}


def register_serializer(serializer: Serializer) -> None:
    """Make a serializer known by its name and its content type; one of the same name is replaced.

    Its functions may raise anything: callers see EncodeError and DecodeError. What it reads may be nested
    254 levels deep.
    """
    guarded = serializer._replace(dumps=_guard_dumps(serializer), loads=_guard_loads(serializer))
    if serializer.values is not None:
        guarded = guarded._replace(values=_guard(serializer.name, serializer.values))
    _register(guarded)


def get_serializer(name: str) -> Serializer:
    """The serializer of a name ("json") or of a content type ("application/json").

    Raises:
        ConfigError: there is none; the message names those there are.
    """
    found = _by_name.get(name) or _by_type.get(name)
    if found is None:
        raise ConfigError(f"no serializer {name!r}: known are {', '.join(sorted(_by_name))}")
    return found


def content_allowed(content_type: str, accept: Collection[str]) -> bool:
    """Whether a content type is among `accept`, which holds serializer names and content types."""
    if content_type in accept:
        return True
    serializer = _by_type.get(content_type)
    return serializer is not None and serializer.name in accept


def require_accepted(content_type: str, accept: Collection[str]) -> None:
    """Raise ContentDisallowed unless `content_allowed`."""
    if not content_allowed(content_type, accept):
        listed = ", ".join(sorted(accept)) or "nothing"
        raise ContentDisallowed(
            f"content type {content_type!r} is refused: accepted are {listed} (accept_content)"
        )


def require_few_values(serializer: Serializer, data: bytes, most: int) -> None:
    """Raise DecodeError if `data` would become more than `most` values. A value takes a byte at least."""
    if len(data) > most and serializer.values is not None and serializer.values(data, most) > most:
        raise DecodeError(f"refused: its {len(data)} bytes hold more than {most} values (max_message_values)")


def bounded(serializer: Serializer, most: int) -> Serializer:
    """The same serializer, which reads nothing of more than `most` values."""

    def loads(data: bytes) -> Any:
        require_few_values(serializer, data, most)
        return serializer.loads(data)

    return serializer._replace(loads=loads)


def _register(serializer: Serializer) -> None:
    _by_name[serializer.name] = serializer
    _by_type[serializer.content_type] = serializer


def _guard_dumps(serializer: Serializer) -> Callable[[Any], bytes]:
    def dumps(value: Any) -> bytes:
        try:
            return serializer.dumps(value)
        except EncodeError:
            raise
        except Exception as exc:
            shown = saferepr(value, 200)
            raise EncodeError(f"{serializer.name} cannot write {shown}: {_told(exc)}") from exc

    return dumps


def _guard_loads(serializer: Serializer) -> Callable[[bytes], Any]:
    def loads(data: bytes) -> Any:
        value = serializer.loads(data)
        check_shape(value, len(data))
        return value

    return _guard(serializer.name, loads)


def _guard(name: str, read: Callable[P, T]) -> Callable[P, T]:
    """The same; whatever goes wrong is a DecodeError."""

    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except DecodeError:
            raise
        except Exception as exc:
            raise DecodeError(f"not readable as {name}: {_told(exc)}") from exc

    return guarded


def _told(exc: Exception) -> str:
    """One line about what another library raised."""
    return " ".join(f"{type(exc).__name__}: {exc}".split())[:300]


def _yaml(error: type[Exception]) -> Any:
    try:
        import yaml  # noqa: PLC0415 - an optional extra
    except ImportError as exc:
        raise error("serializer 'yaml' needs PyYAML: pip install 'taskq-asyncio[yaml]'") from exc
    return yaml


def _yaml_dumps(value: Any) -> bytes:
    text: str = _yaml(EncodeError).safe_dump(value)
    return text.encode()


def _yaml_loads(data: bytes) -> Any:
    return _yaml(DecodeError).safe_load(data)


def _yaml_values(data: bytes, most: int) -> int:
    yaml = _yaml(DecodeError)  # what aliases expand to is seen when it is there: `check_shape`
    return counted(yaml.parse(data, Loader=yaml.SafeLoader), most)


def _msgpack_dumps(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True) or b""
    return packed


def _msgpack_loads(data: bytes) -> Any:
    return msgpack.unpackb(data, raw=False, strict_map_key=False)


def _pickle_dumps(value: Any) -> bytes:
    return pickle.dumps(value, protocol=4)  # what every supported Celery reads


def _pickle_loads(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301 - only for those who list it in accept_content


_register(Serializer("json", "application/json", "utf-8", json_dumps, json_loads, json_values))
register_serializer(
    Serializer("msgpack", "application/x-msgpack", "binary", _msgpack_dumps, _msgpack_loads, msgpack_values)
)
register_serializer(Serializer("yaml", "application/x-yaml", "utf-8", _yaml_dumps, _yaml_loads, _yaml_values))
register_serializer(Serializer("pickle", PICKLE, "binary", _pickle_dumps, _pickle_loads))
