"""The validation rows of some shards, opened once and scored as often as needed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.baselines import target_bytes
from data.rows import PADDING, Rows, blocks, open_rows
from data.shard import ShardsIndex
from data.tokenizer import Tokenizer
from model.evaluation import evaluate
from model.llama import Llama
from model.loss_statistics import LossCounter

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

    def count(self, model: Llama) -> LossCounter:
        """Score every target token."""
        counter = LossCounter(self.num_documents)
        for chunk in blocks(np.arange(len(self.rows)), self.batch_rows):
            ids_BS = self.rows.take(chunk)
            device = torch.device(self.device)
            (losses_BT,) = evaluate(model, [ids_BS], device, document_end=self.document_end)
            is_target_BT = ids_BS[:, 1:] != PADDING
            documents_BT = self.rows.documents_NS(chunk)[:, 1:]
            counter.add(losses_BT[is_target_BT], documents_BT[is_target_BT])
        return counter
