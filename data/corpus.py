"""A corpus as it is asked for: a source, and everything that decides what becomes of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from data.bounds import at_least, share
from data.candidates import Source
from data.errors import WrongSettingError
from data.filter_settings import FilterSettings
from data.removals import Removals
from data.split import GroupBy, Holdout
from data.token_statistics import DegenerateBounds
from data.tokenizer import TokenizerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PretokenizeSettings:
    """Which documents are held out or opted out, and what a token stream must look like."""

    validation_fraction: float
    split_seed: int
    group_by: GroupBy
    """What is held out as one: a document, or all documents of a repository."""
    removal_list: str
    """A file that names what was opted out; empty for none."""
    round_trip_share: float
    max_unk_ratio: float
    min_distinct_ids: int
    max_top_share: float

    def __post_init__(self) -> None:
        """Refuse numbers that no corpus can satisfy.

        Raises: WrongSettingError.
        """
        share("pretokenize.validation_fraction", self.validation_fraction)
        at_least("pretokenize.split_seed", self.split_seed, 0)
        if self.group_by not in ("document", "repository"):
            expected = "'document' or 'repository'"
            raise WrongSettingError("pretokenize.group_by", self.group_by, expected)
        share("pretokenize.round_trip_share", self.round_trip_share)
        if not 0 <= self.max_unk_ratio < 1:
            raise WrongSettingError("pretokenize.max_unk_ratio", self.max_unk_ratio, "in [0, 1)")
        at_least("pretokenize.min_distinct_ids", self.min_distinct_ids, 1)
        share("pretokenize.max_top_share", self.max_top_share)

    @property
    def holdout(self) -> Holdout:
        """How documents are held out."""
        return Holdout(
            validation_fraction=self.validation_fraction,
            seed=self.split_seed,
            group_by=self.group_by,
        )

    @property
    def bounds(self) -> DegenerateBounds:
        """What a token stream must look like."""
        return DegenerateBounds(
            max_unk_ratio=self.max_unk_ratio,
            min_distinct_ids=self.min_distinct_ids,
            max_top_share=self.max_top_share,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """All that a tokens directory is made with."""

    source: Source
    reading: Mapping[str, object]
    """The settings that decide what reading a file of the source yields."""
    filters: FilterSettings
    tokenizer: TokenizerSettings
    settings: PretokenizeSettings
    removals: Removals

    def __post_init__(self) -> None:
        """Refuse sections that contradict each other.

        Raises: WrongSettingError.
        """
        by_repository = self.settings.group_by == "repository"
        if by_repository and self.filters.near_duplicates == "together":
            expected = "'drop' or 'off' where pretokenize.group_by is 'repository'"
            raise WrongSettingError("filters.near_duplicates", "together", expected)
