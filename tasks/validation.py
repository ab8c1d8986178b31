"""The validation rows of some shards, opened once and scored as often as needed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.baselines import target_bytes
from data.rows import PADDING, Rows, blocks, open_rows, spread
from data.shard import ShardsIndex
from data.tokenizer import TOKENIZER, Tokenizer
from model.evaluation import evaluate
from model.llama import Llama
from model.loss_statistics import LossCounter
from model.ranks import Ranks

CHUNK_ROWS = 16
"""Rows that a rank scores between two exchanges; any number gives the same bits."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Validation rows, and what turns their losses into comparable numbers."""

    rows: Rows
    chosen: NDArray[np.int64]
    "The rows that are scored, in their order."
    num_documents: int
    bytes_of_document: NDArray[np.int64]
    "UTF-8 bytes of the text that the target tokens stand for."
    tokenizer_json: str
    device: str
    document_end: int | None
    "As in the training of what is scored."

    @classmethod
    def open(
        cls,
        shards: Path,
        index: ShardsIndex,
        *,
        device: str,
        document_end: int | None,
        num_rows: int = 0,
    ) -> "Validation":
        """Open the validation rows of a shards directory: so many, spread evenly, or all for 0.

        Raises: CorruptShardError, WrongTokenizerError.
        """
        rows = open_rows(shards, index, "val")
        chosen = spread(len(rows), num_rows or len(rows))
        num_documents = index.val.num_documents
        token_bytes = Tokenizer.load(shards / TOKENIZER).token_bytes()
        num_bytes = target_bytes(rows, chosen, token_bytes, num_documents)
        tokenizer_json = (shards / TOKENIZER).read_text()
        return cls(rows, chosen, num_documents, num_bytes, tokenizer_json, device, document_end)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text that all target tokens stand for."""
        return int(self.bytes_of_document.sum())

    def count(
        self,
        model: Llama,
        ranks: Ranks | None = None,
        tell: Callable[[int], None] = lambda _num_rows: None,
    ) -> LossCounter:
        """Score every target token, a chunk of rows a rank at a time; tell how many rows are done.

        Every rank adds up what all have scored, in the order of the rows: the sums are those of one
        rank, to the bit. All must hold the same whole model.
        """
        ranks = ranks or Ranks()
        counter = LossCounter(self.num_documents, self.rows.row_tokens - 1)
        chunks = list(blocks(self.chosen, CHUNK_ROWS))
        num_rows = 0
        for first in range(0, len(chunks), ranks.size):
            own = first + ranks.rank
            losses_BT = self.score(model, chunks[own]) if own < len(chunks) else None
            at_once = chunks[first : first + ranks.size]
            for chunk, found_BT in zip(at_once, ranks.gather(losses_BT), strict=False):
                self._add(counter, chunk, found_BT)
                num_rows += len(chunk)
            tell(num_rows)
        return counter

    def score(self, model: Llama, chunk: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score some rows.

        Shapes: (B,) -> (B, T).
        """
        ids_BS = self.rows.take(chunk)
        return evaluate(model, ids_BS, self.device, document_end=self.document_end)

    def _add(
        self, counter: LossCounter, chunk: NDArray[np.int64], losses_BT: NDArray[np.float32]
    ) -> None:
        is_target_BT = self.rows.take(chunk)[:, 1:] != PADDING
        counter.add(losses_BT, self.rows.documents_NS(chunk)[:, 1:], is_target_BT)
