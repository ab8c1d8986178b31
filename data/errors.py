"""What can go wrong in the data package.

DataError
+-- WrongSettingError             a setting that cannot work
+-- MissingFileError              a setting names a file that does not exist
+-- SourceError                   the source files are not what was asked for
|   +-- MissingSourceError        their directory does not exist
|   +-- EmptySourceError          no file matches the patterns
|   +-- UnnameableFileError       a file name that no record can hold, or that leads elsewhere
|   +-- ChangedSourceError        a file changed after it was listed
+-- NoTrainingDocumentsError      every document is on the validation side
+-- NoValidationDocumentsError    every document is on the training side
+-- LeakError                     the same content is on both sides
+-- VocabularyTooLargeError       the corpus cannot fill the vocabulary
+-- WrongTokenizerError           a tokenizer.json this package cannot use
+-- TokenizerGateError            a tokenizer that fails a proof
+-- UnusableEngineError           an encoding engine that is absent or refuses the tokenizer
+-- EncoderMismatchError          an engine whose ids are not Hugging Face's
+-- TokenOutOfRangeError          a token id beyond the vocabulary
+-- RoundTripError                stored tokens do not decode to the source bytes
+-- DegenerateTokensError         a token stream that no model should be trained on
+-- CorpusTooSmallError           fewer tokens than one row or one batch needs
+-- CorruptTokensError            a tokens directory that contradicts its index
+-- CorruptShardError             a shards directory that contradicts its index
+-- WrongProblemsError            a file of code problems that could not be solved
"""

import copyreg
from dataclasses import dataclass
from pathlib import Path


class DataError(Exception):
    """Base of this package; `hint` is the one useful action, or empty."""

    hint: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by attributes: an error given its fields by keyword crosses processes too."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


@dataclass(eq=False)
class WrongSettingError(DataError):
    """A setting that cannot work: which, what it is, what it should be."""

    setting: str
    found: object
    expected: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.found!r}, should be {self.expected}"


@dataclass(eq=False)
class MissingFileError(DataError):
    """A file that a setting names and that does not exist."""

    setting: str
    path: Path
    hint = "correct the path"

    def __str__(self) -> str:
        return f"{self.setting}: {self.path} does not exist, should be a file"


class SourceError(DataError):
    """Source files that are not what was asked for."""


@dataclass(eq=False)
class MissingSourceError(SourceError):
    """A place that does not exist."""

    path: Path | str
    hint = "correct source.path"

    def __str__(self) -> str:
        return f"{self.path}: does not exist, should hold source files"


@dataclass(eq=False)
class EmptySourceError(SourceError):
    """A source without a matching file."""

    path: Path | str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    hint = "widen source.include or narrow source.exclude"

    def __str__(self) -> str:
        patterns = f"{', '.join(self.include)} without {', '.join(self.exclude) or 'exceptions'}"
        return f"{self.path}: no file matches, should hold at least one of {patterns}"


@dataclass(eq=False)
class UnnameableFileError(SourceError):
    """A file whose name no record can hold, or that is not below its source."""

    path: str
    expected: str
    hint = "rename the file, or exclude it"

    def __str__(self) -> str:
        return f"{self.path!a}: the name is not {self.expected}, should be"


@dataclass(eq=False)
class ChangedSourceError(SourceError):
    """A source file that changed after it was listed."""

    path: Path | str
    found_sha256: str
    listed_sha256: str
    hint = "list the source again and leave it alone until the stage ends"

    def __str__(self) -> str:
        found, listed = self.found_sha256[:12], self.listed_sha256[:12]
        return f"{self.path}: sha256 is {found}..., should be {listed}... as listed"


@dataclass(eq=False)
class NoTrainingDocumentsError(DataError):
    """A corpus of which nothing is left to train on."""

    num_documents: int
    validation_fraction: float
    hint = "use a larger corpus, weaken [filters], or lower pretokenize.validation_fraction"

    def __str__(self) -> str:
        return (
            f"corpus: 0 of {self.num_documents} documents are for training "
            f"at validation_fraction {self.validation_fraction}, should be at least 1"
        )


@dataclass(eq=False)
class NoValidationDocumentsError(DataError):
    """A corpus of which nothing is held out."""

    num_documents: int
    validation_fraction: float
    hint = "use a larger corpus, or raise pretokenize.validation_fraction"

    def __str__(self) -> str:
        return (
            f"corpus: 0 of {self.num_documents} documents are for validation "
            f"at validation_fraction {self.validation_fraction}, should be at least 1"
        )


@dataclass(eq=False)
class LeakError(DataError):
    """Content that is both trained on and validated on."""

    where: Path
    num_shared: int
    sha256: str
    hint = "pretokenize the corpus again"

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.num_shared} digests are in train and val, "
            f"{self.sha256[:12]}... among them; should be 0"
        )


