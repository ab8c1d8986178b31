"""Bisect two models that a person named, and leave evidence: verdict, table, heat map."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from evidence.canonical import finite, pretty
from model.bisection import Bisection, bisect
from model.bisection_text import bisection_text, heat
from model.branch_search import BranchSearch, search_branches
from model.branch_text import branch_text
from model.logits_sides import LogitsSide
from model.slot_stds import SlotStds, slot_csv, slot_stds
from tasks.forward_values import keeping
from tasks.run_record import Run, finish_run, start_run
from tasks.sides import choose_ids, digests, open_candidate, open_side

RESULT = "bisection.json"
TEXT = "bisection.txt"
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
    with _recording_the_end(run):
        if isinstance(held, LogitsSide):
            searched = search_branches(held_to, held, ids_BT)
            _write_search(run.directory, searched, ids_BT.tolist())
            return run, searched
        with keeping(held_to, ids_BT.numel()) as keep_in:
            found = bisect(held_to, held, ids_BT, keep_in)
        roles = {"reference": held_to, "candidate": held}
        slots = {f"{role}-stds": slot_stds(side, ids_BT) for role, side in roles.items()}
        _write(run.directory, found, slots, ids_BT.tolist())
    return run, found


def _write(
    directory: Path, found: Bisection, slots: Mapping[str, SlotStds], ids: list[list[int]]
) -> None:
    tables = {name: asdict(table) for name, table in slots.items()}
    result = {"verdict": found.verdict, "ids": ids, **asdict(found), "stds": tables}
    (directory / RESULT).write_bytes(pretty(finite(result)))
    (directory / TEXT).write_text(bisection_text(found))
    for name, table in slots.items():
        (directory / f"{name}.csv").write_text(slot_csv(table))
    _plot(directory / PLOT, found)


def _write_search(directory: Path, found: BranchSearch, ids: list[list[int]]) -> None:
    result = {"verdict": found.verdict, "ids": ids, **asdict(found)}
    (directory / RESULT).write_bytes(pretty(finite(result)))
    (directory / TEXT).write_text(branch_text(found))


def _plot(path: Path, found: Bisection) -> None:
    """Draw the local error of every site over its noise floor, in powers of ten."""
    kinds, ratios = heat(found)
    powers = np.log10(np.clip(np.nan_to_num(np.array(ratios), nan=math.inf), 1e-2, 1e9))
    figure = Figure(figsize=(8, 2 + 0.25 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(powers, aspect="auto", vmin=-2, vmax=max(2.0, float(powers.max())))
    axes.set_xticks(range(len(kinds)), kinds, rotation=60, ha="right")
    axes.set_ylabel("layer")
    axes.set_title(found.verdict)
    figure.colorbar(image, label="local error over noise floor, log10")
    figure.savefig(path, dpi=100)


@contextmanager
def _recording_the_end(run: Run) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        finish_run(run, "failed", str(error))
        raise
    finish_run(run, "completed", None)
