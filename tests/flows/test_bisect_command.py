"""`assay bisect` on two models, and on a table."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evidence.records import read_record
from flows.cli import run
from model.apr_model import write_model
from model.gguf_model import FileType, write_gguf_model
from tests.model.small_llama import small_settings, small_tensors, small_tokenizer
from tests.model.test_hugging_face import write_small

pytestmark = pytest.mark.usefixtures("own_places")
TABLES = Path(__file__).parent.parent / "reference" / "ship-007-layer-3-anomaly"
TOKENIZER_JSON = small_tokenizer().to_str()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in four formats, and one with a fault."""
    root = tmp_path_factory.mktemp("models")
    settings, tensors = small_settings(), small_tensors()
    write_small(root / "directory")
    write_model(root / "model.apr", settings, tensors, tokenizer_json=TOKENIZER_JSON, provenance={})
    for kind in (FileType.F32, FileType.Q8_0):
        write_gguf_model(
            root / f"{kind.name}.gguf",
            settings,
            tensors,
            tokenizer_json=TOKENIZER_JSON,
            file_type=kind,
            provenance={},
        )
    name = "model.layers.1.mlp.down_proj.weight"
    wrong = {
        **tensors,
        name: torch.cat((torch.zeros(1, tensors[name].shape[1]), tensors[name][1:])),
    }
    write_model(root / "wrong.apr", settings, wrong, tokenizer_json=TOKENIZER_JSON, provenance={})
    return root


def bisect(models: Path, candidate: str, *more: str, reference: str = "directory") -> int:
    names = ["--candidate", str(models / candidate), "--reference"]
    return run(["bisect", *names, f"transformers:{models / reference}", *more])


