"""What sealing a checkpoint costs: .apr, safetensors, Q8_0 and Q4_K of a model of random weights.

    python -m tests.benchmarks.seal [--preset llama-370m] [--layers N] [--directory DIRECTORY]

Does what the checkpoint stage does, step by step, in processor seconds. Then our safetensors
writer against `safetensors.torch.save_file`, and loading until the first logits against
`safetensors.torch.load_file` into a model that was drawn first. Files are synced by both sides.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from data.tokenizer_file import END_OF_TEXT, byte_characters
from evidence.refs import CheckpointRef
from model.gguf_model import BLOCK_KINDS, FALLBACKS, FileType
from model.hugging_face import WEIGHTS_FILE
from model.k_quants import encode
from model.llama import Llama, LlamaSettings, initialise
from model.safetensors_file import write_safetensors
from tasks.bundle import Sealable, WeightsFile, weights_files
from tasks.checkpoint_settings import CheckpointSettings
from tasks.first_forward import forward_of, record_of, require_same, write_record
from tasks.models import APR, load_apr, load_directory
from tasks.publish_bundle import finish
from tasks.store import Store
from tests.benchmarks.harness import MEGABYTE, print_header

PRESETS = Path(__file__).parents[2] / "flows" / "presets"
IDS = [list(range(1, 65))]
SETTINGS = CheckpointSettings(
    name="random",
    licence="MIT",
    data_source="none",
    data_licence="none",
    safetensors_dtype="float32",
    apr_types=(),
    gguf_types=("Q8_0", "Q4_K"),
)
Clock = defaultdict[str, float]


@contextmanager
def timed(clock: Clock, name: str) -> Iterator[None]:
    """Add the processor seconds of a block to an entry; other programs do not lengthen those."""
    begin = time.process_time()
    yield
    clock[name] += time.process_time() - begin


def tokenizer_of(vocab_size: int) -> str:
    """Make a tokenizer of every byte and as many pairs of bytes as there are rows."""
    characters = byte_characters()
    pairs = [(left, right) for left in characters for right in characters]
    merges = pairs[: vocab_size - len(characters) - 1]
    tokens = [END_OF_TEXT, *characters, *("".join(pair) for pair in merges)]
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    return str(tokenizer.to_str())


def random_model(llama: LlamaSettings) -> Sealable:
    """Draw a model as training would begin with it."""
    model = Llama(llama)
    initialise(model, 1)
    return Sealable(
        llama=llama,
        tensors={name: each.detach() for name, each in model.state_dict().items()},
        tokenizer_json=tokenizer_of(llama.vocab_size),
        ends={"bos_token_id": 0, "eos_token_id": 0},
        provenance={"name": SETTINGS.name},
    )


def seal_one(file: WeightsFile, model: Sealable, clock: Clock) -> tuple[str, object]:
    """Write, load, compute and compare one file, with a clock around each."""
    with timed(clock, "write"):
        file.write(file.path)
    with timed(clock, "load"):
        settings, tensors = file.read()
    with timed(clock, "forward"):
        found = forward_of(settings, tensors, IDS)
    with timed(clock, "what it should hold"):
        held = model.tensors if file.is_lossless else file.holds()
    with timed(clock, "forward"):
        expected = forward_of(model.llama, held, IDS)
    require_same(file.path, found, expected)
    size = file.path.stat().st_size
    return file.path.name, {"MB": size / MEGABYTE, **clock}


def quantising_seconds(model: Sealable) -> dict[str, float]:
    """Time the encoders alone, on the matrices that they get."""
    clock: Clock = defaultdict(float)
    for file_type in (FileType.Q8_0, FileType.Q4_K):
        for name, tensor in model.tensors.items():
            kind = file_type.head if name == "lm_head.weight" else file_type.matrices
            while tensor.shape[-1] % kind.block_values:
                kind = FALLBACKS[kind]
            if tensor.ndim == 2 and kind in BLOCK_KINDS:
                with timed(clock, f"quantise {file_type.name}"):
                    encode(BLOCK_KINDS[kind], tensor)
    return dict(clock)


def writers(model: Sealable, directory: Path, repeats: int) -> dict[str, float]:
    """Time both writers of safetensors in turns, and keep each one's fastest."""
    path = directory / "writer.safetensors"
    tensors = dict(model.tensors)

    def ours() -> None:
        dtypes = dict.fromkeys(tensors, torch.float32)
        write_safetensors(path, tensors, dtypes=dtypes, metadata={"format": "pt"})

    def theirs() -> None:
        save_file(tensors, path, metadata={"format": "pt"})
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    return _fastest({"write_safetensors": ours, "save_file": theirs}, repeats, path)


