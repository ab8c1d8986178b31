"""A model as llama.cpp runs it.

Shapes: T positions, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
import torch
from torch import Tensor

FLOAT32 = 0
"""Of the cached keys and values; the default, half precision, costs four digits."""


class Engine:
    """An open GGUF file."""

    def __init__(self, path: Path, *, context_length: int = 32, vocab_only: bool = False) -> None:
        self._llama = llama_cpp.Llama(
            str(path),
            n_ctx=context_length,
            n_batch=context_length,
            n_threads=1,
            n_threads_batch=1,
            logits_all=True,
            vocab_only=vocab_only,
            type_k=FLOAT32,
            type_v=FLOAT32,
            verbose=False,
        )

    def encode(self, text: str) -> list[int]:
        """Encode text; a special token that is spelt out is text like any other."""
        # Asked to add what the file says begins a text, which is nothing.
        ids: list[int] = self._llama.tokenize(text.encode(), add_bos=True, special=False)
        return ids

    def logits(self, ids_T: Sequence[int]) -> Tensor:
        """Score every position.

        Shapes: (T,) -> (T, V).
        """
        self._llama.reset()
        self._llama.eval(list(ids_T))
        return torch.from_numpy(np.array(self._llama.scores[: len(ids_T)])).double()

    def continuation(self, prompt_ids: Sequence[int], num_tokens: int) -> list[int]:
        """Take the likeliest token, so many times."""
        scores_V = self.logits(prompt_ids)[-1]
        found = []
        for _ in range(num_tokens):
            found.append(int(scores_V.argmax()))
            self._llama.eval(found[-1:])
            last = len(prompt_ids) + len(found) - 1
            scores_V = torch.from_numpy(np.array(self._llama.scores[last]))
        return found

    def close(self) -> None:
        """Free the model."""
        self._llama.close()


def quantised(source: Path, target: Path, file_type: int) -> Path:
    """Let llama.cpp quantise a file in float32."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = file_type, 1
    assert not llama_cpp.llama_model_quantize(bytes(source), bytes(target), parameters)
    return target
