import gzip
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import ConfigError, DecodeError, EncodeError
from taskq.wire import compression
from taskq.wire.compression import Compression, compress, decompress, get_compression, register_compression

NAMES = ["zlib", "gzip", "bzip2", "bzip", "lzma", "xz", "brotli", "zstd", "zstandard"]
EACH = ["gzip", "bzip2", "lzma", "brotli", "zstd"]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=2000))
def test_what_was_compressed_comes_back(name: str, data: bytes) -> None:
    deflated, header = compress(data, name)
    assert decompress(deflated, header, max_inflated=len(data)) == data


@pytest.mark.parametrize("name", EACH)
def test_a_bomb_is_refused_without_being_unpacked(name: str) -> None:
    bomb, header = compress(bytes(20_000_000), name)
    tracemalloc.start()
    try:
        with pytest.raises(
            DecodeError, match=f"{len(bomb)} bytes of {header} are more than 1000000 inflated"
        ):
            decompress(bomb, header, max_inflated=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", EACH)
def test_a_large_body_within_the_cap_comes_whole(name: str) -> None:
    data = bytes(range(256)) * 4000
    assert decompress(*compress(data, name)) == data


@pytest.mark.parametrize("name", EACH)
def test_a_stream_that_ends_too_early_is_a_decode_error(name: str) -> None:
    deflated, header = compress(b"some text, some more text" * 10, name)
    for end in (0, 1, len(deflated) // 2, len(deflated) - 1):
        with pytest.raises(DecodeError):
            decompress(deflated[:end], header)


@pytest.mark.parametrize("name", EACH)
@given(data=st.binary(max_size=200))
def test_rubbish_raises_nothing_but_decode_error(name: str, data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"\w"):
        decompress(b"\x05rubbish" + data, name)


def test_real_gzip_is_read_too() -> None:
    assert decompress(gzip.compress(b"abc"), "application/x-gzip") == b"abc"


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="no compression 'rar': known are brotli, bzip"):
        compress(b"", "rar")
    with pytest.raises(DecodeError, match=r"unknown compression 'rar'"):
        decompress(b"", "rar")


def test_own_compression_by_its_names_and_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_known", compression._known.copy())
    register_compression(
        Compression("x/twice", ("twice",), lambda data: data * 2, lambda data, limit: data[:limit])
    )
    assert get_compression("twice").header == "x/twice"
    assert compress(b"ab", "twice") == (b"abab", "x/twice")
    assert decompress(b"ab", "x/twice") == b"ab"
    with pytest.raises(DecodeError, match="more than 1 inflated"):
        decompress(b"ab", "x/twice", max_inflated=1)


def broken(*_: object) -> bytes:
    raise OverflowError


def test_whatever_an_own_compression_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_known", compression._known.copy())
    register_compression(Compression("x/bad", ("bad",), broken, broken))
    with pytest.raises(EncodeError, match="compression bad failed"):
        compress(b"", "bad")
    with pytest.raises(DecodeError, match="not readable as x/bad"):
        decompress(b"", "bad")


@pytest.mark.parametrize(("name", "package"), [("brotli", "brotli"), ("zstd", "zstandard")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    deflated, header = compress(b"abc", name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EncodeError, match=rf"taskq-asyncio\[{name}\]"):
        compress(b"abc", name)
    with pytest.raises(DecodeError, match=rf"taskq-asyncio\[{name}\]"):
        decompress(deflated, header)
