"""Distillation with real machines: repeatable shards, a cache that survives kills, a student that learns."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codec_wrappers.errors import CacheError, InputError
from tests.vcm_ratecontrol.encode_runs import Started, vcm_encode
from tests.vcm_ratecontrol.training_table import Made, logged, make_table, request
from vcm_ratecontrol.annotate.sources import content_hash
from vcm_ratecontrol.labels.splits import split_of
from vcm_ratecontrol.machines.manifest import read_manifest
from vcm_ratecontrol.predictors.checkpoint import load_checkpoint
from vcm_ratecontrol.predictors.config import load_config
from vcm_ratecontrol.training import teach as teaching
from vcm_ratecontrol.training.run import TrainRequest, train
from vcm_ratecontrol.training.teach import TeachRequest, teach
from vcm_ratecontrol.training.teacher_cache import TeacherCache, TeacherShard

TEACHERS = ("mobilenet_v1_0.25_128_quant", "fastestdet")
SMALL_SHARD = 32


@pytest.fixture(scope="module")
def photographs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight of the training split, three of validation, one of test."""
    folder = tmp_path_factory.mktemp("photographs")
    wanted = {"train": 8, "validation": 3, "test": 1}
    for path in sorted((shared_data / "images" / "coco").iterdir()):
        split = split_of(content_hash(str(path)))
        if wanted[split]:
            wanted[split] -= 1
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def judges(machines_dir: Path) -> str:
    """All machines but the two fastest."""
    return ",".join(spec.name for spec in read_manifest(machines_dir).machines if spec.name not in TEACHERS)


@pytest.fixture
def asked(photographs: Path, machines_dir: Path, judges: str, tmp_path: Path) -> TeachRequest:
    return TeachRequest(machines_dir, (str(photographs),), tmp_path / "answers", judges, crops=2 * SMALL_SHARD)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "SHARD", SMALL_SHARD)


def same(one: TeacherShard, other: TeacherShard) -> bool:
    names = TeacherShard.__dataclass_fields__
    return all(np.array_equal(getattr(one, n), getattr(other, n), equal_nan=n == "confidence") for n in names)


def test_a_shard_is_a_function_of_seed_and_number(asked: TeachRequest, small_shards: None) -> None:
    """Made again, after its file is lost or by two threads, it is the same; the other shards are not touched."""
    report = teach(asked)
    assert (report.crops, report.made, set(report.teachers)) == (64, 64, set(TEACHERS))
    cache = TeacherCache(asked.cache)
    first, second = (cache.read_shard(number) for number in (0, 1))
    assert not same(first, second)
    lost = asked.cache / "shards" / "000001.npz"
    lost.unlink()
    again = teach(replace(asked, workers=2))
    assert (again.crops, again.made) == (64, 32)
    assert same(cache.read_shard(1), second) and same(cache.read_shard(0), first)
    assert teach(asked).made == 0
    lost.write_bytes(lost.read_bytes()[:500])
    with pytest.raises(CacheError, match=r"damaged .* run vcm-train distil again"):
        cache.read()
    with pytest.raises(CacheError, match="made with other machines, judges or seed"):
        teach(replace(asked, seed=1))
    with pytest.raises(InputError, match="no machine 'nobody'"):
        teach(replace(asked, judges="nobody", cache=asked.cache.parent / "other"))


def test_teachers_alone_answer_about_pictures_outside_the_test_split(asked: TeachRequest, small_shards: None) -> None:
    """Judges' columns stay empty; crops are of both splits, and keep to the split of their picture."""
    teach(asked)
    cache = TeacherCache(asked.cache)
    index, shard = cache.index(), cache.read()
    assert index is not None and len(index.machines) == len(read_manifest(asked.machines).machines)
    told = np.array([name in TEACHERS for name in index.machines])
    assert np.isnan(shard.confidence[:, ~told]).all() and (shard.confidence[:, told] >= 0).all()
    assert {split_of(source.key) for source in index.sources} == {"train", "validation"}
    for row in shard.recipes:
        source = index.sources[int(row[0])]
        assert ("train", "validation")[int(row[-1])] == split_of(source.key)
    assert np.allclose(shard.probabilities.astype(np.float32).sum(axis=1), 1, atol=2e-2)
    assert np.isfinite(shard.summaries).all() and len(shard) == 64


