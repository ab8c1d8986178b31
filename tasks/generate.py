"""Complete text with a sealed checkpoint."""

from collections.abc import Iterator
from pathlib import Path

from data.tokenizer import Tokenizer
from evidence.refs import CheckpointRef
from model.errors import WrongSettingError
from model.generation import generate
from tasks.errors import NotFoundError
from tasks.models import APR, load_apr
from tasks.store import open_store

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def complete(
    checkpoint: str, prompt: str, *, num_tokens: int, temperature: float, top_p: float, seed: int
) -> Iterator[str]:
    """Load a checkpoint, then yield the completion in pieces of whole characters.

    Raises: NotFoundError, ArtefactDamagedError, WrongSettingError, ModelFormatError.
    """
    directory = checkpoint_directory(checkpoint)
    tokenizer = Tokenizer.load(directory / "tokenizer.json")
    model = load_apr(directory / APR, "cpu")
    if not prompt:
        raise WrongSettingError("--prompt", "empty", "the beginning of some code")
    ids = generate(
        model,
        [int(i) for i in tokenizer.encode_batch([prompt])[0]],
        num_tokens=num_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop_id=tokenizer.end_of_text_id,
        context_length=model.settings.max_position_embeddings,
    )
    return _characters(tokenizer, ids)


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
    waiting = b""
    for token in ids:
        waiting += tokenizer.decode([token])
        text = waiting.decode("utf-8", errors="replace")
        if not text.endswith(REPLACEMENT) or len(waiting) > 4:
            yield text
            waiting = b""
    if waiting:
        yield waiting.decode("utf-8", errors="replace")
