"""What a trained model is worth in every type of GGUF file, run by llama.cpp.

    python -m tests.benchmarks.gguf_quality CHECKPOINT --text DIRECTORY [--tokens 65536]

CHECKPOINT is a checkpoint of the store, DIRECTORY holds Python files that it was not trained on.
The model as we run it in float32 is the reference. A difference of losses is given with its
standard error over windows. `same weights` compares llama.cpp with our forward pass over what the
file holds, so that the engine's rounding is told from the format's.

Shapes: R windows, T positions of one, V vocabulary.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.tokenizer import Tokenizer
from model.apr_model import read_model
from model.gguf_model import FileType, read_gguf_model, write_gguf_model
from model.llama import Llama, LlamaSettings
from tests.benchmarks.harness import print_header
from tests.interop.engine import Engine

HEADINGS = (
    "| file | MB | perplexity | loss minus ours, nats | cosine distance to ours, worst "
    "| same weights, worst | same top token | same greedy continuations (tokens) |\n"
    "|---|---|---|---|---|---|---|---|"
)
NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 100, 48, 32


@dataclass
class Scores:
    """Losses of every window, and logits of the prompts."""

    losses_R: Tensor
    logits: list[Tensor]
    continuations: list[list[int]]


def encode_files(tokenizer_path: Path, directory: Path, num_tokens: int) -> np.ndarray:
    """Encode files one after the other, until there are so many tokens."""
    tokenizer = Tokenizer.load(tokenizer_path)
    ids: list[int] = []
    for path in sorted(directory.rglob("*.py")):
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        ids += [*tokenizer.encode_batch([text])[0].tolist(), tokenizer.end_of_text_id]
        if len(ids) >= num_tokens:
            return np.array(ids[:num_tokens])
    raise SystemExit(f"{directory} gives {len(ids)} tokens, {num_tokens} are asked for")


def loss(logits_TV: Tensor, ids_T: np.ndarray) -> Tensor:
    """Units: nats per token."""
    return functional.cross_entropy(logits_TV[:-1], torch.from_numpy(ids_T[1:]))


class OurModel:
    """The same questions, answered by our forward pass."""

    def __init__(self, settings: LlamaSettings, tensors: dict[str, Tensor]) -> None:
        self._model = Llama(settings).eval()
        self._model.load_state_dict({name: value.float() for name, value in tensors.items()})

    @torch.inference_mode()
    def logits(self, ids_T: list[int]) -> Tensor:
        found: Tensor = self._model(torch.tensor(ids_T)[None])[0]
        return found.double()

    def continuation(self, prompt_ids: list[int], num_tokens: int) -> list[int]:
        ids = list(prompt_ids)
        for _ in range(num_tokens):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[len(prompt_ids) :]


def score(model: OurModel | Engine, windows_RT: np.ndarray, prompts: np.ndarray) -> Scores:
    """Score all windows and continue all prompts."""
    losses = [loss(model.logits(ids_T.tolist()), ids_T) for ids_T in windows_RT]
    logits = [model.logits(prompt.tolist()) for prompt in prompts]
    continuations = [model.continuation(prompt.tolist(), NEW_TOKENS) for prompt in prompts]
    return Scores(torch.stack(losses), logits, continuations)


def worst_cosine_distance(left: list[Tensor], right: list[Tensor]) -> float:
    """Give the largest distance over all positions of all prompts."""
    pairs = zip(left, right, strict=True)
    return max(float((1 - functional.cosine_similarity(a, b, dim=-1)).max()) for a, b in pairs)


def row(file_type: FileType, path: Path, found: Scores, same: list[Tensor], ours: Scores) -> str:
    """Compare one file with the model in float32."""
    difference_R = found.losses_R - ours.losses_R
    error = float(difference_R.std() / len(difference_R) ** 0.5)
    delta = float(difference_R.mean())
    perplexity = float(found.losses_R.mean().exp())
    change = 100 * (perplexity / float(ours.losses_R.mean().exp()) - 1)
    pairs = list(zip(found.continuations, ours.continuations, strict=True))
    tokens = [a == b for left, right in pairs for a, b in zip(left, right, strict=True)]
    tops = [torch.cat(each).argmax(-1) for each in (found.logits, ours.logits)]
    return (
        f"| {file_type.name} | {path.stat().st_size / 1e6:.2f} "
        f"| {perplexity:.4f} ({change:+.3f} %) | {delta:+.6f} +- {error:.6f} "
        f"| {worst_cosine_distance(found.logits, ours.logits):.1e} "
        f"| {worst_cosine_distance(found.logits, same):.1e} "
        f"| {float((tops[0] == tops[1]).double().mean()):.4f} "
        f"| {sum(a == b for a, b in pairs)} of {len(pairs)} ({np.mean(tokens):.3f}) |"
    )


def main() -> None:
    """Print a table, a row for each type of file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=65_536)
    names = [file_type.name for file_type in FileType]
    parser.add_argument("--types", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    settings, tensors = read_model(options.checkpoint / "model.apr")
    context_length = settings.max_position_embeddings
    tokenizer_path = options.checkpoint / "tokenizer.json"
    ids = encode_files(tokenizer_path, options.text, options.tokens)
    windows_RT = ids[: len(ids) // context_length * context_length].reshape(-1, context_length)
    prompts = windows_RT[:: max(len(windows_RT) // NUM_PROMPTS, 1)][:NUM_PROMPTS, :PROMPT_TOKENS]
    print_header("GGUF files in llama.cpp", ("llama-cpp-python", "torch", "numpy"))
    print(f"{settings}\n\n{windows_RT.size} tokens of {options.text}, {len(prompts)} prompts\n")
    ours = score(OurModel(settings, tensors), windows_RT, prompts)
    print(f"ours, float32: perplexity {float(ours.losses_R.mean().exp()):.4f}\n")
    print(HEADINGS)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.gguf"
        for file_type in map(FileType.__getitem__, options.types):
            write_gguf_model(
                path,
                settings,
                tensors,
                tokenizer_json=tokenizer_path.read_text("utf-8"),
                file_type=file_type,
                provenance={},
            )
            stored = OurModel(*read_gguf_model(path))
            same = [stored.logits(prompt.tolist()) for prompt in prompts]
            engine = Engine(path, context_length=context_length)
            print(row(file_type, path, score(engine, windows_RT, prompts), same, ours), flush=True)
            engine.close()


if __name__ == "__main__":
    main()
