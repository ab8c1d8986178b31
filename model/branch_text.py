"""A search of branches in words: one sentence a fault, and what it cannot tell."""

from collections.abc import Iterator

from model.bisection_text import difference_lines, predictions_line
from model.branch_search import ENDS, BranchFault, BranchSearch, Trial


def branch_text(found: BranchSearch) -> str:
    """Say what was found: the verdict first, then what it rests on."""
    scope = f"{found.num_positions} tokens, {found.num_runs} runs of each"
    lines = [
        f"{found.verdict}: {found.candidate} against {found.reference}, logits alone, {scope}",
        predictions_line(found.whole.distance, found.whole.bar_relative_l2, "bar"),
        *difference_lines(found.settings, found.tensors, found.lent),
        *map(branch_sentence, found.faults),
        *_proof(found),
    ]
    return "\n".join(lines) + "\n"


def branch_sentence(fault: BranchFault) -> str:
    """Say how far a branch departs by itself, and whether its weights say why."""
    alone = "with every branch silent" if fault.place == ENDS else "speaking alone"
    return "; ".join((f"{fault.place}: {alone}, {_far(fault.alone)}", fault.cause, *fault.because))


def _proof(found: BranchSearch) -> Iterator[str]:
    if found.without:
        word = "still departs" if found.without.departs else "agrees"
        yield f"with the named branches silent, the rest {word} ({_far(found.without)})"
    if found.control:
        word = "departs all the same" if found.control.departs else "agrees too: no proof"
        yield f"with as many others silent, the model {word} ({_far(found.control)})"
    if any(fault.place == ENDS for fault in found.faults) and not found.without:
        yield "every run goes through these, so the branches were not tried"
    if found.faults:
        yield "which operation within them is wrong, logits do not tell"


def _far(trial: Trial) -> str:
    return f"logits rel-L2 {trial.distance.max_relative_l2:.1e}, bar {trial.bar_relative_l2:.0e}"
