"""Addresses of MLflow's pages, in its view of trainings.

A browser that has not been told shows language-model applications instead, and no tag of an
experiment changes that: only the address does, or the switch on the page, which the browser keeps.
"""

TRAINING = "workflowType=machine_learning"


def experiment_page(server: str, experiment_id: str | None) -> str:
    """Name the page of an experiment's runs; without an experiment, that of all experiments."""
    page = f"experiments/{experiment_id}" if experiment_id else "experiments"
    return f"{server}/#/{page}?{TRAINING}"


def run_page(server: str, experiment_id: str, run_id: str) -> str:
    """Name the page of a run."""
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING}"
