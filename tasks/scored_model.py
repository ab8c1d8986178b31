"""What an evaluation scores: the best snapshot of a training, a checkpoint, or a model's files."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data.tokenizer import TOKENIZER
from evidence.canonical import digest, file_sha256
from evidence.refs import CheckpointRef, ShardsRef, TrainingRef, parse_ref
from model.apr_file import open_apr
from model.apr_model import TOKENIZER_DIGEST_KEY, read_model
from model.gguf_model import read_gguf_model
from model.hugging_face import read_directory
from model.llama import Llama, LlamaSettings
from model.train_settings import TrainSettings
from tasks.evaluate_errors import UnknownModelError
from tasks.models import APR, build_model
from tasks.snapshots import SNAPSHOTS, Snapshot
from tasks.store import Artefact, Store, open_store
from tasks.train_measure import SETTINGS

CONFIG = "config.json"
READERS: dict[str, Callable[[Path], tuple[LlamaSettings, dict[str, Tensor]]]] = {
    ".apr": read_model,
    ".gguf": read_gguf_model,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenModel:
    """A model that is ready to be read, and what is known of it."""

    path: Path
    "A file of one of the `READERS`, or a Hugging Face directory."
    tokenizer_sha256: str
    document_masking: bool
    "Whether documents of a row were kept apart in its training."
    training: str | None = None
    checkpoint: str | None = None
    epoch: int | None = None
    recorded_val_loss: float | None = None
    "Of the model in memory, when its snapshot was written."
    recorded_on: str | None = None
    "The shards whose validation rows that is the loss of."

    def load(self, device: str) -> Llama:
        """Read the weights.

        Raises: CorruptFileError, ModelFormatError, WrongTensorsError.
        """
        return build_model(*_read(self.path), device)

    def facts(self, shards: ShardsRef) -> dict[str, Any]:
        """Say which model it is; its recorded loss only where that is of these shards."""
        is_same = self.recorded_on == str(shards)
        return {
            "training": self.training,
            "checkpoint": self.checkpoint,
            "epoch": self.epoch,
            "recorded_val_loss": self.recorded_val_loss if is_same else None,
            "document_masking": self.document_masking,
            "model_sha256": _model_sha256(self.path),
        }


@dataclass(frozen=True, slots=True)
class ScoredTraining:
    """The best snapshot of a training."""

    ref: TrainingRef

    @property
    def short(self) -> str:
        """The model as people call it."""
        return self.ref.short

    @property
    def inputs(self) -> dict[str, str]:
        """What it adds to the inputs of the evaluation's recipe."""
        return {"training": str(self.ref)}

    def open(self, store: Store) -> OpenModel:
        """Find the snapshot.

        Raises: NotFoundError, ArtefactDamagedError.
        """
        training = store.open(self.ref)
        return _of_snapshot(best_snapshot(training), str(self.ref))


@dataclass(frozen=True, slots=True)
class ScoredCheckpoint:
    """A sealed checkpoint."""

    ref: CheckpointRef

    @property
    def short(self) -> str:
        """The model as people call it."""
        return self.ref.short

    @property
    def inputs(self) -> dict[str, str]:
        """What it adds to the inputs of the evaluation's recipe."""
        return {"checkpoint": str(self.ref)}

    def open(self, store: Store) -> OpenModel:
        """Find the weights, and how they were trained.

        Raises: NotFoundError, ArtefactDamagedError.
        """
        sealed = store.open(self.ref)
        content = sealed.index["content"]
        training = content.get("training")
        return OpenModel(
            path=sealed.directory / APR,
            tokenizer_sha256=file_sha256(sealed.directory / TOKENIZER),
            document_masking=training is not None and _kept_apart(store, training),
            training=training,
            checkpoint=str(self.ref),
            epoch=content.get("epoch"),
        )


