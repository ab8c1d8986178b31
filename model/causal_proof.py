"""Prove which sites make a candidate's predictions wrong, by patching in the reference's values.

Sufficient: with all named sites patched, the predictions are the reference's. Necessary: with any
one left out they are not. Control: as many other sites, patched, do not help.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from model.local_error import LogitsDistance, logits_distance
from model.sides import Side, kind_of, layer_of
from model.taps import EMBED, FINAL_NORM, LAYER_SITES, LOGITS
from model.teacher_forcing import Values, run_patched

CUTS = (EMBED, "ffn_inp", "output", FINAL_NORM, LOGITS)
"""Everything passes through these: to patch one undoes all that went wrong before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalProof:
    """What patching did to the predictions."""

    unpatched: LogitsDistance
    patched: LogitsDistance
    """All named sites patched."""
    left_out: Mapping[str, LogitsDistance]
    """All but one patched, by that one; of many sites, of the first ones."""
    alone: Mapping[str, LogitsDistance]
    """The reference given the candidate's value at one site, where leaving it out shows nothing:
    all that reads it is named as well, hence patched."""
    control_sites: Sequence[str]
    control: LogitsDistance
    bar_relative_l2: float
    """Distance of the logits that rounding explains."""

    @property
    def is_sufficient(self) -> bool:
        """Whether patching the named sites gives the reference's predictions."""
        return self.patched.max_relative_l2 <= self.bar_relative_l2

    def is_necessary(self, site: str) -> bool | None:
        """Say whether the predictions depart because of a site; None if that was not tried."""
        tried = [each[site] for each in (self.left_out, self.alone) if site in each]
        if not tried:
            return None
        return any(not found.max_relative_l2 <= self.bar_relative_l2 for found in tried)

    @property
    def is_controlled(self) -> bool | None:
        """Whether other sites leave the predictions wrong; None if they never left the noise."""
        if self.unpatched.max_relative_l2 <= self.bar_relative_l2:
            return None
        return not self.control.max_relative_l2 <= self.bar_relative_l2


def prove(
    reference: Side,
    candidate: Side,
    ids_BT: Tensor,
    values: Values,
    faulty: Mapping[str, Tensor],
    *,
    bar_relative_l2: float,
    max_left_out: int,
) -> CausalProof:
    """Patch the named sites, each left out in turn, and as many others.

    `values` are the reference's; `faulty` maps the named sites to the candidate's local values.
    """
    named = list(faulty)

    def distance(sites: Sequence[str]) -> LogitsDistance:
        return logits_distance(values[LOGITS], run_patched(candidate, ids_BT, values, sites))

    left_out = {
        site: distance([other for other in named if other != site]) for site in named[:max_left_out]
    }
    hidden = [site for site, found in left_out.items() if found.max_relative_l2 <= bar_relative_l2]
    control = control_sites(named, candidate.settings.num_layers, candidate.declarations)
    return CausalProof(
        unpatched=distance([]),
        patched=distance(named),
        left_out=left_out,
        alone={
            site: logits_distance(
                values[LOGITS], run_patched(reference, ids_BT, {site: faulty[site]})
            )
            for site in hidden
        },
        control_sites=control,
        control=distance(control),
        bar_relative_l2=bar_relative_l2,
    )


def control_sites(
    named: Sequence[str], num_layers: int, declared: Mapping[str, object]
) -> list[str]:
    """Choose as many sites as are named: of the same kinds in the nearest layers, then others."""
    taken: list[str] = []

    def is_free(site: str) -> bool:
        return site in declared and site not in named and site not in taken

    for site in named:
        layer = layer_of(site)
        kind = kind_of(site)
        kinds = [kind] if layer is not None and kind not in CUTS else []
        kinds += [each for each in LAYER_SITES if each not in CUTS and each != kind]
        choices = (
            f"layers.{near}.{each}" for each in kinds for near in _near(layer or 0, num_layers)
        )
        taken += [choice for choice in choices if is_free(choice)][:1]
    return taken


def _near(layer: int, num_layers: int) -> list[int]:
    """Order the layers by their distance, the given one last of all."""
    others = sorted(range(num_layers), key=lambda other: abs(other - layer))
    return others[1:] + others[:1]
