"""Values, bodies and compressed bytes as a real Celery wrote them: the same from us, and read by us."""

import datetime as dt
import json
import math
from base64 import b64decode
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import pytest

from taskq.errors import DecodeError, EncodeError
from taskq.wire.compression import compress, decompress
from taskq.wire.serializers import get_serializer

DATA: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "golden" / "serialization.json").read_text()
)["data"]
JSON = get_serializer("json")


class Colour(Enum):
    RED = 1


class IntColour(IntEnum):
    RED = 1


VALUES: dict[str, Any] = {
    "int enum": IntColour.RED,
    "enum": Colour.RED,
    "object": object(),
    "memoryview": memoryview(b"abc"),
    "nan": math.nan,
    "inf": math.inf,
}
NAMES = {"datetime": dt, "Decimal": Decimal, "UUID": UUID, "PurePosixPath": PurePosixPath}


def python(text: str) -> Any:
    return eval(text, dict(NAMES))


def value_of(case: dict[str, Any]) -> Any:
    return VALUES[case["value"]] if case["value"] in VALUES else python(case["python"])


def named(cases: list[dict[str, Any]], key: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case[key]) for case in cases])


WRITTEN = [case for case in DATA["json_types"] if "json" in case]
REFUSED = [case for case in DATA["json_types"] if "json" not in case and case["value"] != "enum"]


@named(WRITTEN, "value")
def test_json_writes_every_type_as_celery_does(case: dict[str, Any]) -> None:
    # Compared as the standard library reads it: blanks, escapes and order are free, NaN and long ints are not.
    assert repr(json.loads(JSON.dumps(value_of(case)))) == repr(json.loads(case["json"]))


@named([case for case in WRITTEN if "error" not in case], "value")
def test_json_reads_every_type_as_celery_does(case: dict[str, Any]) -> None:
    value = JSON.loads(case["json"].encode())
    assert type(value).__name__ == case["decoded_type"]
    assert repr(value) == case["decoded_python"]


def test_an_unknown_type_is_an_error() -> None:
    (case,) = (case for case in WRITTEN if "error" in case)
    with pytest.raises(DecodeError, match="unknown __type__ 'zzz'"):
        JSON.loads(case["json"].encode())


@named(REFUSED, "value")
def test_json_refuses_what_celery_refuses(case: dict[str, Any]) -> None:
    with pytest.raises(EncodeError, match="json cannot write"):
        JSON.dumps([value_of(case)])


def test_an_enum_is_written_as_its_value_where_celery_refuses_it() -> None:
    assert JSON.dumps([Colour.RED]) == b"[1]"


BODY = [
    [2, "\u00e9"],
    {"y": 3.5, "n": None},
    {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
]
BODIES = [case for case in DATA["bodies"] if case["serializer"] in {"json", "pickle", "yaml", "msgpack"}]


def payload_of(case: dict[str, Any]) -> bytes:
    payload = case["payload"]
    return b64decode(payload["base64"]) if isinstance(payload, dict) else payload.encode()


@named(BODIES, "serializer")
def test_bodies_of_every_serializer(case: dict[str, Any]) -> None:
    serializer = get_serializer(case["serializer"])
    assert (serializer.content_type, serializer.content_encoding) == (
        case["content_type"],
        case["content_encoding"],
    )
    assert serializer.loads(payload_of(case)) == BODY
    if case["serializer"] == "json":
        assert json.loads(serializer.dumps(BODY)) == json.loads(payload_of(case))
    else:
        assert serializer.dumps(BODY) == payload_of(case)


def test_all_four_serializers_were_recorded() -> None:
    assert len(BODIES) == 4


@named(DATA["compression"], "alias")
def test_compressed_bodies(case: dict[str, Any]) -> None:
    plain, header = case["plain"].encode(), case["compression_header"]
    assert decompress(b64decode(case["compressed_base64"]), header) == plain
    assert decompress(b64decode(case["compressed_base64"]), case["alias"]) == plain
    ours, our_header = compress(plain, case["alias"])
    assert our_header == header
    assert decompress(ours, header) == plain
    assert ours[:2].hex() == case["first_bytes_hex"][:4] or case["alias"] == "brotli"
