"""What a document must be like: the settings of every filter, in the order they are asked."""

from dataclasses import dataclass
from typing import Literal

from data.bounds import at_least, share
from data.errors import WrongSettingError

BENCHMARKS = ("HumanEval",)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings:
    """Which candidates become documents, and what is done to their text.

    Units: lengths of lines and runs are in characters, sizes in bytes.
    """

    max_file_bytes: int
    min_document_bytes: int
    allowed_licences: tuple[str, ...]
    """SPDX identifiers in any case; empty allows all. All licences found must be among them;
    `no_license` stands for a candidate of which the source knows none."""
    drop_vendored: bool
    drop_generated: bool
    """By the source's flag, and by what the first lines say."""
    max_lines: int
    max_mean_line_length: float
    max_line_length: int
    min_alphabetic_share: float
    max_encoded_run: int
    """Characters of base64, hexadecimal or escaped data in a row."""
    max_encoded_share: float
    normalization: Literal["none", "nfc"]
    must_parse: bool
    drop_secrets: bool
    personal_data: Literal["keep", "redact"]
    decontaminate: tuple[str, ...]
    decontamination_ngram: int
    """Words in a row that no document may share with a benchmark."""
    near_duplicates: Literal["drop", "together", "off"]
    near_duplicate_jaccard: float
    minhash_seed: int

    def __post_init__(self) -> None:
        """Refuse bounds that no document can satisfy, and names that nobody knows.

        Raises: WrongSettingError.
        """
        at_least("filters.min_document_bytes", self.min_document_bytes, 1)
        at_least("filters.max_file_bytes", self.max_file_bytes, self.min_document_bytes)
        for name in ("max_lines", "max_line_length", "decontamination_ngram"):
            at_least(f"filters.{name}", getattr(self, name), 1)
        if not self.max_mean_line_length > 0:
            raise WrongSettingError(
                "filters.max_mean_line_length", self.max_mean_line_length, "above 0"
            )
        for name in ("min_alphabetic_share", "max_encoded_share"):
            found = getattr(self, name)
            if not 0 <= found <= 1:
                raise WrongSettingError(f"filters.{name}", found, "from 0 to 1")
        at_least("filters.max_encoded_run", self.max_encoded_run, 64)
        at_least("filters.minhash_seed", self.minhash_seed, 0)
        share("filters.near_duplicate_jaccard", self.near_duplicate_jaccard)
        if "" in self.allowed_licences:
            expected = "SPDX identifiers, none empty"
            raise WrongSettingError("filters.allowed_licences", self.allowed_licences, expected)
        self._refuse_unknown()

    def _refuse_unknown(self) -> None:
        for name, known in (
            ("normalization", ("none", "nfc")),
            ("personal_data", ("keep", "redact")),
            ("near_duplicates", ("drop", "together", "off")),
        ):
            if getattr(self, name) not in known:
                raise WrongSettingError(
                    f"filters.{name}", getattr(self, name), f"one of {', '.join(known)}"
                )
        if unknown := set(self.decontaminate) - set(BENCHMARKS):
            raise WrongSettingError(
                "filters.decontaminate", sorted(unknown), f"of {', '.join(BENCHMARKS)}"
            )
