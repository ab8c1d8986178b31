"""Complete text with a sealed checkpoint."""

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from data.tokenizer import TOKENIZER, Tokenizer
from evidence.refs import CheckpointRef
from model.errors import WrongSettingError
from model.generation import stream
from model.sampling import Sampling
from tasks.device import available_device
from tasks.errors import NotFoundError
from tasks.models import APR, load_apr
from tasks.store import open_store

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def complete(
    checkpoint: str,
    prompt: str,
    *,
    num_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    stops: Sequence[str] = (),
    device: str = "cpu",
    precision: str = "float32",
) -> Iterator[str]:
    """Load a checkpoint, then yield the completion in pieces of whole characters, before a stop.

    Raises: NotFoundError, ArtefactDamagedError, WrongSettingError, ModelFormatError,
        DeviceUnavailableError; InferenceFailedError while it is read.
    """
    directory = checkpoint_directory(checkpoint)
    if not prompt:
        raise WrongSettingError("--prompt", "empty", "the beginning of some code")
    if precision not in PRECISIONS:
        raise WrongSettingError("--precision", precision, f"one of {', '.join(PRECISIONS)}")
    if "" in stops:
        raise WrongSettingError("--stop", "empty", "a text")
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    tokenizer = Tokenizer.load(directory / TOKENIZER)
    model = load_apr(directory / APR, available_device(device)).to(PRECISIONS[precision])
    ids = stream(
        model,
        [int(i) for i in tokenizer.encode_batch([prompt])[0]],
        num_tokens=num_tokens,
        sampling=sampling,
        stop_id=tokenizer.end_of_text_id,
        context_length=model.settings.max_position_embeddings,
    )
    return _before(stops, _characters(tokenizer, ids))


def checkpoint_directory(text: str) -> Path:
    """Return the directory of a checkpoint given as a ref or as a path.

    Raises: NotFoundError, AmbiguousError, WrongRefError, ArtefactDamagedError.
    """
    if text.startswith(f"{CheckpointRef.kind}:"):
        store = open_store()
        return store.open(store.resolve(text)).directory
    directory = Path(text)
    if not (directory / APR).is_file():
        raise NotFoundError(APR, str(directory))
    return directory


def _characters(tokenizer: Tokenizer, ids: Iterator[int]) -> Iterator[str]:
    """Decode ids as they come; bytes of a character not yet whole wait for the rest."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        yield decoder.decode(tokenizer.decode([token]))
    yield decoder.decode(b"", final=True)


def _before(stops: Sequence[str], pieces: Iterator[str]) -> Iterator[str]:
    """Yield text up to the first stop; what may be the beginning of one waits for the rest."""
    waiting = ""
    for piece in pieces:
        waiting += piece
        ends = [end for stop in stops if (end := waiting.find(stop)) >= 0]
        if ends:
            yield waiting[: min(ends)]
            return
        num_waiting = max((_overlap(waiting, stop) for stop in stops), default=0)
        yield waiting[: len(waiting) - num_waiting]
        waiting = waiting[len(waiting) - num_waiting :]
    yield waiting


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text a stop begins with."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
