"""One of several ranks that score the same validation rows; leaves what it has added up."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from data.shard import ShardsIndex
from evidence.refs import parse_ref
from model.ranks import RankGroup
from tasks.models import load_apr
from tasks.store import Store
from tasks.val_losses import ValLosses
from tasks.validation import Validation


def main(store: str, shards: str, weights: str, meeting: str, rank: str, size: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(size)
    )
    artefact = Store(Path(store)).open(parse_ref(shards))
    index = artefact.read_index(ShardsIndex)
    validation = Validation.open(artefact.directory, index, device="cpu", document_end=None)
    counter = validation.count(load_apr(Path(weights), "cpu"), RankGroup("ddp"))
    out = Path(meeting).parent / f"rank-{rank}"
    out.mkdir()
    ValLosses.of(counter).write(out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
