"""Compression of message bodies (wire-format.md 1.7), with a cap on what they may grow to."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from taskq.errors import ConfigError, DecodeError, EncodeError

#: How large a body may become, in bytes. Celery has no limit: 1 MB on the wire can be 1 GB.
MAX_INFLATED = 64 * 1024 * 1024

#: What a compressed result begins with; the header value and another zero byte follow (wire-format.md 4.3).
RESULT_MARK = b"\0celery-compressed\0"


class Compression(NamedTuple):
    """A way to make bodies smaller.

    `header` is what travels in the header `compression`; `names` are what users write. `inflate(data, limit)`
    returns the original, of which it may leave out what goes beyond `limit` bytes: it is called with one byte
    more than is allowed, and a result of that length is refused. Both functions may raise anything.
    """

    header: str
    names: tuple[str, ...]
    deflate: Callable[[bytes], bytes]
    inflate: Callable[[bytes, int], bytes]


_known: dict[str, Compression] = {}


def register_compression(compression: Compression) -> None:
    """Make a compression known by its names and its header; one of the same name is replaced."""
    for name in (*compression.names, compression.header):
        _known[name] = compression


def get_compression(name: str) -> Compression:
    """The compression of a name ("gzip") or of a header value ("application/x-gzip").

    Raises:
        ConfigError: there is none; the message names those there are.
    """
    found = _known.get(name)
    if found is None:
        names = sorted(name for name in _known if "/" not in name)
        raise ConfigError(f"no compression {name!r}: known are {', '.join(names)}")
    return found


def compress(data: bytes, name: str) -> tuple[bytes, str]:
    """The compressed data, and the value of the header `compression` that tells the receiver.

    Raises:
        ConfigError: no compression of that name.
        EncodeError: it failed, or its package is not installed.
    """
    compression = get_compression(name)
    try:
        return compression.deflate(data), compression.header
    except EncodeError:
        raise
    except Exception as exc:
        raise EncodeError(f"compression {name} failed: {exc}") from exc


def decompress(data: bytes, name: str, max_inflated: int = MAX_INFLATED) -> bytes:
    """The original of compressed data; `name` is a header value or a name, `max_inflated` is in bytes.

    Raises:
        DecodeError: unknown or missing compression, broken data, or an original larger than `max_inflated`.
            Never more than that is held in memory.
    """
    compression = _known.get(name)
    if compression is None:
        raise DecodeError(f"unknown compression {name!r}")
    try:
        original = compression.inflate(data, max_inflated + 1)
    except DecodeError:
        raise
    except Exception as exc:
        raise DecodeError(f"not readable as {compression.header}: {exc}") from exc
    if len(original) > max_inflated:
        raise DecodeError(
            f"refused: {len(data)} bytes of {compression.header} are more than {max_inflated} inflated"
        )
    return original


def inflate_result(stored: bytes) -> bytes:
    """A stored result as it was before Celery's `result_compression`, or as it is without.

    Raises:
        DecodeError: see `decompress`.
    """
    if not stored.startswith(RESULT_MARK):
        return stored
    header, _, deflated = stored[len(RESULT_MARK) :].partition(b"\0")
    return decompress(deflated, header.decode("ascii", "replace"))


def _inflate_zlib(data: bytes, limit: int) -> bytes:
    # zlib streams are what Celery writes as "gzip"; + 32 reads real gzip as well.
    inflater = zlib.decompressobj(zlib.MAX_WBITS + 32)
    original = inflater.decompress(data, limit)
    if not inflater.eof and len(original) < limit:
        raise DecodeError("the zlib stream ends too early")
    return original


def _inflate_bzip2(data: bytes, limit: int) -> bytes:
    with bz2.open(io.BytesIO(data)) as stream:
        return stream.read(limit)


def _inflate_lzma(data: bytes, limit: int) -> bytes:
    with lzma.open(io.BytesIO(data)) as stream:
        return stream.read(limit)


def _brotli(error: type[Exception]) -> Any:
    try:
        import brotli  # noqa: PLC0415 - an optional extra
    except ImportError as exc:
        raise error("compression 'brotli' needs a package: pip install 'taskq-asyncio[brotli]'") from exc
    return brotli


def _deflate_brotli(data: bytes) -> bytes:
    deflated: bytes = _brotli(EncodeError).compress(data)
    return deflated


def _inflate_brotli(data: bytes, limit: int) -> bytes:
    inflater = _brotli(DecodeError).Decompressor()
    original: bytes = inflater.process(data, output_buffer_limit=limit)
    if not inflater.is_finished() and len(original) < limit:
        raise DecodeError("the brotli stream ends too early")
    return original


def _zstandard(error: type[Exception]) -> Any:
    try:
        import zstandard  # noqa: PLC0415 - an optional extra
    except ImportError as exc:
        raise error("compression 'zstd' needs a package: pip install 'taskq-asyncio[zstd]'") from exc
    return zstandard


def _deflate_zstd(data: bytes) -> bytes:
    deflated: bytes = _zstandard(EncodeError).ZstdCompressor().compress(data)
    return deflated


def _inflate_zstd(data: bytes, limit: int) -> bytes:
    zstandard = _zstandard(DecodeError)
    promised = zstandard.frame_content_size(data)  # -1 when the sender did not know
    original: bytes = zstandard.ZstdDecompressor().stream_reader(data).read(limit)
    if len(original) < min(promised, limit):
        raise DecodeError("the zstd frame ends too early")
    return original


register_compression(Compression("application/x-gzip", ("gzip", "zlib"), zlib.compress, _inflate_zlib))
register_compression(Compression("application/x-bz2", ("bzip2", "bzip"), bz2.compress, _inflate_bzip2))
register_compression(Compression("application/x-lzma", ("lzma", "xz"), lzma.compress, _inflate_lzma))
register_compression(Compression("application/x-brotli", ("brotli",), _deflate_brotli, _inflate_brotli))
register_compression(Compression("application/zstd", ("zstd", "zstandard"), _deflate_zstd, _inflate_zstd))
