"""Heads of the chain that MLflow keeps as tags of runs: a rewritten chain contradicts them."""

from pathlib import Path

from evidence.chain import Head, parse_head
from tasks.mlflow_experiment import EXPERIMENT, open_client

TAG = "assay.chain_head"


def pinned_heads(directory: Path) -> dict[str, Head]:
    """Read the heads that the runs of an evidence directory were mirrored with."""
    client, _ = open_client()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found: dict[str, Head] = {}
    token: str | None = None
    while experiment is not None:
        page = client.search_runs(
            [experiment.experiment_id], f"tags.`{TAG}` LIKE '%:%'", page_token=token
        )
        for run in page:
            tags = run.data.tags
            if Path(tags.get("assay.evidence", "")).parent == directory:
                found[f"MLflow run {run.info.run_id[:12]}"] = parse_head(tags[TAG])
        token = page.token
        if not token:
            break
    return found