def test_distil_ends_at_its_bounds(asked: TeachRequest, small_shards: None) -> None:
    assert teach(replace(asked, max_minutes=1e-9)).made == 0
    assert teach(replace(asked, max_bytes=1)).made == 32
    assert teach(asked).crops == 64


@pytest.fixture(scope="module")
def taught(photographs: Path, machines_dir: Path, judges: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache made by the command, which was stopped by SIGTERM in its midst and started again."""
    cache = tmp_path_factory.mktemp("taught") / "answers"
    options = ["distil", "--machines", machines_dir, "--pictures", photographs, "--cache", cache, "--crops", 256]
    options += ["--judges", judges, "--workers", 1]
    started = Started(*options, module="train")
    started.until(lambda event: event["event"] == "progress" and event["phase"] == "teaching" and event["done"] > 8)
    started.process.send_signal(signal.SIGTERM)
    stopped = started.finish()
    assert (stopped.code, stopped.err) == (130, "interrupted\n")
    assert not (cache / "shards").exists()
    done = vcm_encode(*options, "--json", module="train")
    assert done.code == 0, done.err
    assert done.end["crops"] == done.end["made"] == 256 and done.end["teachers"] == sorted(TEACHERS, reverse=True)
    assert done.end["sources"] == 11
    return cache


@pytest.mark.timeout(300)
def test_the_stand_in_learns_and_predictors_start_from_it(taught: Path, photographs: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    steps = {
        "epochs": 2,
        "steps_per_epoch": 6,
        "batch_size": 4,
        "warmup_steps": 2,
        "validation_crops": 16,
        "groups": 64,
    }
    steps.pop("groups")
    out = tmp_path / "stand_in"
    config = load_config("stand_in")
    report = train(TrainRequest(config, None, out, (str(photographs),), taught, steps, device="cpu"))
    assert report is not None and report.report is None
    losses = logged(out, "train loss")
    assert losses[-1] < losses[0], losses
    network, card = load_checkpoint(report.checkpoint)
    assert card.provenance["data"]["crops"] == 256
    assert sorted(card.provenance["data"]["teachers"]) == sorted(TEACHERS)
    assert "None yet" in (out / "stand_in.md").read_text() and "crops: 256" in (out / "stand_in.md").read_text()
    made: Made = make_table(tmp_path / "table", 20)
    frozen = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "backbone_learning_rate": 0.0}
    curve = train(replace(request(made, "curve_small", tmp_path / "curve", frozen), init=str(report.checkpoint)))
    assert curve is not None and curve.card.provenance["started_from"] == card.weights_sha256
    started, _ = load_checkpoint(curve.checkpoint)
    theirs = network.state_dict()
    kept = {n.partition("stand_in.")[2]: v for n, v in started.state_dict().items() if "stand_in." in n}
    assert kept and all(torch.equal(v, theirs[n]) for n, v in kept.items())


def test_the_stand_in_needs_a_cache_of_its_machines(taught: Path, photographs: Path, tmp_path: Path) -> None:
    config = load_config("stand_in")
    asked = TrainRequest(config, None, tmp_path / "out", (str(photographs),), tmp_path / "empty", device="cpu")
    with pytest.raises(CacheError, match="holds no answers of teachers; make them with vcm-train distil"):
        train(asked)
    with pytest.raises(InputError, match="give --cache, made by vcm-train distil"):
        train(replace(asked, teachers=None))
    other = replace(config, network={**config.network, "teachers": 5})
    with pytest.raises(InputError, match=r"has 5 outputs; set \[network\] teachers = 31"):
        train(replace(asked, config=other, teachers=taught))
    with pytest.raises(InputError, match="unknown key 'depth'"):
        train(replace(asked, overrides={"depth": 3}, teachers=taught))
    index = json.loads((taught / "index.json").read_text())
    assert index["version"] == 1
