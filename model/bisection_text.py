"""A bisection in words: one sentence a fault, and tables."""

from collections.abc import Iterator, Sequence

from model.bisection import Bisection, Fault
from model.causal_proof import CausalProof
from model.local_error import LogitsDistance
from model.massive_activations import MassiveActivation
from model.sides import say_site
from model.tensor_diff import SettingDifference, TensorDifference


def bisection_text(found: Bisection) -> str:
    """Say what was found: the verdict first, then what it rests on."""
    scope = f"{found.num_positions} tokens, {len(found.local)} sites"
    floor = found.logits_floor.max_relative_l2 if found.logits_floor else None
    lines = [
        f"{found.verdict}: {found.candidate} against {found.reference}, {scope}",
        predictions_line(found.unpatched, floor),
        *difference_lines(found.settings, found.tensors, found.lent),
        *(fault_sentence(fault, found) for fault in found.faults),
        *(_proof(found.proof) if found.proof else ()),
        *(massive_sentence(one, is_expected=expected) for one, expected in found.massive),
    ]
    return "\n".join(lines) + "\n"


def fault_sentence(fault: Fault, found: Bisection) -> str:
    """Say how far a site departs by itself, and what patching shows."""
    error, proof = fault.error, found.proof
    far = f"local rel-L2 {error.max_relative_l2:.1e} (floor {fault.floor:.0e})"
    parts = [
        f"{say_site(error.site)}: {far} tokens {error.num_positions_beyond}/{error.num_positions}"
    ]
    if proof:
        parts += [
            f"patching all named: KL {_kl(proof.unpatched)} -> {_kl(proof.patched)}",
            f"leaving it out: {_effect(error.site, proof)}",
            f"control: {_kl(proof.control)}",
        ]
    massive = any(one.site == error.site for one, _ in found.massive)
    parts.append(f"massive activation: {'yes' if massive else 'no'}")
    parts += fault.because
    return "; ".join(parts)


def massive_sentence(one: MassiveActivation, *, is_expected: bool) -> str:
    """Say where a massive activation is, and that it is none of the candidate's doing, if so."""
    word = "expected" if is_expected else "unexplained"
    return (
        f"{word} massive activation at {say_site(one.site)}, token {one.position}, channel "
        f"{one.channel}: {one.value:.4g}, {one.times_median:.0f} times the median, "
        f"{one.energy_share:.1%} of the energy"
    )


def fault_rows(found: Bisection) -> list[dict[str, object]]:
    """Lay the faults out as a table."""
    return [
        {
            "site": fault.error.site,
            "local rel-L2": f"{fault.error.max_relative_l2:.1e}",
            "floor": f"{fault.floor:.0e}",
            "tokens": f"{fault.error.num_positions_beyond}/{fault.error.num_positions}",
            "left out": _effect(fault.error.site, found.proof) if found.proof else "",
            "because": "; ".join(fault.because),
        }
        for fault in found.faults
    ]


def heat(found: Bisection) -> tuple[list[str], list[list[float]]]:
    """Tabulate local errors over their floors: kinds of sites, and a row for every layer."""
    layers: dict[str, dict[str, float]] = {}
    for site, error in found.local.items():
        layer, _, kind = site.rpartition(".")
        floor = found.floors.get(kind, 0.0)
        ratio = error.max_relative_l2 / floor if floor else error.max_relative_l2
        if layer:
            layers.setdefault(layer, {})[kind] = ratio
    kinds = list(next(iter(layers.values())))
    return kinds, [[row[kind] for kind in kinds] for row in layers.values()]


def predictions_line(apart: LogitsDistance, limit: float | None, word: str = "floor") -> str:
    """Say how far predictions are apart, beside what rounding does to them."""
    floor = f", {word} {limit:.0e}" if limit is not None else ""
    return (
        f"predictions: KL {_kl(apart)} nats a token, at most {apart.max_kl_nats:.1e}; top-1 agrees "
        f"at {apart.top1_agreement:.1%}; logits rel-L2 {apart.max_relative_l2:.1e}{floor}"
    )


def difference_lines(
    settings: Sequence[SettingDifference],
    tensors: Sequence[TensorDifference],
    lent: Sequence[str],
) -> Iterator[str]:
    """Say in what the two differ before anything is computed."""
    for setting in settings:
        yield f"{setting.name} is {setting.candidate}, the reference has {setting.reference}"
    if lent:
        ways = sorted({each.rounded_to for each in tensors if each.name in lent})
        yield f"{len(lent)} tensors stored as {', '.join(ways)}, and lent to the reference"
    for each in tensors:
        if each.name not in lent:
            why = each.explanation or "no hypothesis holds"
            yield (
                f"{each.name}: rel-L2 {each.relative_l2:.1e}, {each.num_differing} of "
                f"{each.num_elements} values differ; {why}"
            )


def _proof(proof: CausalProof) -> Iterator[str]:
    enough = "restores" if proof.is_sufficient else "does not restore"
    apart = proof.patched.max_relative_l2
    yield f"patching the named sites {enough} the predictions (logits rel-L2 {apart:.1e})"
    said = {
        True: "does not help",
        False: "helps as well: the proof fails",
        None: "shows nothing: the predictions are within the noise as they are",
    }
    yield f"patching {len(proof.control_sites)} other sites {said[proof.is_controlled]}"


def _effect(site: str, proof: CausalProof) -> str:
    """Tell the KL without a patch of this site; or, where that is hidden, of its fault alone."""
    if site in proof.alone:
        return f"hidden by what reads it; alone in the reference: {_kl(proof.alone[site])}"
    return _kl(proof.left_out[site]) if site in proof.left_out else "not tried"


def _kl(distance: LogitsDistance) -> str:
    return f"{distance.mean_kl_nats:.1e}"
