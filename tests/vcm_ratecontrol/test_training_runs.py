"""A short run of every kind: it learns, judges by machines and pictures it never saw, and says what it did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codec_wrappers.errors import InputError
from tests.vcm_ratecontrol.training_table import Made, logged, make_table, not_finite, request, tiny
from vcm_ratecontrol.predictors.backbone import copy_backbone
from vcm_ratecontrol.predictors.checkpoint import load_checkpoint, read_card
from vcm_ratecontrol.predictors.config import build_network
from vcm_ratecontrol.predictors.smr_full_reference import SmallPair, SMRFullReference
from vcm_ratecontrol.progress import SILENT
from vcm_ratecontrol.training.curve_objective import CurveObjective
from vcm_ratecontrol.training.data import TrainingData, load_data
from vcm_ratecontrol.training.distributed import World
from vcm_ratecontrol.training.full_reference_objective import FullReferenceObjective
from vcm_ratecontrol.training.loop import RunSettings, Trainer
from vcm_ratecontrol.training.map_objective import MapObjective
from vcm_ratecontrol.training.object_objective import ObjectObjective
from vcm_ratecontrol.training.objective import Objective
from vcm_ratecontrol.training.options import TrainingOptions, training_options
from vcm_ratecontrol.training.run import TrainReport, train
from vcm_ratecontrol.training.stages import table_objective

STEPS = {"epochs": 3, "steps_per_epoch": 6, "batch_size": 8, "warmup_steps": 3, "learning_rate": 3e-3}
OBJECTS: dict[str, object] = {"least_machines": 1}
RUNS: dict[str, dict[str, object]] = {
    "curve_evidence": {"steps_per_epoch": 20, "batch_size": 32},
    "curve_small": {"backbone_learning_rate": 0.0, "batch_size": 16, "steps_per_epoch": 40},
    "smr_small": {"validation_pairs": 12, "qps": [32, 44], "steps_per_epoch": 12, "learning_rate": 1e-3},
    "dtjrd_small": OBJECTS,
    "owjrd_small": {**OBJECTS, "validation_objects": 8, "qps": [20, 50], "steps_per_epoch": 12, "learning_rate": 1e-3},
    "jrd_map_small": {"least_machines": 1, "backbone_learning_rate": 0.0},
}
"""Configuration -> what its run differs in; frozen trunks look at each picture once."""

TITLES = {
    "curve_evidence": ("Curves: ", "Decisions: ", "Bits: ", "Machines left out"),
    "curve_small": ("Curves: ", "Decisions: ", "Bits: ", "Machines left out"),
    "smr_small": ("Full reference: ",),
    "dtjrd_small": ("JRD of objects, no reference",),
    "owjrd_small": ("JRD of objects, full reference",),
    "jrd_map_small": ("",),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """HEVC, whose encoder takes the least time."""
    return make_table(tmp_path_factory.mktemp("table"), 20, codec="hevc")


@pytest.fixture(scope="module")
def data(made: Made) -> TrainingData:
    asked = request(made, "curve_evidence", made.labels).data
    assert asked is not None
    return load_data(asked)


@pytest.mark.parametrize("name", RUNS)
def test_a_short_run_learns_and_is_judged(name: str, made: Made, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    report = train(request(made, name, tmp_path, {**STEPS, **RUNS[name]}))
    assert report is not None and report.fit.epochs == 3 and report.missing == ()
    losses = logged(tmp_path, "train loss")
    assert min(losses[1:]) < losses[0], losses
    written(name, report, tmp_path)


def written(name: str, report: TrainReport, out: Path) -> None:
    """Checkpoint, evaluation and model card of a run."""
    network, card = load_checkpoint(report.checkpoint)
    assert card.config.same_network(tiny(name)) and card == read_card(report.checkpoint) == report.card
    assert not any(torch.isnan(value).any() for value in network.state_dict().values() if value.is_floating_point())
    assert card.licence == "Apache-2.0" and len(card.training_data_sha256) == 64
    told = card.provenance["data"]
    assert not set(told["choosing_machines"]) & set(told["judging_machines"])
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["facts"]["split"] == "validation"
    assert evaluation["facts"]["judging machines"] == told["judging_machines"]
    titles = [table["title"] for table in evaluation["tables"]]
    assert all(any(title.startswith(wanted) for title in titles) for wanted in TITLES[name]), titles
    assert list(not_finite(evaluation)) == [] == list(not_finite(dict(card.metrics)))
    text = (out / f"{name}.md").read_text()
    for part in (f"# {name}", card.weights_sha256, card.training_data_sha256, "## Limits", "Apache-2.0", *titles):
        assert part in text
    for machine in (*told["choosing_machines"], *told["judging_machines"]):
        assert machine in text
    assert str(out) not in text and str(out.parent) not in json.dumps(card.provenance)
    assert report.plots and all(path.stat().st_size > 1000 for path in report.plots)


def objectives(data: TrainingData) -> dict[str, Objective]:
    found: dict[str, Objective] = {}
    for name, own in RUNS.items():
        options: TrainingOptions = training_options(tiny(name).training, own)
        found[name] = table_objective(tiny(name), options, data, 0)
    return found


def test_no_batch_holds_a_picture_of_another_split(data: TrainingData) -> None:
    """Training draws training pictures alone, validation validation pictures alone, whatever the kind."""
    splits = np.array([data.sets[0].splits[row] for row in data.samples.row])
    made = objectives(data)
    for name, objective in made.items():
        drawn = objective.plan(np.random.default_rng(0), 6, 8)
        rows = {row for draw in drawn for row in draw.rows}
        if isinstance(objective, ObjectObjective):
            pictures = {row for _, row in objective.train}
            used = [objective._draw(np.random.default_rng(at), *objective.train[0]) for at in range(40)]
            pictures |= {int(objective.of(target).picture[target.at]) for target in used}
            assert {data.sets[0].splits[row] for row in pictures} == {"train"}
            judged = {int(objective.of(t).picture[t.at]) for t in objective.judged("validation", 0)}
            assert {data.sets[0].splits[row] for row in judged} == {"validation"}
        else:
            assert {splits[row] for row in rows} == {"train"}, name
    full = made["smr_small"]
    assert isinstance(full, FullReferenceObjective)
    assert {splits[pair.sample] for pair in full._validation} == {"validation"}


def test_pairs_that_a_frozen_stand_in_saw_once_are_those_of_pixels(data: TrainingData) -> None:
    torch.manual_seed(0)
    config = tiny("smr_small")
    stand_in, network = build_network(tiny("stand_in")), build_network(config)
    copy_backbone(stand_in, network)
    assert isinstance(network, SMRFullReference) and isinstance(network.pair, SmallPair)
    weights = network.pair.stand_in.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in stand_in.state_dict().items())
    for head in (network.direct, network.difference):  # else all answers are those of the mean curve
        assert head is not None and isinstance(head[-1], torch.nn.Linear)
        torch.nn.init.normal_(head[-1].weight)
    options = {"partitions": 4, "qps": (32, 44)}
    frozen, plain = (FullReferenceObjective(config, options, data, 0, frozen=once) for once in (True, False))
    for objective in (frozen, plain):
        objective.prepare(network, torch.device("cpu"), SILENT)
    network.eval()
    drawn = frozen._validation[:3]
    coded = [replace(pair, qp_at=int(frozen.columns[0][1]), reference_at=int(frozen.columns[0][0])) for pair in drawn]
    for pair in (*drawn, *coded):
        size = frozen.sizes[pair.sample]
        once, pixels = frozen.item([pair], size), plain.item([pair], size)
        assert once.compared is not None and pixels.compared is None
        with torch.no_grad():
            torch.testing.assert_close(network.predict(once.batch, once.compared).smr, network(pixels.batch).smr)


def test_training_never_sees_a_judge(data: TrainingData) -> None:
    """No judge is in a partition, gives evidence, or counts in a target or a mean curve."""
    judges = set(data.machines.judging)
    assert judges and data.machines.disjoint
    at = [data.sets[0].verdicts.machines.index(machine) for machine in sorted(judges)]
    for name, objective in objectives(data).items():
        if isinstance(objective, CurveObjective):
            parts = list(objective.validation.exam.bank.partitions)
            assert not objective.may_tell[:, :, at].any()
        elif isinstance(objective, FullReferenceObjective):
            parts = list(objective.bank.partitions)
        else:
            assert isinstance(objective, ObjectObjective | MapObjective)
            parts = objective.partitions
        assert parts, name
        for part in parts:
            assert not judges & {*part.target, *part.evidence}, name
    full = objectives(data)["smr_small"]
    assert isinstance(full, FullReferenceObjective)
    item = full.load(full.plan(np.random.default_rng(0), 1, 8)[0])
    assert not item.batch.evidence_mask[:, at].any() and not item.batch.evidence[:, at].any()


def test_weights_do_not_depend_on_what_judges_say(made: Made, data: TrainingData, tmp_path: Path) -> None:
    """Judges that always fail change nothing in the weights."""
    at = np.array([name in data.machines.judging for name in data.sets[0].verdicts.machines])
    labels = data.sets[0]
    said = labels.verdicts
    silent = replace(labels, verdicts=replace(said, satisfied=said.satisfied & ~at[:, None]))
    found = []
    for number, one in enumerate((labels, silent)):
        samples = replace(data.samples, sets=(one,), _statistics={})
        changed = replace(data, sets=(one,), samples=samples)
        options = training_options({}, {**STEPS, "epochs": 1})
        torch.manual_seed(0)
        network = build_network(tiny("curve_evidence"))
        objective = table_objective(tiny("curve_evidence"), options, changed, 0)
        settings = RunSettings(tmp_path / str(number), 0)
        Trainer(network, objective, options, settings, World(0, 1, torch.device("cpu"))).fit()
        found.append(network.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_partitions_whose_machines_see_no_object_are_not_drawn(made: Made) -> None:
    """Else a draw would look for an object for ever."""
    asked = request(made, "dtjrd_small", made.labels, judges="c0,d5").data
    assert asked is not None
    objective = ObjectObjective(tiny("dtjrd_small"), {"least_machines": 3}, load_data(asked), 0)
    sizes = {len(part.target) for part in objective.partitions[2:]}
    assert min(sizes) < 3, "no partition is too small; this test shows nothing"
    item = objective.load(objective.plan(np.random.default_rng(0), 1, 32)[0])
    assert len(item.jrd) == 32
    with pytest.raises(InputError, match="no train picture holds an object that 9 detectors see"):
        ObjectObjective(tiny("dtjrd_small"), {"least_machines": 9}, load_data(asked), 0)
