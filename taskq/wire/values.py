"""How many values a document holds, told without building them: small documents can hold millions of objects."""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Final

#: What is built by default from one message, envelope or result. A million lists take about 60 MB; 58 kB of gzip can
#: hold 21 million.
MAX_VALUES: Final = 1_000_000

#: Texts as a whole, what opens an array or an object, and numbers, true, false, null: one match for each value or key.
_JSON = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[^\s,:\]}\[{"]++')


def json_values(data: bytes, most: int) -> int:
    """How many values and keys JSON holds; it counts no further than one beyond `most`."""
    # Nearly always enough, and at C's speed; texts with commas in them make it too many, never too few.
    separators = 1 + 2 * sum(data.count(mark) for mark in (b",", b"[", b"{"))
    return separators if separators <= most else counted(_JSON.finditer(data), most)


def msgpack_values(data: bytes, most: int) -> int:
    """How many values and keys msgpack holds: from head to head, whatever is nested in what."""
    at, count = 0, 0
    while at < len(data) and count <= most:
        count += 1
        at += _length(data, at)
    return count


def counted(found: Iterable[object], most: int) -> int:
    """How many there are; it looks no further than one beyond `most`."""
    return sum(1 for _ in islice(found, most + 1))


#: First bytes from 0xc0 on: how long the head is, and where a length stands in it (its size in bytes).
_FIXED: Final = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2, 0xC3), 1),
    0xCA: 5,
    0xCB: 9,
    0xCC: 2,
    0xCD: 3,
    0xCE: 5,
    0xCF: 9,
    0xD0: 2,
    0xD1: 3,
    0xD2: 5,
    0xD3: 9,
    0xD4: 3,
    0xD5: 4,
    0xD6: 6,
    0xD7: 10,
    0xD8: 18,
    0xDC: 3,
    0xDD: 5,
    0xDE: 3,
    0xDF: 5,
}
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS: Final = frozenset((0xC7, 0xC8, 0xC9))


def _length(data: bytes, at: int) -> int:
    """Bytes of the value at a place; of an array or a map its head alone."""
    first = data[at]
    if first in _SIZED:
        width = _SIZED[first]
        return 1 + width + int.from_bytes(data[at + 1 : at + 1 + width]) + (first in _EXTENSIONS)
    if 0xA0 <= first < 0xC0:
        return 1 + (first & 0x1F)
    return _FIXED.get(first, 1)
