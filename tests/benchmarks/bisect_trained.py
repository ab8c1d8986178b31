"""Plant the same faults in trained models, in every form a candidate may have.

`python -m tests.benchmarks.bisect_trained CHECKPOINT... [--as KIND]`: each checkpoint is a sealed
one of a training of six layers with the shape of `bisect_faults`; the README of this folder says
how to make. Prints a line a fault, what a spike and the traps of scope give, and the totals of
`assay bisect` beside those of four rules that need less. With `--as` the candidate is stored or run
otherwise; `llama.cpp` is a GGUF file inside llama.cpp.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.bisection import NO_FAULT, bisect
from model.errors import DifferentProgramsError
from model.gguf_model import FileType, write_gguf_model
from model.hugging_face import TOKENIZER_FILE
from model.llama import Llama
from model.sides import Side, Visit
from model.torch_side import TorchSide, llama_side
from model.transformers_side import transformers_side
from tasks.models import load_directory
from tests.benchmarks import bisect_faults
from tests.benchmarks.bisect_faults import (
    FAULTS,
    NUM_TOKENS,
    Planted,
    faulty,
    header,
    judge,
    lines,
    right,
    with_spike,
)
from tests.model.oracle import theirs

HEALTHY = Planted("none", (), lambda _: None)
STORED = ("float32", "bfloat16", "Q8_0")
IN_LLAMA_CPP = {"llama.cpp": FileType.F32, "llama.cpp Q8_0": FileType.Q8_0}
TRAPS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "captured before the bias": ("layers.2.q", {"capture": "projected, without the bias"}),
    "captured after the rotation": ("layers.2.k", {"capture": "rotated"}),
    "heads in another order": ("layers.0.q_rope", {"layout": "pairs of neighbours"}),
    "only the last token declared": ("final_norm", {"tokens": "the last token"}),
}


@dataclass
class LastRow:
    """An engine that computes only the last token in the last layer, as llama.cpp may."""

    side: TorchSide

    def __getattr__(self, name: str) -> object:
        return getattr(self.side, name)

    def run(self, ids_BT: Tensor, visit: Visit) -> None:
        """Show the last layer's feed-forward of the last token alone."""

        def cut(site: str, value: Tensor) -> Tensor | None:
            visit(site, value[:, -1:] if site == "layers.5.ffn_swigl" else value)
            return None

        self.side.run(ids_BT, cut)


def declaring(side: TorchSide, site: str, changes: Mapping[str, str]) -> TorchSide:
    """Let a side declare a site otherwise."""
    declared = {**side.declarations, site: replace(side.declarations[site], **changes)}
    return replace(side, declarations=declared)


def traps(model: Llama) -> Iterator[tuple[str, Side]]:
    """Yield sides of a healthy model whose sites must not be compared, by what is wrong."""
    side = llama_side("candidate", model)
    yield "one row in the last layer", cast("Side", LastRow(side))
    for name, (site, changes) in TRAPS.items():
        yield name, declaring(side, site, changes)


def is_refused(model: Llama, candidate: Side, ids_BT: Tensor) -> bool:
    """Say whether a comparison ends as not comparable."""
    try:
        bisect(llama_side("reference", model), candidate, ids_BT)
    except DifferentProgramsError:
        return True
    return False


def has_expected_spike_alone(model: Llama, ids_BT: Tensor) -> bool:
    """Say whether a planted massive activation is expected, and nobody's fault."""
    spiked = with_spike(model, ids_BT)
    reference = transformers_side("transformers", theirs(spiked))
    found = bisect(reference, llama_side("candidate", spiked), ids_BT)
    sites = {one.site for one, is_expected in found.massive if is_expected}
    return (
        found.verdict == NO_FAULT
        and "layers.3.ffn_swigl" in sites
        and all(is_expected for _, is_expected in found.massive)
    )


def read(checkpoint: Path, seed: int) -> tuple[Llama, Tensor, str]:
    """Open a checkpoint, and cut a text that begins at another place for every seed."""
    model = load_directory(checkpoint, "cpu").requires_grad_(False)
    for field in ("num_layers", "num_heads", "num_kv_heads"):
        expected = getattr(bisect_faults.SETTINGS, field)
        assert getattr(model.settings, field) == expected, f"{field} must be {expected}"
    tokenizer = (checkpoint / TOKENIZER_FILE).read_text()
    ids = Tokenizer.from_str(tokenizer).encode(Path(argparse.__file__).read_text()).ids
    return model, torch.tensor([ids[1000 * seed :][:NUM_TOKENS]]), tokenizer


def in_llama_cpp(
    directory: Path, tokenizer: str, file_type: FileType, name: str, model: Llama
) -> Side:
    """Write a model to a GGUF file, and run it there."""
    from model.llama_cpp_side import LlamaCppSide

    path = directory / "model.gguf"
    write_gguf_model(
        path,
        model.settings,
        model.state_dict(),
        tokenizer_json=tokenizer,
        file_type=file_type,
        provenance={},
    )
    return LlamaCppSide(name, path)


def judge_all(
    model: Llama, ids_BT: Tensor, kind: str, engine: Callable[[str, Llama], Side]
) -> Counter[str]:
    """Plant every fault that the form can hold, and count which rules are right."""
    totals: Counter[str] = Counter()
    for fault in FAULTS:
        if engine is not llama_side and "NaN" in fault.name:
            # A GGUF file holds no NaN: its writer and its reader refuse it.
            continue
        outcome = judge(model, fault, ids_BT, kind, engine)
        print(*lines(fault, outcome), sep="\n", flush=True)
        totals.update({rule: int(is_right) for rule, is_right in right(fault, outcome).items()})
        totals["faults"] += 1
    sound = bisect(
        transformers_side("transformers", theirs(model)),
        engine("candidate", bisect_faults.stored_as(faulty(model, HEALTHY), kind)),
        ids_BT,
    )
    totals["sound models without a fault"] += int(sound.verdict == NO_FAULT)
    return totals


def main(arguments: Sequence[str]) -> int:
    """Print the table and the totals; return 1 if a fault in float32 is not named or proved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--as", dest="form", choices=(*STORED, *IN_LLAMA_CPP), default="float32")
    options = parser.parse_args(arguments)
    totals: Counter[str] = Counter()
    print(header())
    with tempfile.TemporaryDirectory() as directory:
        for seed, checkpoint in enumerate(options.checkpoints):
            model, ids_BT, tokenizer = read(checkpoint, seed)
            engine: Callable[[str, Llama], Side] = llama_side
            if options.form in IN_LLAMA_CPP:
                file_type = IN_LLAMA_CPP[options.form]
                engine = partial(in_llama_cpp, Path(directory), tokenizer, file_type)
            kind = options.form if options.form in STORED else "float32"
            # Not added, which would leave out the rules that are never right.
            totals.update(judge_all(model, ids_BT, kind, engine))
            if options.form == "float32":
                totals["spikes expected, and no fault"] += has_expected_spike_alone(model, ids_BT)
                totals["traps not comparable, of 5 each"] += sum(
                    is_refused(model, side, ids_BT) for _, side in traps(model)
                )
    num_faults = totals.pop("faults")
    print(f"{options.form}: {len(options.checkpoints)} models, {num_faults} faults")
    for rule, number in totals.items():
        print(f"{rule:<32}{number:>3}")
    is_missed = min(totals["first site"], totals["recovered"]) < num_faults
    return int(options.form == "float32" and is_missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
