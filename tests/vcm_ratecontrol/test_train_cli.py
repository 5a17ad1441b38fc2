"""vcm-train as a process: what it is asked wrongly it answers in one line; `evaluate` judges and enters the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.vcm_ratecontrol.encode_runs import Run, vcm_encode
from tests.vcm_ratecontrol.training_table import Made, make_table, not_finite, request
from vcm_ratecontrol.cli.common import run_command
from vcm_ratecontrol.cli.train import main, parse_setting
from vcm_ratecontrol.predictors.checkpoint import read_card
from vcm_ratecontrol.predictors.config import CONFIG_DIR
from vcm_ratecontrol.training.run import train

SHORT = {"epochs": 2, "steps_per_epoch": 5, "batch_size": 16}


def vcm_train(*arguments: object) -> Run:
    return vcm_encode(*arguments, module="train", env={"OMP_NUM_THREADS": "1"})


Ask = Callable[..., Run]


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """The command in this process, which spares seconds of imports: for what is refused at once."""

    def run(*arguments: object) -> Run:
        code = run_command(main, [str(argument) for argument in arguments])
        return Run(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_table(tmp_path_factory.mktemp("table"), 20)


@pytest.fixture(scope="module")
def trained(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of curve_evidence."""
    torch.set_num_threads(1)
    report = train(request(made, "curve_evidence", tmp_path_factory.mktemp("trained"), SHORT))
    assert report is not None
    return report.checkpoint


def folders(made: Made, out: Path) -> list[object]:
    return ["--labels", made.labels, "--pictures", made.pictures, "--out", out, "--device", "cpu"]


def refused(run: Run, *parts: str, code: int = 2) -> None:
    """One line on stderr that names what is wrong."""
    assert run.code == code, (run.out, run.err)
    assert run.err.startswith("error: ") and run.err.count("\n") == 1, run.err
    for part in parts:
        assert part in run.err, run.err


def test_a_run_from_a_configuration_file_tells_what_it_did(made: Made, tmp_path: Path) -> None:
    """A file of the user's own, `--set`, `--limit`, JSON events."""
    text = (CONFIG_DIR / "curve_evidence.toml").read_text().replace('"curve_evidence"', '"mine"', 1)
    (tmp_path / "mine.toml").write_text(text)
    options = ["--set", "epochs=2", "--set", "steps_per_epoch=3", "--set", "batch_size=8", "--limit", 9]
    run = vcm_train(
        tmp_path / "mine.toml", *folders(made, tmp_path / "out"), *options, "--resamples", 0, "--seed", 3, "--json"
    )
    assert run.code == 0, run.err
    end = run.end
    assert (end["epochs"], end["ending"], end["missing"]) == (2, "all epochs", 0)
    assert end["checkpoint"] == str(tmp_path / "out" / "mine.safetensors")
    assert {event["phase"] for event in run.of("phase")} >= {"reading labels", "training"}
    card = read_card(Path(end["checkpoint"]))
    assert card.config.training["epochs"] == 2 and card.provenance["seed"] == 3
    assert card.provenance["data"]["train_pictures"] == 9
    command = card.provenance["command"]
    assert command.startswith("vcm-train mine.toml --labels vvc-still") and str(tmp_path) not in command
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"mine.safetensors", "mine.md", "evaluation.json", "missing.txt", "log.csv", "state.pt", "plots"}


def test_evaluate_judges_by_the_machines_of_the_card(made: Made, trained: Path, tmp_path: Path) -> None:
    """On another split, into files, and with --update into the checkpoint, whose weights stay."""
    copy = tmp_path / trained.name
    shutil.copy(trained, copy)
    before = read_card(copy)
    options = ["--labels", made.labels, "--pictures", made.pictures, "--device", "cpu", "--resamples", 5]
    out = tmp_path / "judged"
    run = vcm_train("evaluate", copy, *options, "--split", "train", "--repeats", 1, "--out", out, "--update", "--json")
    assert run.code == 0, run.err
    assert run.end["facts"]["split"] == "train"
    assert run.end["facts"]["judging machines"] == before.provenance["data"]["judging_machines"]
    report = json.loads((out / "evaluation.json").read_text())
    assert list(not_finite(report)) == [] and report["tables"] == run.end["tables"]
    assert (out / "evaluation.md").read_text().count("### ") == len(report["tables"])
    after = read_card(copy)
    assert after.weights_sha256 == before.weights_sha256
    assert after.metrics["evaluation on train"] == report
    assert set(before.metrics) < set(after.metrics)
    assert "split: train" in copy.with_suffix(".md").read_text()
    curves = next(table for table in report["tables"] if table["title"] == "Curves: vvc/still/both")
    assert curves["rows"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--set", "epochz=3"], ["unknown key 'epochz'", "partitions"]),
        (["--set", "epochs=none"], ["epochs = 'none'", "must be a int"]),
        (["--set", "epochs=0"], ["epochs = 0", "at least 1"]),
        (["--set", "epochs"], ["--set 'epochs'", "KEY=VALUE"]),
        (["--judges", "nobody"], ["no machine 'nobody'"]),
        (["--judges", "@/nonexistent"], ["--judges @/nonexistent", "cannot be read"]),
        (["--init", "/nonexistent.safetensors"], ["/nonexistent.safetensors"]),
    ],
)  # fmt: skip
def test_wrong_options_are_told_in_a_line(
    options: list[str], parts: list[str], made: Made, tmp_path: Path, ask: Ask
) -> None:
    run = ask("curve_evidence", *folders(made, tmp_path / "out"), *options)
    refused(run, *parts, code=7 if "--init" in options else 2)
    assert not (tmp_path / "out" / "state.pt").exists()


