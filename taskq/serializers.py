from collections.abc import Callable
from typing import Any, NamedTuple


class Serializer(NamedTuple):
    """How values become bytes. `dumps` raises EncodeError, `loads` DecodeError."""

    name: str
    content_type: str
    content_encoding: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


def get_serializer(name: str) -> Serializer:
    raise KeyError(name)