@dataclass(frozen=True, slots=True)
class ScoredFiles:
    """A file of one of the `READERS`, a snapshot's among them, or a Hugging Face directory."""

    path: Path
    sha256: str

    @property
    def short(self) -> str:
        """The model as people call it."""
        return f"{self.path.name} {self.sha256[:12]}"

    @property
    def inputs(self) -> dict[str, str]:
        """What it adds to the inputs of the evaluation's recipe."""
        return {"model": f"sha256:{self.sha256}"}

    def open(self, store: Store) -> OpenModel:  # noqa: ARG002  # others need it
        """Look what is known of the model; of one from elsewhere that is little.

        Raises: UnknownModelError.
        """
        snapshot = Snapshot(self.path.parent, self.path.stem)
        if self.path.is_file() and snapshot.record.is_file():
            return _of_snapshot(snapshot, None)
        tokenizer_sha256 = _tokenizer_sha256(self.path)
        return OpenModel(path=self.path, tokenizer_sha256=tokenizer_sha256, document_masking=False)


Scored = ScoredTraining | ScoredCheckpoint | ScoredFiles


def scored(text: str) -> Scored:
    """Return the model that a person named, by ref or by path.

    Raises: NotFoundError, AmbiguousError, WrongRefError, UnknownModelError.
    """
    kind = text.partition(":")[0]
    if kind == TrainingRef.kind:
        return ScoredTraining(TrainingRef(open_store().resolve(text).digest))
    if kind == CheckpointRef.kind:
        return ScoredCheckpoint(CheckpointRef(open_store().resolve(text).digest))
    path = Path(text)
    if (path / APR).is_file():
        path /= APR
    is_directory = all((path / name).is_file() for name in (CONFIG, TOKENIZER))
    if not is_directory and not (path.is_file() and path.suffix in READERS):
        files = " or ".join(READERS)
        expected = f"a ref, a {files} file, or a directory with {APR} or {CONFIG} and {TOKENIZER}"
        raise UnknownModelError(path.absolute(), expected)
    return ScoredFiles(path.absolute(), _model_sha256(path))


def best_snapshot(training: Artefact) -> Snapshot:
    """Return the snapshot with the lowest validation loss."""
    return Snapshot.of_epoch(
        training.directory / SNAPSHOTS, int(training.index["content"]["best_epoch"])
    )


def train_settings(training: Path) -> TrainSettings:
    """Read with which settings a training directory was made."""
    settings: dict[str, Any] = json.loads((training / SETTINGS).read_text())
    return TrainSettings(**settings["train"])


def _kept_apart(store: Store, training: str) -> bool:
    directory = store.open(parse_ref(training)).directory
    return train_settings(directory).document_masking


def _of_snapshot(snapshot: Snapshot, training: str | None) -> OpenModel:
    settings, record = train_settings(snapshot.directory.parent), snapshot.read()
    return OpenModel(
        path=snapshot.weights,
        tokenizer_sha256=_tokenizer_sha256(snapshot.weights),
        document_masking=settings.document_masking,
        training=training,
        epoch=snapshot.epoch,
        recorded_val_loss=record["val_loss"],
        recorded_on=record["shards"],
    )


def _read(path: Path) -> tuple[LlamaSettings, Mapping[str, Tensor]]:
    return read_directory(path) if path.is_dir() else READERS[path.suffix](path)


def _model_sha256(path: Path) -> str:
    """Digest what decides about a model: a file, or those that transformers reads."""
    if path.is_file():
        return file_sha256(path)
    names = [CONFIG, TOKENIZER, *sorted(each.name for each in path.glob("*.safetensors"))]
    return digest({name: file_sha256(path / name) for name in names})


def _tokenizer_sha256(path: Path) -> str:
    """Digest the tokenizer: as an `.apr` file says, or that in the directory of other files."""
    if path.suffix != ".apr":
        beside = (path if path.is_dir() else path.parent) / TOKENIZER
        if not beside.is_file():
            raise UnknownModelError(path, f"beside the {TOKENIZER} that it was trained with")
        return file_sha256(beside)
    return str(open_apr(path).metadata.get(TOKENIZER_DIGEST_KEY, "not named"))
