"""What general compressors make of texts: a code model should need fewer bits than these.

Every document alone, where nothing is known before its first byte, and all of them as one stream,
where a compressor learns from those before.
"""

import lzma
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

ZLIB_LEVEL = 9
XZ_PRESET = 9
_LEAST_DICTIONARY = 2**12


@dataclass(frozen=True, slots=True)
class CompressedSizes:
    """Sizes with what the formats need for themselves.

    Units: bytes.
    """

    num_documents: int
    num_bytes: int
    zlib_bytes: int
    "Of every document alone, summed."
    zlib_stream_bytes: int
    "Of one stream."
    xz_bytes: int
    xz_stream_bytes: int

    def bits_per_byte(self) -> dict[str, float]:
        """Return bits of the compressed text per byte of text, by compressor and way."""
        return {
            f"{name.removesuffix('_bytes')}_bits_per_byte": 8 * getattr(self, name) / self.num_bytes
            for name in ("zlib_bytes", "zlib_stream_bytes", "xz_bytes", "xz_stream_bytes")
        }


def compressed_sizes(documents: Sequence[bytes]) -> CompressedSizes:
    """Compress documents at the highest levels."""
    stream = b"".join(documents)
    return CompressedSizes(
        num_documents=len(documents),
        num_bytes=len(stream),
        zlib_bytes=sum(len(zlib.compress(each, ZLIB_LEVEL)) for each in documents),
        zlib_stream_bytes=len(zlib.compress(stream, ZLIB_LEVEL)),
        xz_bytes=sum(_xz_bytes(each) for each in documents),
        xz_stream_bytes=_xz_bytes(stream),
    )


def _xz_bytes(text: bytes) -> int:
    # A dictionary longer than the text finds nothing more, and takes longest to clear.
    whole = 1 << max(len(text) - 1, _LEAST_DICTIONARY - 1).bit_length()
    dictionary = min(whole, 2**26)
    chain = [{"id": lzma.FILTER_LZMA2, "preset": XZ_PRESET, "dict_size": dictionary}]
    return len(lzma.compress(text, filters=chain))
