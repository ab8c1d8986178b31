import pyarrow as pa

from data.accounting import Account


def test_documents_and_rejections_are_counted_by_side_licence_and_filter() -> None:
    account = Account()
    documents = {
        "split": ["train", "val", "train"],
        "licences": [["MIT"], ["Apache-2.0", "0BSD"], []],
        "num_bytes": [10, 20, 30],
        "num_tokens": [3, 5, 7],
    }
    for start in (0, 2):
        account.documents(pa.RecordBatch.from_pydict(documents).slice(start, 2 - start // 2))
    account.rejections(pa.RecordBatch.from_pydict({"filter": ["secret", "licence", "secret"]}))
    assert account.num_all == 3
    assert account.num_documents == {"train": 2, "val": 1}
    assert account.num_tokens == {"train": 10, "val": 5}
    assert account.num_bytes == 60
    assert account.documents_by_licence == {"MIT": 1, "0BSD AND Apache-2.0": 1, "none": 1}
    assert account.bytes_by_licence == {"MIT": 10, "0BSD AND Apache-2.0": 20, "none": 30}
    assert (account.num_rejected, account.by_filter) == (3, {"secret": 2, "licence": 1})
