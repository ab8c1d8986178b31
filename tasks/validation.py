"""The validation rows of some shards, opened once and scored as often as needed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.baselines import target_bytes
from data.rows import PADDING, Rows, blocks, open_rows
from data.shard import ShardsIndex
from data.tokenizer import Tokenizer
from model.evaluation import evaluate
from model.llama import Llama
from model.loss_statistics import LossCounter
from model.ranks import Ranks

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Validation:
    """Validation rows, and what turns their losses into comparable numbers."""

    rows: Rows
    batch_rows: int
    num_documents: int
    num_bytes: int
    "Of the text that the target tokens stand for."
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
        batch_rows: int,
        device: str,
        document_end: int | None,
    ) -> "Validation":
        """Open the validation rows of a shards directory.

        Raises: CorruptShardError, WrongTokenizerError.
        """
        rows = open_rows(shards, index, "val")
        num_bytes = target_bytes(rows, Tokenizer.load(shards / TOKENIZER).token_bytes())
        tokenizer_json = (shards / TOKENIZER).read_text()
        num_documents = index.val.num_documents
        return cls(rows, batch_rows, num_documents, num_bytes, tokenizer_json, device, document_end)

    def count(
        self, model: Llama, ranks: Ranks | None = None, beat: Callable[[], None] = lambda: None
    ) -> LossCounter:
        """Score every target token, a batch a rank at a time.

        Every rank adds up what all have scored, in the order of the rows: the sums are those of one
        rank, to the bit. All must hold the same whole model.
        """
        ranks = ranks or Ranks()
        counter = LossCounter(self.num_documents)
        chunks = list(blocks(np.arange(len(self.rows)), self.batch_rows))
        for first in range(0, len(chunks), ranks.size):
            own = first + ranks.rank
            losses_BT = self._score(model, chunks[own]) if own < len(chunks) else None
            beat()
            at_once = chunks[first : first + ranks.size]
            for chunk, found_BT in zip(at_once, ranks.gather(losses_BT), strict=False):
                self._add(counter, chunk, found_BT)
        return counter

    def _score(self, model: Llama, chunk: NDArray[np.int64]) -> NDArray[np.float32]:
        device, ids_BS = torch.device(self.device), self.rows.take(chunk)
        (losses_BT,) = evaluate(model, [ids_BS], device, document_end=self.document_end)
        return losses_BT

    def _add(
        self, counter: LossCounter, chunk: NDArray[np.int64], losses_BT: NDArray[np.float32]
    ) -> None:
        is_target_BT = self.rows.take(chunk)[:, 1:] != PADDING
        documents_BT = self.rows.documents_NS(chunk)[:, 1:]
        counter.add(losses_BT[is_target_BT], documents_BT[is_target_BT])
