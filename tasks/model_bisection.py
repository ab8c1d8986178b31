"""Bisect two models that a person named, and leave evidence: verdict, table, heat map."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from evidence.canonical import finite, pretty
from evidence.records import write_record
from model.bisection import Bisection, bisect
from model.bisection_text import bisection_text, fault_rows, heat
from model.branch_search import BranchSearch, search_branches
from model.branch_text import branch_text
from model.causal_proof import CausalProof
from model.logits_sides import LogitsSide
from model.sides import Side
from model.slot_stds import slot_csv, slot_stds
from tasks.forward_values import keeping
from tasks.heat_map import draw_heat_map
from tasks.recording import recording_the_end
from tasks.run_record import Run, start_run
from tasks.sides import choose_ids, digests, open_candidate, open_side

RESULT = "bisection.json"
TEXT = "bisection.txt"
TABLE = "bisection.md"
RECORD = "bisection.metadata.json"
SCHEMA = "assay.bisection/1"
PLOT = "bisection.png"


def bisect_models(
    name: str,
    candidate: str,
    reference: str,
    prompt: str | None,
    tokens: str | None,
    device: str,
    precision: str | None = None,
) -> tuple[Run, Bisection | BranchSearch]:
    """Compare two models on the same tokens, and record the run.

    Where a candidate gives logits alone, branches are searched instead of sites.

    Raises: DifferentProgramsError, and those of `open_side` and `choose_ids`.
    """
    held_to, held = open_side(reference, device), open_candidate(candidate, device, precision)
    ids_BT = choose_ids((reference, candidate), held_to.settings.vocab_size, prompt, tokens)
    request = {
        "flow": "bisect two models",
        "candidate": {"name": candidate, "sha256": digests(candidate)},
        "reference": {"name": reference, "sha256": digests(reference)},
        "prompt": prompt,
        "ids": ids_BT.tolist(),
        "device": device,
        "precision": precision,
    }
    run = start_run(name, {}, request)
    with recording_the_end(run):
        if isinstance(held, LogitsSide):
            searched = search_branches(held_to, held, ids_BT)
            _write_search(run.directory, searched, ids_BT.tolist())
            return run, searched
        with keeping(held_to, ids_BT.numel()) as keep_in:
            found = bisect(held_to, held, ids_BT, keep_in)
        sides = {"reference": held_to, "candidate": held}
        write_bisection(run.directory, found, sides, ids_BT)
    return run, found


def write_bisection(
    directory: Path, found: Bisection, sides: Mapping[str, Side], ids_BT: Tensor
) -> None:
    """Write what a bisection found: as JSON, as text, as a table, as a heat map, in a record."""
    slots = {f"{role}-stds": slot_stds(side, ids_BT) for role, side in sides.items()}
    tables = {name: asdict(table) for name, table in slots.items()}
    ids = ids_BT.tolist()
    result = {"verdict": found.verdict, "ids": ids, **asdict(found), "stds": tables}
    (directory / RESULT).write_bytes(pretty(finite(result)))
    (directory / TEXT).write_text(bisection_text(found))
    (directory / TABLE).write_text(bisection_table(found))
    write_record(directory / RECORD, finite(causal_record(found)))
    for name, table in slots.items():
        (directory / f"{name}.csv").write_text(slot_csv(table))
    kinds, ratios = heat(found)
    label = "local error over noise floor"
    draw_heat_map(directory / PLOT, kinds, ratios, title=found.verdict, label=label)


def _write_search(directory: Path, found: BranchSearch, ids: list[list[int]]) -> None:
    result = {"verdict": found.verdict, "ids": ids, **asdict(found)}
    (directory / RESULT).write_bytes(pretty(finite(result)))
    (directory / TEXT).write_text(branch_text(found))


def causal_record(found: Bisection) -> dict[str, Any]:
    """Say what was found, with the three numbers that prove it where there is something to prove.

    Units: Kullback-Leibler divergences of the next-token predictions, nats a token.
    """
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": found.verdict,
        "reference": found.reference,
        "candidate": found.candidate,
        "positions": found.num_positions,
        "sites": len(found.local),
        "faulty_sites": [fault.error.site for fault in found.faults],
    }
    if proof := found.proof:
        left_out = {
            fault.error.site: _without(fault.error.site, proof)
            for fault in found.faults
            if proof.is_necessary(fault.error.site) is not None
        }
        record |= {
            "unpatched_kl": proof.unpatched.mean_kl_nats,
            "sufficiency_kl": proof.patched.mean_kl_nats,
            "necessity_kl": left_out,
            "control_kl": proof.control.mean_kl_nats,
            "control_sites": list(proof.control_sites),
            "is_sufficient": proof.is_sufficient,
            "is_necessary": {site: proof.is_necessary(site) for site in left_out},
            "is_controlled": proof.is_controlled,
        }
    return record


def _without(site: str, proof: CausalProof) -> float:
    """Return the divergence that a site makes: left out of the patch, or alone where that hides."""
    tried = [each[site].mean_kl_nats for each in (proof.left_out, proof.alone) if site in each]
    return max(tried)


def bisection_table(found: Bisection) -> str:
    """Lay the verdict and its faults out as Markdown."""
    rows = fault_rows(found)
    lines = [bisection_text(found).splitlines()[0]]
    if rows:
        lines += ["", f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
        lines += [f"| {' | '.join(str(value) for value in row.values())} |" for row in rows]
    return "\n".join(lines) + "\n"
