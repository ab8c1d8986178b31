"""How an .apr file can store a tensor: as plain numbers, or in blocks that share a scale."""

from enum import IntEnum
from math import prod

import torch

SUPER_BLOCK = 256
"Elements of a Q4K or a Q6K block; a row holds whole blocks."
SMALL_BLOCK = 32
"Elements of an AprQ4 block; the last one of a tensor may be padded."


class AprDtype(IntEnum):
    """The dtypes that are read and written, under the format's names, by their codes."""

    F32 = 0
    F16 = 1
    Q4K = 12
    Q6K = 14
    BF16 = 30
    AprQ4 = 128
    AprQ8 = 129

    @property
    def is_quantized(self) -> bool:
        """Tell whether values share a scale, so that reading has to compute."""
        return self not in PLAIN

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a tensor of this shape can be stored so."""
        if self in (AprDtype.Q4K, AprDtype.Q6K):
            return len(shape) > 0 and shape[-1] % SUPER_BLOCK == 0
        return True

    def size_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the length of a tensor's data without padding."""
        count = prod(shape)
        if self in PLAIN:
            return count * PLAIN[self].itemsize
        if self is AprDtype.AprQ8:
            return SCALE_BYTES + count
        block, block_bytes = BLOCKS[self]
        return -(-count // block) * block_bytes


PLAIN = {
    AprDtype.F32: torch.float32,
    AprDtype.F16: torch.float16,
    AprDtype.BF16: torch.bfloat16,
}
DTYPE_OF = {dtype: code for code, dtype in PLAIN.items()}
SCALE_BYTES = 4
"Of the one float32 scale of an AprQ8 tensor."
BLOCKS = {
    AprDtype.Q4K: (SUPER_BLOCK, 144),
    AprDtype.Q6K: (SUPER_BLOCK, 210),
    AprDtype.AprQ4: (SMALL_BLOCK, 18),
}
"Elements and bytes of a block."
# Known to other writers; named only so that the refusal can say what the file holds.
OTHER_DTYPES = {3: "F64", 4: "I32", 5: "I64", 6: "I8", 7: "U8"} | {
    8: "AprQ4 of before 2026",
    9: "AprQ8 of before 2026",
}
READABLE = ", ".join(f"{dtype.name} ({dtype.value})" for dtype in AprDtype)
