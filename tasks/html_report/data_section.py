"""What became of the data: every file that was read is kept or was dropped by a named filter."""

from collections.abc import Mapping
from typing import Any

from tasks.html_report.facts import Facts, output_of
from tasks.html_report.figures import Record, cited, digest, measured, share, size, source, value_of
from tasks.html_report.markup import Child, Markup, table, tag
from tasks.html_report.section import Section, section
from tasks.sealed_files import UNREADABLE, sealed_index

_REJECTED = "rejected_"
_SHOWN_LICENCES = 40


def data_section(facts: Facts) -> Section | None:
    """Write the account of files, documents, tokens and rows."""
    tokens, shards = facts.stages.get("pretokenize"), facts.stages.get("shard")
    if not value_of(tokens, "documents") and not value_of(shards, "train_rows"):
        return None
    return section(
        "data",
        "Data account",
        _documents(facts, tokens) if value_of(tokens, "documents") else None,
        _tokens(facts, tokens, shards),
        _licences(facts),
        source(tokens) if tokens else None,
        source(shards) if shards else None,
    )


def _documents(facts: Facts, record: Record | None) -> list[Child]:
    kept, rejected = value_of(record, "documents"), value_of(record, "rejected")
    dropped = dropped_by(record)
    all_files = kept + rejected
    rows: list[list[Child]] = [_account_row("files read", None, all_files, all_files, "whole")]
    for name, count in dropped.items():
        place = f"pretokenize.{_REJECTED}{name}"
        rows.append(_account_row(f"dropped: {name}", cited(count, place), count, all_files, "lost"))
    rows.append(
        _account_row("documents kept", measured(record, "documents"), kept, all_files, "kept")
    )
    for name, label in (("train_documents", "for training"), ("val_documents", "held out")):
        value = value_of(record, name)
        rows.append(_account_row(label, measured(record, name), value, all_files, "part"))
    return [
        tag("p", _from_where(facts, record)),
        balance("files dropped by a filter", sum(dropped.values()), rejected),
        table(
            ("files", "count", "of all"), rows, caption="From files to documents", class_="account"
        ),
    ]


def dropped_by(record: Record | None) -> dict[str, int]:
    """Count the files that each filter dropped, most first."""
    measurements: Mapping[str, Any] = record["measurements"] if record else {}
    found = {
        name.removeprefix(_REJECTED): int(value)
        for name, value in measurements.items()
        if name.startswith(_REJECTED)
    }
    return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))


def balance(what: str, parts: int, whole: int) -> Markup | None:
    """Say loudly where an account does not add up."""
    if parts == whole:
        return None
    return tag(
        "p", f"The account does not add up: {parts:,} {what}, not {whole:,}.", class_="warning"
    )


def _from_where(facts: Facts, record: Record | None) -> list[Child]:
    planned = facts.settings.get("source", {})
    where = planned.get("path") or planned.get("kind", "a source")
    parts: list[Child] = [f"Source: {where}"]
    if planned.get("revision"):
        parts.append(f" at {planned['revision']}")
    if record:
        parts += [", content ", digest(record["recipe"]["inputs"].get("source"))]
    size_of = value_of(record, "bytes")
    if size_of is not None:
        parts += [", ", measured(record, "bytes", size(size_of)), " kept"]
    return [*parts, "."]


def _account_row(
    name: str, shown: Markup | None, count: int, whole: int, colour: str
) -> list[Child]:
    part = count / whole if whole else 0.0
    bar = tag("span", class_=f"bar {colour}", style=f"width:{100 * part:.2f}%")
    label = tag("span", share(part), class_="share")
    return [
        name,
        shown or f"{count:,}",
        tag("div", tag("div", bar, class_="track"), label, class_="bars"),
    ]


def _tokens(facts: Facts, tokens: Record | None, shards: Record | None) -> Markup | None:
    rows: list[list[Child]] = []

    def add(label: str, record: Record | None, name: str, scope: str) -> None:
        if value_of(record, name) is not None:
            rows.append([label, measured(record, name), scope])

    add("tokens", tokens, "tokens", "of all documents, ends of text included")
    add("bytes a token", tokens, "bytes_per_token", "how much the tokenizer joins")
    add("vocabulary", tokens, "vocab_size", "token ids")
    add("training tokens", tokens, "train_tokens", "before rows are laid out")
    add("training rows", shards, "train_rows", _row_scope(shards))
    add("validation rows", shards, "val_rows", _row_scope(shards))
    add("left over", shards, "dropped_tokens", "tokens at ends of shards that fill no row")
    add("withheld", shards, "withheld_rows", "training rows that validation has too, left out")
    add("in both splits", shards, "shared_documents", "documents")
    train = facts.stages.get("train")
    add("tokens seen", train, "tokens_seen", "in training")
    add("passes", train, "corpus_passes", "over the training rows")
    if not rows:
        return None
    return table(("tokens and rows", "count", "scope"), rows, caption="From documents to rows")


def _row_scope(shards: Record | None) -> str:
    length = value_of(shards, "row_tokens")
    return f"of {length:,} tokens" if length else ""


def _licences(facts: Facts) -> Markup | None:
    ref = output_of(facts, "pretokenize")
    if ref is None:
        return None
    try:
        content = sealed_index(ref)["content"]
    except UNREADABLE:
        return None
    documents, num_bytes = content["documents_by_licence"], content["bytes_by_licence"]
    rows: list[list[Child]] = [
        [name, f"{documents[name]:,}", size(num_bytes[name])]
        for name in sorted(documents, key=lambda each: -documents[each])[:_SHOWN_LICENCES]
    ]
    return tag(
        "details",
        tag(
            "summary", tag("h3", "Licences"), tag("span", f"{len(rows)} of {len(documents)} shown")
        ),
        table(("licence", "documents", "size"), rows, caption="Documents kept, by licence"),
        tag("p", "Read from the index of ", digest(str(ref)), class_="source"),
    )
