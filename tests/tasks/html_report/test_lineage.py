"""The graph of what was made of what."""

from tasks.html_report.facts import read_facts
from tasks.html_report.lineage import edges_of, lanes_of, nodes_of
from tests.tasks.tiny import Finished


def test_the_graph_leads_from_the_source_to_the_trace(reading: Finished) -> None:
    nodes = nodes_of(read_facts(reading.run))
    refs = reading.refs
    assert [node.name for node in nodes] == [
        "source",
        "removals",
        "tokens",
        "shards",
        "training",
        "evaluation",
        "checkpoint",
        "trace",
    ]
    assert nodes[2].digest == str(refs.tokens)
    assert nodes[6].digest == str(refs.checkpoint)
    assert set(nodes[5].inputs) == {str(refs.training), str(refs.shards), str(refs.tokens)}
    assert set(edges_of(nodes)) == {
        (0, 2), (1, 2), (2, 3), (3, 4), (4, 5), (3, 5), (2, 5), (5, 6), (6, 7),
    }  # fmt: skip


def test_an_input_from_another_run_is_a_node_of_its_own(copied: Finished) -> None:
    (copied.run.directory / "pretokenize.metadata.json").unlink()
    nodes = nodes_of(read_facts(copied.run))
    assert (nodes[0].name, nodes[0].made_by) == ("tokens, from elsewhere", "")
    assert nodes[1].name == "shards"


def test_lines_that_overlap_have_lanes_of_their_own() -> None:
    lanes = lanes_of([(0, 1), (1, 2), (2, 3), (0, 2), (0, 3), (3, 5), (3, 4), (4, 5)])
    assert [lanes[edge] for edge in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))] == [0] * 5
    assert (lanes[(0, 2)], lanes[(0, 3)], lanes[(3, 5)]) == (1, 2, 1)
