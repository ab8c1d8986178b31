"""Arrays on disk that are written piece by piece, in the bytes that `numpy.save` would write."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import DTypeLike, NDArray


class ArrayWriter:
    """Appends rows to a `.npy` file; rows are all of one shape and type."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Begin an array without rows."""
        self._file = path.open("xb")
        self._row_shape, self._dtype = row_shape, np.dtype(dtype)
        self.num_rows = 0
        self._write_header()

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        # numpy leaves room in the header for any number of rows.
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def write(self, rows: NDArray[Any]) -> None:
        """Append rows."""
        assert rows.shape[1:] == self._row_shape, "rows of another shape"
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self.num_rows += len(rows)

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.num_rows, *self._row_shape),
        }
        write_array_header_1_0(self._file, header)
