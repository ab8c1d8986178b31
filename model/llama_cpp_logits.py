"""A GGUF file inside llama.cpp, without a look at its graph: nothing but the scores it gives.

Shapes: B rows, T positions, V vocabulary.
"""

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import llama_cpp.llama_cpp as lib
import numpy as np
import torch
from torch import Tensor

from model.gguf_file import open_gguf
from model.gguf_model import read_gguf_model
from model.gguf_names import gguf_name
from model.llama_cpp_side import decode, input_rounding, open_context
from model.sides import require_equal


class LlamaCppLogits:
    """A Llama or Qwen2 in a GGUF file, in llama.cpp on one thread of the CPU, cached in float32."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.settings, self._weights = read_gguf_model(path)
        self.round_inputs = input_rounding(path)
        self.dtype = torch.float32

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights under Hugging Face's names, dequantised."""
        return self._weights

    def logits(self, ids_BT: Tensor, silent: Collection[str]) -> Tensor:
        """Make one forward pass with all values of some tensors zero.

        Shapes: (1, T) -> (1, T, V).
        """
        require_equal("rows in llama.cpp", 1, len(ids_BT))
        ids = [int(token) for token in ids_BT[0]]
        with _silent_file(self.path, silent) as path, open_context(path, len(ids)) as context:
            decode(context, ids)
            scores = lib.llama_get_logits(context)
            shape = (len(ids), self.settings.vocab_size)
            return torch.from_numpy(np.ctypeslib.as_array(scores, shape).copy())[None]


@contextmanager
def _silent_file(path: Path, names: Collection[str]) -> Iterator[Path]:
    """Copy a file, with zeros for the bytes of some tensors: they mean zero in every type."""
    if not names:
        yield path
        return
    file = open_gguf(path)
    with TemporaryDirectory() as directory:
        copied = Path(shutil.copy(path, directory))
        with copied.open("r+b") as content:
            for name in names:
                start, num_bytes = file.place(gguf_name(name))
                content.seek(start)
                content.write(bytes(num_bytes))
        yield copied
