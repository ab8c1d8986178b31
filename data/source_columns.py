"""Columns of any table to columns of candidates.

A name may lead into structs and lists: `files.content` is the field `content` of every element of
the list `files`. A list on the way makes one row of each element; columns outside of the list are
repeated for it, and all lists on the way must be the same one.

Shapes: R rows of the table, C candidates.
"""

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.candidates import BATCH_BYTES, CANDIDATES
from data.source_errors import CorruptSourceError, MissingColumnError

UTF8 = "utf-8"


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of candidates are called in a table; what a table lacks is left out."""

    names: Mapping[str, str]
    language: str = ""
    """Column of the language and the only value that counts; both empty if all rows do."""
    only: str = ""
    licence: str = ""
    """The licence of rows that have none; empty if it is not known then."""

    @property
    def read(self) -> tuple[str, ...]:
        """Every column that is needed."""
        return tuple(dict.fromkeys([*self.names.values(), *filter(None, [self.language])]))


def choose(
    schema: pa.Schema, alternatives: Mapping[str, Sequence[str]], needed: Iterable[str], where: str
) -> dict[str, str]:
    """Return for every field the first of its alternative columns that the table has.

    Raises: MissingColumnError if a needed field has none.
    """
    known = column_names(schema)
    found = {
        field: next((name for name in names if name in known), "")
        for field, names in alternatives.items()
    }
    for field in needed:
        if not found[field]:
            raise MissingColumnError(where, alternatives[field][0], known)
    return {field: name for field, name in found.items() if name}


def column_names(schema: pa.Schema) -> tuple[str, ...]:
    """Return every name that a column can be asked for by, fields of structs and lists included."""
    return tuple(name for field in schema for name in _names(field.name, field.type))


def candidates(batch: pa.RecordBatch, columns: Columns, where: str) -> pa.Table:
    """Return the candidates of a batch as a table without row numbers.

    Raises: MissingColumnError, CorruptSourceError if a column is of a type that does not fit.
    """
    arrays = flat(batch, columns.read, where)
    chosen = selected(arrays, columns)
    if chosen is not None:
        arrays = {name: array.filter(chosen) for name, array in arrays.items()}
    num = len(next(iter(arrays.values())))
    by_field = {field: arrays[name] for field, name in columns.names.items()}
    content = by_field.get("content")
    texts = pa.nulls(num, pa.large_binary()) if content is None else _binary(content, where)
    made = {
        "licences": _licences(by_field.get("licences"), columns.licence, num, where),
        "is_vendored": _flag(by_field.get("is_vendored"), num, where),
        "is_generated": _flag(by_field.get("is_generated"), num, where),
        "encoding": _encodings(by_field.get("encoding"), num, where),
        "content": texts,
        "absence": pc.if_else(texts.is_valid(), "", "null cell"),
    }
    for field in CANDIDATES:
        if field.name != "row" and field.name not in made:
            made[field.name] = _text(by_field.get(field.name), num, where)
    schema = CANDIDATES.remove(0)
    return pa.table([made[field.name] for field in schema], schema=schema)


def selected(arrays: Mapping[str, pa.Array], columns: Columns) -> pa.Array | None:
    """Tell which rows are in the language; None if all are, because none is asked for."""
    if not columns.language:
        return None
    return is_in_language(arrays[columns.language], columns.only)


def is_in_language(array: pa.Array, language: str) -> pa.Array:
    """Tell which values are the language."""
    return pc.fill_null(pc.equal(array.cast(pa.string()), language), fill_value=False)


def flat(batch: pa.RecordBatch, names: Sequence[str], where: str) -> dict[str, pa.Array]:
    """Return columns by name, all of the same length, lists on the way flattened.

    Raises: MissingColumnError, CorruptSourceError if two columns are of different lists.
    """
    found = {name: _follow(batch, name, where) for name in names}
    parents = [(name, parent) for name, (_, parent) in found.items() if parent is not None]
    if not parents:
        return {name: array for name, (array, _) in found.items()}
    first, parents_C = parents[0]
    for name, other in parents[1:]:
        if not other.equals(parents_C):
            raise CorruptSourceError(where, f"{name} is of another list than {first}", "of one")
    return {
        name: array.take(parents_C) if parent is None else array
        for name, (array, parent) in found.items()
    }


def numbered(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    """Yield candidates with their row numbers, in batches of bounded content."""
    row = 0
    for table in tables:
        for part in _parts(table):
            rows = pa.array(np.arange(row, row + len(part)), pa.int64())
            row += len(part)
            yield pa.record_batch([rows, *part.columns], schema=CANDIDATES)


def codec_of(declared: str) -> str:
    """Return the Python codec of a declared encoding, or what was declared if there is none."""
    for name in (declared, declared.lower().replace("mac", "mac_", 1), declared.removeprefix("X-")):
        try:
            return codecs.lookup(name).name
        except LookupError:
            continue
    return declared


def _names(name: str, kind: pa.DataType) -> Iterator[str]:
    yield name
    inner = kind.value_type if _is_list(kind) else kind
    if pa.types.is_struct(inner):
        for field in inner.fields:
            yield from _names(f"{name}.{field.name}", field.type)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _follow(batch: pa.RecordBatch, name: str, where: str) -> tuple[pa.Array, pa.Array | None]:
    """Return a column, and the row of each of its values if a list was on the way."""
    if name in batch.schema.names:
        return batch.column(name), None
    if name not in column_names(batch.schema):
        raise MissingColumnError(where, name, column_names(batch.schema))
    head = next(n for n in batch.schema.names if name.startswith(f"{n}."))
    array, parents = batch.column(head), None
    for step in name.removeprefix(f"{head}.").split("."):
        if _is_list(array.type):
            rows = pc.list_parent_indices(array)
            parents = rows if parents is None else parents.take(rows)
            array = pc.list_flatten(array)
        array = pc.struct_field(array, step)
    return array, parents


def _binary(array: pa.Array, where: str) -> pa.Array:
    array = _plain(array)
    kind = array.type
    if not (_is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise CorruptSourceError(where, f"the text column is {kind}", "text or bytes")
    return array.cast(pa.large_binary())


def _text(array: pa.Array | None, num: int, where: str) -> pa.Array:
    if array is None:
        return pa.array([""] * num, pa.string())
    array = _plain(array)
    if pa.types.is_large_binary(array.type) or not _is_valid(array):
        contents = array.cast(pa.large_binary()).to_pylist()
        return pa.array([(v or b"").decode("utf-8", "replace") for v in contents], pa.string())
    if not (_is_text(array.type) or pa.types.is_integer(array.type)):
        raise CorruptSourceError(where, f"a column of names is {array.type}", "text")
    return array.cast(pa.string()).fill_null("")


def _flag(array: pa.Array | None, num: int, where: str) -> pa.Array:
    if array is None:
        return pa.array([False] * num, pa.bool_())
    if not pa.types.is_boolean(array.type):
        raise CorruptSourceError(where, f"a column of flags is {array.type}", "bool")
    return pc.fill_null(array, fill_value=False)


def _licences(array: pa.Array | None, default: str, num: int, where: str) -> pa.Array:
    kind = CANDIDATES.field("licences").type
    otherwise = [default] if default else []
    if array is None:
        return pa.array([otherwise] * num, kind)
    array = _plain(array)
    if _is_text(array.type) or pa.types.is_large_binary(array.type):
        array = _text(array, num, where)
        found = [[value] if value else otherwise for value in array.to_pylist()]
    elif _is_list(array.type) and _is_text(array.type.value_type):
        if not _is_valid(array):
            raise CorruptSourceError(where, "a licence is no UTF-8", "text")
        found = [[v for v in value or () if v] or otherwise for value in array.to_pylist()]
    else:
        raise CorruptSourceError(where, f"the licence column is {array.type}", "text or lists")
    return pa.array(found, kind)


def _encodings(array: pa.Array | None, num: int, where: str) -> pa.Array:
    if array is None:
        return pa.array([UTF8] * num, pa.string())
    codec = cache(lambda declared: codec_of(declared) if declared else UTF8)
    return pa.array([codec(name) for name in _text(array, num, where).to_pylist()], pa.string())


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _is_valid(array: pa.Array) -> bool:
    """Tell whether text is UTF-8: a table's word for it is all that a reader has."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _parts(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Cut a table where the content before a row has filled a batch."""
    table = table.combine_chunks()
    sizes_C = pc.binary_length(table["content"]).fill_null(0).to_numpy().astype(np.int64)
    batches_C = (np.cumsum(sizes_C) - sizes_C) // BATCH_BYTES
    starts = np.flatnonzero(np.diff(batches_C, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(sizes_C)], strict=True):
        yield from table.slice(start, stop - start).to_batches()