@pytest.mark.parametrize("candidate", ["directory", "model.apr", "F32.gguf"])
def test_every_format_of_a_model_computes_the_same(
    models: Path, candidate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect(models, candidate, "--tokens", "1,2,3,4") == 0

    out = capsys.readouterr().out
    assert out.startswith("no fault: ")
    assert "4 tokens, 35 sites" in out


def test_a_fault_is_searched_where_only_logits_can_be_had(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--candidate", f"logits:{models / 'wrong.apr'}", "--reference"]
    assert run(["bisect", *line, f"transformers:{models / 'directory'}", "--name", "blind"]) == 5

    out = capsys.readouterr().out
    evidence = Path(out.splitlines()[-1].split()[-1])
    assert ", logits alone, 64 tokens, " in out.splitlines()[0]
    assert "layer 1 feed-forward: speaking alone, logits rel-L2 " in out
    assert "; its weights explain it; model.layers.1.mlp.down_proj.weight: row 0 is zero" in out
    assert "which operation within them is wrong, logits do not tell" in out
    found = json.loads((evidence / "bisection.json").read_text())
    assert (found["verdict"], found["faults"][0]["place"]) == ("fault", "layer 1 feed-forward")
    assert (evidence / "bisection.txt").read_text() in out
    assert run(["verify", "blind"]) == 0


def test_a_candidate_may_compute_in_fewer_bits(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect(models, "directory", "--precision", "bfloat16") == 0

    assert capsys.readouterr().out.startswith("no fault: ")


def test_a_quantised_file_is_held_to_what_it_stores(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect(models, "Q8_0.gguf") == 0

    out = capsys.readouterr().out
    assert "64 tokens" in out
    assert ", and lent to the reference" in out


def test_a_fault_is_named_and_recorded_and_its_evidence_verifies(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect(models, "wrong.apr", "--name", "hunt") == 5

    out = capsys.readouterr().out
    evidence = Path(out.splitlines()[-1].split()[-1])
    assert "layer 1 ffn_out: local rel-L2 " in out
    assert "model.layers.1.mlp.down_proj.weight: row 0 is zero" in out
    found = json.loads((evidence / "bisection.json").read_text())
    assert [fault["error"]["site"] for fault in found["faults"]] == ["layers.1.ffn_out"]
    bar = found["proof"]["bar_relative_l2"]
    assert found["proof"]["patched"]["max_relative_l2"] <= bar
    assert found["proof"]["control"]["max_relative_l2"] > bar
    record: Any = read_record(evidence / "bisection.metadata.json")
    assert record["faulty_sites"] == ["layers.1.ffn_out"]
    assert (record["is_sufficient"], record["is_controlled"]) == (True, True)
    assert record["is_necessary"] == {"layers.1.ffn_out": True}
    kl = found["proof"]["unpatched"]["mean_kl_nats"]
    assert record["sufficiency_kl"] < 1e-9 < record["control_kl"]
    assert record["unpatched_kl"] == kl
    assert record["necessity_kl"] == {"layers.1.ffn_out": kl}
    assert "| site | local rel-L2 |" in (evidence / "bisection.md").read_text()
    assert (evidence / "bisection.png").read_bytes().startswith(b"\x89PNG")
    assert (evidence / "bisection.txt").read_text() in out
    assert run(["verify", "hunt"]) == 0
    (evidence / "bisection.txt").write_text("no fault\n")
    assert run(["verify", "hunt"]) == 5


def test_one_json_document_holds_the_verdict(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect(models, "wrong.apr", "--json", "--prompt", "def f(x):") == 5

    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "fault"
    assert found["ids"] == [small_tokenizer().encode("def f(x):").ids]


def test_models_of_two_shapes_have_an_exit_code_of_their_own(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    other = replace(small_settings(), num_layers=1)
    write_small(tmp_path / "shallow", settings=other)
    candidate = ["--candidate", str(tmp_path / "shallow")]

    assert run(["bisect", *candidate, "--reference", str(models / "directory")]) == 12

    err = capsys.readouterr().err
    assert "num_layers: 2 on one side, 1 on the other; should be equal" in err
    assert run(["runs", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["outcome"] == "failed"


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("", 2, "should be one of --checkpoint, --candidate, --stats, --runs and --run"),
        ("--candidate a", 2, "should be --candidate and --reference together"),
        (
            "--candidate a --stats b",
            2,
            "should be one of --checkpoint, --candidate, --stats, --runs and --run",
        ),
        ("--candidate a --reference b", 3, "b: no model"),
        ("--runs one two", 3, "no run one"),
        ("--run one", 3, "no run one"),
        ("--step 3 --stats b", 2, "should be --step together with --run"),
        ("--stats nowhere", 3, "nowhere: no table (*.csv)"),
        ("--candidate {0} --reference {0} --tokens one", 2, "should be ids with commas between"),
        ("--candidate {0} --reference {0} --tokens 1,264", 2, "ids below 264"),
        ("--candidate {0} --reference {0} --tokens 1 --prompt x", 2, "should be one of the two"),
        ("--candidate {0} --reference {0} --prompt=", 2, "--prompt is empty"),
        ("--candidate {0} --reference logits:{0}", 2, "should be a model in torch, which shows"),
        ("--candidate {0} --reference {0} --device tpu", 2, "should be auto, cpu, cuda or cuda:N"),
        ("--candidate {0} --reference {0} --device cuda:99", 9, "GPUs here"),
        ("--candidate transformers:{0}/.. --reference {0}", 4, "config.json: missing"),
        ("--candidate {0} --reference {0} --precision int8", 2, "should be one of float32, bfl"),
    ],
)
def test_a_mistake_is_a_sentence(
    models: Path, line: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bisect", *line.format(models / "directory").split()]) == code

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_the_reference_systems_tables_are_read_as_no_evidence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["bisect", "--stats", str(TABLES)]) == 0

    lines = capsys.readouterr().out.splitlines()
    swigl = (
        "  layer 3 ffn_swigl: std 1.2216, ratio 17.23 against layer 2, 5.48 against the median, "
        "third-largest layer"
    )
    assert lines.count(swigl) == 2
    assert lines[-1] == "not evidence of a fault: no second implementation, sample sizes unknown"
