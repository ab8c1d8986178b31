"""From the source to the checkpoint: what was made of what, by digest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evidence.refs import REF_TYPES
from tasks.html_report.facts import Facts
from tasks.html_report.figures import measured
from tasks.html_report.markup import Child, Markup, tag
from tasks.html_report.section import Section, section

ROW, LANE, FIRST = 100, 18, 16
"""Height of a row in units that stretch; distance of lanes and place of the first in pixels."""
_FIGURES = {
    "pretokenize": {"documents": "documents", "tokens": "tokens"},
    "shard": {"train_rows": "training rows", "val_rows": "validation rows"},
    "train": {"steps": "steps", "epochs": "epochs"},
    "evaluate": {"val_loss": "nats a token", "val_bits_per_byte": "bits a byte"},
    "checkpoint": {"tensors": "tensors", "parameters": "parameters"},
    "bisect": {"sites": "operations", "differing_sites": "differ"},
}
"""What is said of a stage's output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One input or artefact."""

    name: str
    digest: str
    """Its whole ref or digest: what makes it this one."""
    made_by: str
    """How it came about: a stage with its version and record, or nothing."""
    inputs: Sequence[str]
    """The digests that it was made of."""
    figures: Child = None


def nodes_of(facts: Facts) -> list[Node]:
    """List what a run was made of and what it made, each after what it was made of."""
    nodes: list[Node] = []
    for stage, record in facts.stages.items():
        inputs: Mapping[str, str] = record["recipe"]["inputs"]
        known = {node.digest for node in nodes}
        nodes += [
            Node(name=_input_name(name, text), digest=text, made_by="", inputs=())
            for name, text in inputs.items()
            if text not in known
        ]
        if record["output"]:
            nodes.append(
                Node(
                    name=record["output"].partition(":")[0],
                    digest=record["output"],
                    made_by=_made_by(stage, record),
                    inputs=list(inputs.values()),
                    figures=_figures(stage, record),
                )
            )
    return nodes


def _input_name(name: str, text: str) -> str:
    kind = text.partition(":")[0]
    return f"{kind}, from elsewhere" if kind in REF_TYPES else name


def _made_by(stage: str, record: Mapping[str, Any]) -> str:
    how = f"{stage}, version {record['recipe']['version']}, recipe {record['recipe_sha256'][:12]}"
    reused = record.get("reused_from")
    return f"{how}; reused from {reused}" if reused else how


def _figures(stage: str, record: Mapping[str, Any]) -> list[Child]:
    shown = [
        [measured(record, name), f" {label}"]
        for name, label in _FIGURES[stage].items()
        if name in record["measurements"]
    ]
    return [[", " if number else "", each] for number, each in enumerate(shown)]


def lineage_section(facts: Facts) -> Section | None:
    """Write the graph: a row for each node, and lines from what it was made of."""
    nodes = nodes_of(facts)
    if not nodes:
        return None
    lanes = lanes_of(list(edges_of(nodes)))
    width = 2 * FIRST + LANE * max(lanes.values(), default=0)
    rows = tag("ol", [tag("li", _row(node)) for node in nodes])
    graph = tag(
        "div", _lines(nodes, lanes, width), rows, class_="lineage", style=f"padding-left:{width}px"
    )
    return section(
        "lineage",
        "Lineage",
        tag(
            "p",
            "Each name is the sha256 of the content; a line leads from what something was made of.",
        ),
        graph,
        tag(
            "p",
            "Read from the recipes of ",
            [
                [", " if number else "", tag("a", stage, href=f"#record-{stage}")]
                for number, stage in enumerate(facts.stages)
            ],
            class_="source",
        ),
    )


def _row(node: Node) -> list[Child]:
    return [
        tag("span", tag("strong", node.name), " ", node.figures, class_="what"),
        tag("code", node.digest.rpartition(":")[2], class_="whole-digest"),
        tag("span", node.made_by or "given", class_="note"),
    ]


def edges_of(nodes: Sequence[Node]) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows: what something was made of, and that something."""
    rows = {node.digest: number for number, node in enumerate(nodes)}
    for number, node in enumerate(nodes):
        for text in node.inputs:
            yield rows[text], number


def lanes_of(edges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Give every edge a lane: the first for neighbours, others beside it so that none overlap."""
    lanes: dict[tuple[int, int], int] = {}
    for edge in sorted(edges, key=lambda each: (each[1] - each[0], each[0])):
        if edge[1] - edge[0] == 1:
            lanes[edge] = 0
            continue
        taken = {
            lane
            for (begin, end), lane in lanes.items()
            if begin < edge[1] and edge[0] < end and end - begin > 1
        }
        lanes[edge] = next(lane for lane in range(1, len(edges) + 2) if lane not in taken)
    return lanes


def _lines(nodes: Sequence[Node], lanes: Mapping[tuple[int, int], int], width: int) -> Markup:
    """Draw lines and dots; rows are equally high, so the drawing stretches with the words."""
    x = width - FIRST
    paths = [tag("path", d=_path(x, edge, lane), class_="edge") for edge, lane in lanes.items()]
    dots = [
        # A line of no length with a round end stays a circle however the drawing is stretched.
        tag("path", d=f"M{x} {_y(number)}h0", class_=f"node {name}")
        for number, node in enumerate(nodes)
        for name in (("made",) if node.made_by else ("given", "hollow"))
    ]
    return tag(
        "svg",
        tag("title", "What was made of what", id="lineage-title"),
        paths,
        dots,
        width=width,
        viewBox=f"0 0 {width} {ROW * len(nodes)}",
        preserveAspectRatio="none",
        role="img",
        aria_labelledby="lineage-title",
    )


def _path(x: float, edge: tuple[int, int], lane: int) -> str:
    begin, end = map(_y, edge)
    if lane == 0:
        return f"M{x} {begin}V{end}"
    side = x - LANE * lane
    bend = ROW / 2
    return (
        f"M{x} {begin}C{side} {begin} {side} {begin} {side} {begin + bend}"
        f"V{end - bend}C{side} {end} {side} {end} {x} {end}"
    )


def _y(row: int) -> int:
    return ROW * row + ROW // 2
