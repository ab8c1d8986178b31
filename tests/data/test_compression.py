import lzma
import zlib

import pytest

from data.compression import compressed_sizes

DOCUMENTS = [b"def f(x):\n    return x\n" * 20, b"import os\n" * 7, b"", b"x" * 5000]


def test_sizes_are_those_of_the_compressors_at_their_highest_levels() -> None:
    found, stream = compressed_sizes(DOCUMENTS), b"".join(DOCUMENTS)
    assert (found.num_documents, found.num_bytes) == (4, len(stream))
    assert found.zlib_bytes == sum(len(zlib.compress(each, 9)) for each in DOCUMENTS)
    assert found.zlib_stream_bytes == len(zlib.compress(stream, 9))
    assert found.xz_bytes == sum(len(lzma.compress(each, preset=9)) for each in DOCUMENTS)
    assert found.xz_stream_bytes == len(lzma.compress(stream, preset=9))


def test_bits_per_byte_are_eight_times_the_share_of_bytes_that_is_left() -> None:
    found = compressed_sizes(DOCUMENTS)
    bits = found.bits_per_byte()
    assert list(bits) == [
        "zlib_bits_per_byte",
        "zlib_stream_bits_per_byte",
        "xz_bits_per_byte",
        "xz_stream_bits_per_byte",
    ]
    assert bits["xz_stream_bits_per_byte"] == pytest.approx(
        8 * found.xz_stream_bytes / found.num_bytes
    )
    assert bits["zlib_stream_bits_per_byte"] < bits["zlib_bits_per_byte"]