def test_what_is_not_there_is_named(made: Made, trained: Path, tmp_path: Path, ask: Ask) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    pictures, labels = ["--pictures", made.pictures], ["--labels", made.labels]
    refused(vcm_train("nothing", *folders(made, out)), "no predictor configuration 'nothing'", "curve_small")
    refused(ask("curve_small", *pictures, "--out", out), "learns from labels: give --labels")
    refused(ask("curve_small", *labels, "--out", out), "--pictures: give the folders")
    refused(ask("curve_small", "--labels", empty, *pictures, "--out", out), str(empty), "no labels")
    refused(ask("curve_small", *labels, "--pictures", empty, "--out", out), str(empty))
    refused(ask("evaluate", trained, *pictures), "--labels")
    refused(ask("evaluate", tmp_path / "no.safetensors", *labels, *pictures), "no.safetensors", code=7)


def test_a_run_is_kept_from_another_configuration(made: Made, trained: Path, tmp_path: Path, ask: Ask) -> None:
    """Neither its state nor its weights are taken for another network's."""
    folder = tmp_path / "run"
    shutil.copytree(trained.parent, folder)
    told = folders(made, folder)
    refused(ask("curve_evidence", *told), "holds a run already", "--resume")
    refused(ask("curve_evidence", *told, "--resume", "--set", "epochs=9"), "made with another configuration")
    refused(ask("curve_small", *folders(made, tmp_path / "new"), "--init", trained), "cannot be what this network")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(trained.read_bytes()[:-100])
    run = ask("evaluate", damaged, "--labels", made.labels, "--pictures", made.pictures)
    refused(run, "damaged.safetensors")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_that_is_not_there_is_an_error_and_auto_is_not(
    made: Made, trained: Path, tmp_path: Path, ask: Ask
) -> None:
    told = [option if option != "cpu" else "cuda" for option in folders(made, tmp_path / "out")]
    refused(ask("curve_evidence", *told), "cuda", code=7)


def test_settings_are_read_as_in_toml() -> None:
    assert parse_setting("epochs=3") == ("epochs", 3)
    assert parse_setting("learning_rate = 1e-3") == ("learning_rate", 1e-3)
    assert parse_setting("qps=[22, 37]") == ("qps", [22, 37])
    assert parse_setting("init=a/b.safetensors") == ("init", "a/b.safetensors")
    assert parse_setting('task="both"') == ("task", "both")


def test_labels_that_do_not_fit_the_configuration_are_refused(made: Made, tmp_path: Path, ask: Ask) -> None:
    """Labels of a codec that the network has no condition for; two folders of one kind; a damaged shard."""
    text = (CONFIG_DIR / "curve_evidence.toml").read_text()
    (tmp_path / "hevc.toml").write_text("\n".join(line for line in text.splitlines() if '"vvc/' not in line))
    told = folders(made, tmp_path / "out")
    refused(ask(tmp_path / "hevc.toml", *told), "has no condition 'vvc/still/", "[network] conditions")
    (tmp_path / "broken.toml").write_text(text + "[[")
    refused(ask(tmp_path / "broken.toml", *told), "broken.toml", "not a TOML file")
    refused(ask("curve_evidence", *told, "--labels", made.labels), "two folders are of vvc/still")
    copy = tmp_path / "labels"
    shutil.copytree(made.labels, copy)
    shard = next((copy / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:200])
    refused(ask("curve_evidence", "--labels", copy, "--pictures", made.pictures, "--out", tmp_path / "out"), shard.name)
