"""The same seed gives the same weights: twice, after a kill, and in two processes that train together."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codec_wrappers.errors import CacheError
from tests.vcm_ratecontrol.encode_runs import environment
from tests.vcm_ratecontrol.training_table import Made, logged, make_table, request, tiny
from vcm_ratecontrol.predictors.checkpoint import weights_sha256
from vcm_ratecontrol.predictors.config import build_network
from vcm_ratecontrol.training.data import load_data
from vcm_ratecontrol.training.distributed import World
from vcm_ratecontrol.training.loop import FitResult, RunSettings, Trainer
from vcm_ratecontrol.training.options import training_options
from vcm_ratecontrol.training.run_state import STATE_FILE, load_state
from vcm_ratecontrol.training.stages import table_objective

ALONE = World(0, 1, torch.device("cpu"))
SHORT = {"epochs": 4, "steps_per_epoch": 5, "batch_size": 16, "warmup_steps": 3, "averaging": 0.9, "patience": 4}
PIXELS = {**SHORT, "epochs": 2, "steps_per_epoch": 2, "batch_size": 4}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_table(tmp_path_factory.mktemp("table"), 20)


def fit(
    made: Made,
    out: Path,
    changed: Mapping[str, object] | None = None,
    *,
    name: str = "curve_evidence",
    seed: int = 0,
    stop_after: int = 0,
    resume: bool = False,
    minutes: float = 0.0,
    workers: int = 0,
) -> tuple[str, FitResult]:
    """Hash of the weights. changed: against SHORT. stop_after: epochs after whose state the run dies, as by a kill."""
    asked = request(made, name, out).data
    assert asked is not None
    options = training_options({}, {**SHORT, **(changed or {})})
    objective = table_objective(tiny(name), options, load_data(asked), seed)
    torch.manual_seed(seed)
    network = build_network(tiny(name))
    told = RunSettings(out, seed, {"seed": seed}, resume=resume, max_minutes=minutes, workers=workers)
    trainer = Trainer(network, objective, options, told, ALONE)
    if stop_after:
        run_epoch = trainer._run_epoch

        def dies(*arguments: object) -> bool:
            if trainer.epoch == stop_after:
                raise KeyboardInterrupt
            return run_epoch(*arguments)  # type: ignore[arg-type]

        trainer._run_epoch = dies  # type: ignore[method-assign,assignment]
    result = trainer.fit()
    return weights_sha256(network.state_dict()), result


def test_the_same_seed_gives_the_same_weights(made: Made, tmp_path: Path) -> None:
    """Also when threads load the batches; another seed gives others."""
    first, _ = fit(made, tmp_path / "a")
    again, _ = fit(made, tmp_path / "b", workers=2)
    other, _ = fit(made, tmp_path / "c", seed=1)
    assert first == again != other
    assert logged(tmp_path / "a", "train loss") == logged(tmp_path / "b", "train loss")


@pytest.mark.parametrize("name", ["curve_evidence", "curve_small"])
def test_a_killed_run_ends_in_the_weights_of_one_that_was_not(name: str, made: Made, tmp_path: Path) -> None:
    """curve_small also has batch statistics, augmented views and stochastic depth."""
    settings = PIXELS if name == "curve_small" else {}
    stop = 1 if name == "curve_small" else 2
    whole, _ = fit(made, tmp_path / "whole", settings, name=name)
    with pytest.raises(KeyboardInterrupt):
        fit(made, tmp_path / "killed", settings, name=name, stop_after=stop)
    state = load_state(tmp_path / "killed", {"seed": 0})
    assert state is not None and state.epoch == stop
    resumed, result = fit(made, tmp_path / "killed", settings, name=name, resume=True)
    assert resumed == whole
    assert result.epochs == settings.get("epochs", 4)
    for column in ("epoch", "train loss", "validation score"):
        assert logged(tmp_path / "killed", column) == logged(tmp_path / "whole", column)


def test_a_folder_with_a_run_is_not_overwritten_or_mixed(made: Made, tmp_path: Path) -> None:
    fit(made, tmp_path, {"epochs": 1})
    with pytest.raises(CacheError, match="holds a run already; go on with --resume"):
        fit(made, tmp_path)
    with pytest.raises(CacheError, match=r"made with another seed \(0, now 1\)"):
        fit(made, tmp_path, seed=1, resume=True)
    (tmp_path / STATE_FILE).write_bytes((tmp_path / STATE_FILE).read_bytes()[:2000])
    with pytest.raises(CacheError, match=r"damaged .* delete it and train again"):
        fit(made, tmp_path, resume=True)


def test_training_ends_early_when_nothing_gets_better_or_time_is_up(made: Made, tmp_path: Path) -> None:
    _, still = fit(made, tmp_path / "a", {"learning_rate": 1e-30, "averaging": 0.0, "patience": 2, "epochs": 9})
    assert still.ending == "no better" and still.epochs < 9
    _, late = fit(made, tmp_path / "b", minutes=1e-6)
    assert late.ending == "time is up" and late.epochs == 0
    _, after = fit(made, tmp_path / "b", resume=True)
    assert after.ending == "all epochs"


def options_of(made: Made, out: Path, **settings: int) -> list[str]:
    values = {**SHORT, **settings}
    pairs = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    folders = ["--labels", made.labels, "--pictures", made.pictures, "--out", out]
    return ["curve_evidence", *map(str, folders), *pairs, "--device", "cpu", "--workers", "0", "--resamples", "0"]


def environment_of(out: Path) -> dict[str, str]:
    return environment(out, OMP_NUM_THREADS="1")


def test_sigterm_stops_a_training_that_then_goes_on(made: Made, tmp_path: Path) -> None:
    """As a process: exit code 130, the state of whole epochs stays, and --resume ends as if nothing had been."""
    command = [sys.executable, "-m", "vcm_ratecontrol.cli.train"]
    long = options_of(made, tmp_path / "out", epochs=6, steps_per_epoch=60, patience=9)
    started = subprocess.Popen(
        [*command, *long, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment_of(tmp_path),
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not (tmp_path / "out" / STATE_FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    out, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (130, "interrupted\n"), (out, err)
    end = json.loads(out.splitlines()[-1])
    assert end["status"] == "interrupted"
    state = load_state(tmp_path / "out", {})
    assert state is not None and 1 <= state.epoch < 6
    assert not (tmp_path / "out" / "curve_evidence.safetensors").exists()
    assert list((tmp_path / "out").glob("*.tmp")) == []
    done = subprocess.run(
        [*command, *long, "--resume", "--json"], capture_output=True, text=True, timeout=150,
        env=environment_of(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    end = json.loads(done.stdout.splitlines()[-1])
    assert end["epochs"] == 6 and Path(end["checkpoint"]).is_file()
    assert [int(epoch) for epoch in logged(tmp_path / "out", "epoch")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.timeout(300)
def test_two_processes_train_one_network(made: Made, tmp_path: Path) -> None:
    """DistributedDataParallel through torchrun, with gloo on the CPU: the leader alone validates, writes and prints."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    out = tmp_path / "out"
    done = subprocess.run(
        [*launcher, "vcm_ratecontrol.cli.train", *options_of(made, out, epochs=2)],
        capture_output=True, text=True, timeout=240, env=environment_of(tmp_path), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("curve_evidence.safetensors") == 1
    assert logged(out, "epoch") == [1, 2]
    weights = load_file(out / "curve_evidence.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    state = load_state(out, {})
    assert state is not None and state.identity["number of processes"] == 2
