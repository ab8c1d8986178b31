"""The corpus of a run in Croissant, by which catalogues of data sets find and read it.

Places of files are relative to the store. The rows of shards are flat binary, for which Croissant
has no reader; their layout is said in words, and every file has its sha256.

Source: Croissant format specification 1.0, MLCommons.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from evidence.refs import Ref, parse_ref
from tasks.errors import NotFoundError
from tasks.run_record import Run
from tasks.sealed_files import sealed_index

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
CORPUS_STAGES = ("pretokenize", "shard")
_TYPES = {"string": "sc:Text", "int64": "sc:Integer"}
_TABLES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "documents.parquet": {
        "path": ("string", "Path of the file in the source"),
        "repository": ("string", "Repository, where the source has them"),
        "sha256": ("string", "Of the text, after normalisation"),
        "num_bytes": ("int64", "Bytes of the text"),
        "num_tokens": ("int64", "Tokens, with the end of text"),
        "split": ("string", "train or val"),
        "licences": ("string", "SPDX names"),
    },
    "rejected.parquet": {
        "path": ("string", "Path of the file in the source"),
        "repository": ("string", "Repository, where the source has them"),
        "num_bytes": ("int64", "Bytes of the file"),
        "filter": ("string", "The filter that dropped it"),
        "detail": ("string", "What the filter saw"),
    },
}
_LISTS = {"licences"}
_FORMATS = {
    ".parquet": "application/x-parquet",
    ".json": "application/json",
    ".bin": "application/octet-stream",
}
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def describe_corpus(run: Run) -> dict[str, Any]:
    """Describe the tokens and the shards of a run.

    Raises: NotFoundError, ArtefactDamagedError, BrokenSealError, MalformedJsonError.
    """
    records = {
        stage: record
        for stage, record in run.stage_records().items()
        if stage in CORPUS_STAGES and record["output"]
    }
    if "pretokenize" not in records:
        raise NotFoundError("corpus", str(run.directory))
    refs = {stage: parse_ref(record["output"]) for stage, record in records.items()}
    indices = {stage: _index(ref) for stage, ref in refs.items()}
    content = indices["pretokenize"]["content"]
    licences = sorted(content["documents_by_licence"], key=content["bytes_by_licence"].get)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": f"{run.name}-corpus",
        "description": _description(content, indices.get("shard", {}).get("content")),
        "url": f"urn:assay:{refs['pretokenize']}",
        "version": "1.0.0",
        "datePublished": records["pretokenize"]["started"][:10],
        "license": [_licence(name) for name in reversed(licences)],
        "distribution": [
            each for stage, ref in refs.items() for each in _files(ref, indices[stage])
        ],
        "recordSet": [_record_set(name, columns) for name, columns in _TABLES.items()],
    }


def _index(ref: Ref) -> Mapping[str, Any]:
    try:
        return sealed_index(ref)
    except FileNotFoundError as error:
        raise NotFoundError(f"artefact {ref.short}", str(error.filename)) from None


def _description(tokens: Mapping[str, Any], shards: Mapping[str, Any] | None) -> str:
    said = (
        f"{tokens['num_documents']} documents of source code, {tokens['num_tokens']} tokens of a "
        f"vocabulary of {tokens['vocab_size']}; {tokens['num_rejected']} files were rejected. "
        f"tokens-*.bin hold token ids as {tokens['dtype']}, little-endian; each document ends with "
        f"id {tokens['end_of_text_id']}."
    )
    if shards is None:
        return said
    length = shards["context_length"] + 1
    rows = {split: shards[split]["num_rows"] for split in ("train", "val")}
    return (
        f"{said} {rows['train']} training rows and {rows['val']} validation rows of {length} ids "
        f"lie one after another in the shards, as {shards['dtype']}, little-endian."
    )


def _licence(name: str) -> str:
    """Point to the text of a licence that SPDX knows; anything composed stays as it is."""
    is_single = name != "none" and " " not in name
    return f"https://spdx.org/licenses/{name}" if is_single else name


def _files(ref: Ref, index: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    place = f"{ref.kind}/{ref.digest[:2]}/{ref.digest}"
    for entry in index["files"]:
        path = str(entry["path"])
        yield {
            "@type": "cr:FileObject",
            "@id": f"{ref.kind}/{path}",
            "name": f"{ref.kind}/{path}",
            "contentUrl": f"{place}/{path}",
            "contentSize": f"{entry['bytes']} B",
            "encodingFormat": _FORMATS.get(f".{path.rpartition('.')[2]}", "text/plain"),
            "sha256": entry["sha256"],
        }


def _record_set(name: str, columns: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    table = name.removesuffix(".parquet")
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{table}/{column}",
                "name": f"{table}/{column}",
                "description": description,
                "dataType": _TYPES[kind],
                **({"repeated": True} if column in _LISTS else {}),
                "source": {
                    "fileObject": {"@id": f"tokens/{name}"},
                    "extract": {"column": column},
                },
            }
            for column, (kind, description) in columns.items()
        ],
    }