def loaders(out: Path, llama: LlamaSettings, repeats: int) -> dict[str, float]:
    """Time each way from a file to the first logits."""
    ids = torch.tensor(IDS)

    def theirs() -> None:
        model = Llama(llama)
        model.load_state_dict(load_file(out / WEIGHTS_FILE))
        model(ids)

    ways: dict[str, Callable[[], object]] = {
        "load_apr": lambda: load_apr(out / APR, "cpu")(ids),
        "load_directory": lambda: load_directory(out, "cpu")(ids),
        "load_file into Llama": theirs,
    }
    with torch.inference_mode():
        return _fastest(ways, repeats, None)


def _fastest(
    ways: dict[str, Callable[[], object]], repeats: int, path: Path | None
) -> dict[str, float]:
    fastest: dict[str, float] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            seconds = time.process_time() - begin
            fastest[name] = min(seconds, fastest.get(name, seconds))
            if path:
                path.unlink()
    return fastest


def run(llama: LlamaSettings, directory: Path, repeats: int) -> None:
    """Seal, and print what took how long."""
    model = random_model(llama)
    encode(BLOCK_KINDS[FileType.Q4_K.matrices], torch.ones(1, 256))  # compiles
    store, total = Store(directory / "store"), defaultdict[str, float](float)
    with store.building("seal") as out:
        begin, found = (time.perf_counter(), time.process_time()), {}
        with timed(total, "forward"):
            reference = forward_of(llama, model.tensors, IDS)
        for file in weights_files(out, model, SETTINGS):
            clock: Clock = defaultdict(float)
            name, row = seal_one(file, model, clock)
            found[file.path.name] = reference
            _print_row(name, row)
            for key, seconds in clock.items():
                total[key] += seconds
        write_record(out, record_of(IDS, reference, found))
        (out / "tokenizer.json").write_text(model.tokenizer_json)
        with timed(total, "hash for card and manifest"):
            finish(
                out,
                SETTINGS,
                tokenizer_json=model.tokenizer_json,
                facts={"version": "1", "architecture": "llama", "provenance": {}},
                card="\n".join,
            )
        with timed(total, "hash, sync and rename in the store"):
            ref = store.commit(out, CheckpointRef, {})
        wall, seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
    print(f"\nsealed in {seconds:.1f} processor seconds, {wall:.1f} s by the wall; "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    for name, spent in sorted(total.items(), key=lambda item: -item[1]):
        print(f"  {name:<36}{spent:7.1f} s {spent / seconds:6.1%}")
    for name, spent in quantising_seconds(model).items():
        print(f"  of write: {name:<26}{spent:7.1f} s {spent / seconds:6.1%}")
    rest = seconds - sum(total.values())
    print(f"  {'the rest':<36}{rest:7.1f} s {rest / seconds:6.1%}")
    _print_ratio(writers(model, directory, repeats), "save_file")
    _print_ratio(loaders(store.directory(ref), llama, repeats), "load_file into Llama")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE
    print(f"\nlargest memory {peak:,.0f} MB")


def _print_row(name: str, row: object) -> None:
    assert isinstance(row, dict)
    print(f"{name:<22}" + "  ".join(f"{key} {value:,.1f}" for key, value in row.items()))


def _print_ratio(fastest: dict[str, float], against: str) -> None:
    print()
    for name, seconds in fastest.items():
        print(f"{name:<38}{seconds:7.2f} s  {fastest[against] / seconds:6.2f}x of {against}")


def main() -> None:
    """Seal a model of a preset's shape."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", default="llama-370m")
    parser.add_argument("--layers", type=int, default=0, help="fewer than the preset's")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    preset = tomllib.loads((PRESETS / f"{options.preset}.toml").read_text())
    llama = LlamaSettings(**preset["model"])
    if options.layers:
        llama = replace(llama, num_layers=options.layers)
    print_header(f"seal {options.preset}, {llama.num_layers} layers", ("torch", "safetensors"))
    directory = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        run(llama, directory, options.repeats)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