@dataclass(eq=False)
class VocabularyTooLargeError(DataError):
    """A vocabulary that the corpus cannot fill."""

    requested: int
    supported: int
    hint = "lower vocab_size, lower min_merge_frequency, or use a larger corpus"

    def __str__(self) -> str:
        return (
            f"tokenizer: vocab_size is {self.requested}, "
            f"should be at most {self.supported}, which is all that the corpus supports"
        )


@dataclass(eq=False)
class WrongTokenizerError(DataError):
    """A tokenizer file that is not a byte-level BPE with an end of text."""

    path: Path
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found}, should be {self.expected}"


@dataclass(eq=False)
class TokenizerGateError(DataError):
    """A tokenizer that does not do what every tokenizer here must."""

    path: Path
    gate: str
    found: str
    expected: str
    hint = "train another tokenizer, or import one that is byte-level and without a normalizer"

    def __str__(self) -> str:
        return f"{self.path}: {self.gate}: {self.found}, should be {self.expected}"


@dataclass(eq=False)
class UnusableEngineError(DataError):
    """An engine that cannot encode with this tokenizer on this machine."""

    engine: str
    found: str
    expected: str
    hint = 'set tokenizer.engine to "tokenizers", which is slower and can do everything'

    def __str__(self) -> str:
        return f"tokenizer.engine {self.engine}: {self.found}, should be {self.expected}"


@dataclass(eq=False)
class EncoderMismatchError(DataError):
    """A document that the engine and Hugging Face encode differently."""

    where: str
    engine: str
    document: int
    position: int
    found_id: int
    expected_id: int
    hint = 'set tokenizer.engine to "tokenizers" or another one, and report this document'

    def __str__(self) -> str:
        return (
            f"{self.where}: document {self.document}: token {self.position} of {self.engine} "
            f"is id {self.found_id}, should be {self.expected_id} as of Hugging Face (-1: no token)"
        )


@dataclass(eq=False)
class TokenOutOfRangeError(DataError):
    """A token id that the vocabulary does not have."""

    where: str
    token: int
    vocab_size: int
    hint = "use the tokenizer and the vocab_size that the tokens were made with"

    def __str__(self) -> str:
        return f"{self.where}: token id is {self.token}, should be below {self.vocab_size}"


@dataclass(eq=False)
class RoundTripError(DataError):
    """A document whose stored tokens are not its text."""

    where: str
    found_sha256: str
    document_sha256: str
    hint = "the tokens were damaged or the encoder lost information: report this document"

    def __str__(self) -> str:
        found, expected = self.found_sha256[:12], self.document_sha256[:12]
        return f"{self.where}: stored tokens decode to sha256 {found}..., should be {expected}..."


@dataclass(eq=False)
class DegenerateTokensError(DataError):
    """A token stream that carries next to no information."""

    where: str
    measure: str
    found: float
    expected: str
    num_tokens: int
    is_short: bool = False
    "Whether that may be all that there is to it."

    def __str__(self) -> str:
        return (
            f"{self.where}, {self.num_tokens:,} tokens: {self.measure} is {self.found:.6g}, "
            f"should be {self.expected}"
        )

    @property
    def hint(self) -> str:  # type: ignore[override]  # of a few tokens little can be said
        """Say what to look at: the text there is, or the tokenizer."""
        if not self.is_short:
            return "decode the first document and look at it: the tokenizer does not fit the text"
        more = "raise pretokenize.validation_fraction, " if self.where.startswith("val") else ""
        return (
            f"there is little text: {more}use a larger corpus, fewer shards, "
            "or lower pretokenize.min_distinct_ids"
        )


@dataclass(eq=False)
class CorpusTooSmallError(DataError):
    """A split with fewer tokens than the unit that is cut from it."""

    split: str
    num_tokens: int
    needed: int

    def __str__(self) -> str:
        return f"{self.split}: {self.num_tokens} tokens, should be at least {self.needed}"

    @property
    def hint(self) -> str:  # type: ignore[override]  # depends on the split
        """Say what gives the split more, or needs less of it."""
        more = "raise pretokenize.validation_fraction, " if self.split == "val" else ""
        return f"{more}use a larger corpus, a shorter context or a smaller batch"


@dataclass(eq=False)
class CorruptTokensError(DataError):
    """A tokens directory that contradicts its index."""

    path: Path
    found: str
    expected: str
    hint = "pretokenize the corpus again"

    def __str__(self) -> str:
        return f"{self.path}: {self.found}, should be {self.expected}"


@dataclass(eq=False)
class CorruptShardError(DataError):
    """A shards directory that contradicts its index."""

    path: Path
    found: str
    expected: str
    hint = "shard the tokens again"

    def __str__(self) -> str:
        return f"{self.path}: {self.found}, should be {self.expected}"


@dataclass(eq=False)
class WrongProblemsError(DataError):
    """A file of code problems with a line that is none."""

    source: str
    line: int
    found: str
    expected: str
    hint = "the format is HumanEval's: one JSON object a line"

    def __str__(self) -> str:
        where = f"{self.source}, line {self.line}" if self.line else self.source
        return f"{where}: {self.found}, should be {self.expected}"
