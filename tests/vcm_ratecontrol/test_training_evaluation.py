"""Every kind of predictor beside its references, whoever judges: other machines than those at hand, or the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.vcm_ratecontrol.training_table import Made, make_table, not_finite, request, tiny
from vcm_ratecontrol.predictors.checkpoint import CheckpointCard
from vcm_ratecontrol.predictors.config import build_network
from vcm_ratecontrol.predictors.mean_curve import MeanCurves
from vcm_ratecontrol.training.curve_bank import fitted_curves
from vcm_ratecontrol.training.curve_objective import enter_curves
from vcm_ratecontrol.training.data import load_data
from vcm_ratecontrol.training.evaluation.evaluate import evaluate
from vcm_ratecontrol.training.evaluation.figures import Report, Resampling
from vcm_ratecontrol.training.evaluation.settings import EvaluationSettings

SHORT = EvaluationSettings("test", counts=(0, 2), repeats=1, most=6, how=Resampling(0, 20))
FLOOR, HALVES = "split-half floor: the finite library alone", "one half of the judges for the other half"
DECODINGS = ("published rule", "median of the probabilities", "median of the probabilities, shrunk")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """HEVC, whose encoder takes the least time."""
    return make_table(tmp_path_factory.mktemp("table"), 20, codec="hevc")


def report_of(name: str, judges: str, made: Made) -> Report:
    """Of a network that was never trained, but for its mean curves."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    asked = request(made, name, made.labels, judges=judges).data
    assert asked is not None
    data = load_data(asked)
    config = tiny(name)
    if "jrd" in name:
        config = replace(config, training={**config.training, "least_machines": 1})
    network = build_network(config)
    for module in network.modules():
        if isinstance(module, MeanCurves):
            enter_curves(module, fitted_curves(data.sets, data.machines.choosing))
    report, _ = evaluate(network, CheckpointCard(config, "", {}, "Apache-2.0"), data, SHORT, None)
    assert list(not_finite(report.to_json())) == []
    return report


@pytest.mark.parametrize("judges", ["hash", "same"])
@pytest.mark.parametrize("name", ["smr_small", "owjrd_small", "dtjrd_small", "curve_evidence"])
def test_other_machines_are_a_reference_where_there_are_others(name: str, judges: str, made: Made) -> None:
    report = report_of(name, judges, made)
    names = [row.name for table in report.tables for row in table.rows]
    found = [row for row in names if "other machines" in row or "other detectors" in row]
    assert bool(found) == (judges == "hash"), names
    among = "at hand are among" in report.markdown()
    assert among == (judges == "same")
    if "jrd" in name:
        assert {"best constant", "constant of the training objects", HALVES, FLOOR} <= {*names}
    if name == "owjrd_small":
        assert {f"0 detectors at hand, {one}" for one in DECODINGS} <= {*names}
    if name == "smr_small":
        means_are_of_all_qps(report)


def means_are_of_all_qps(report: Report) -> None:
    for table in report.tables:
        by_name = {row.name: row.figures for row in table.rows}
        for what in (FLOOR, HALVES, "0 machines at hand", "2 machines at hand"):
            single = [figures for name, figures in by_name.items() if name.startswith("QP") and name.endswith(what)]
            mean = by_name[f"mean over QPs, {what}"]
            assert len(single) == 4 and mean.keys() == single[0].keys()
            errors = [figures["MAE"].value or 0.0 for figures in single]
            assert mean["MAE"].value == pytest.approx(np.mean(errors))
