"""Evaluation of dense JRD maps on the blocks that objects touch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import nn

from codec_wrappers.errors import InputError
from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.predictors.checkpoint import CheckpointCard
from vcm_ratecontrol.predictors.inference import JRDMapPredictor, predictor_of
from vcm_ratecontrol.predictors.interface import BLOCK_SIZE, Sample
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.data import TrainingData
from vcm_ratecontrol.training.evaluation.figures import Figure, Report, Resampling, Row, Table, figure
from vcm_ratecontrol.training.evaluation.plots import Draw, scatter_chart
from vcm_ratecontrol.training.evaluation.settings import EvaluationSettings
from vcm_ratecontrol.training.object_bank import ObjectBank, ObjectTargets
from vcm_ratecontrol.training.views import whole

Floats = npt.NDArray[np.float64]

RATIO = 0.75
LEAST_JUDGES = 2
"""Judges that must see an object on the original."""

COLUMNS = {
    "error, levels": (2, ""),
    "skill against the best constant": (1, " %"),
    "error as delivered": (2, ""),
    "object blocks found": (0, " %"),
    "other blocks taken for objects": (0, " %"),
}
NOTE = (
    "Blocks of 16 x 16 pixels that an object touches, weighted alike; 'as delivered' with background at the top of the"
    " range, where an object that was missed counts in full."
)


def evaluate_maps(
    network: nn.Module,
    card: CheckpointCard,
    data: TrainingData,
    settings: EvaluationSettings,
    progress: Progress = SILENT,
) -> tuple[Report, dict[str, Draw]]:
    """The report and its charts. Raises InputError when the judges see no object on the pictures of the split."""
    device = next(network.parameters()).device
    predictor = predictor_of(network, card, device=device.type)
    assert isinstance(predictor, JRDMapPredictor)
    rows = data.samples.of_split(settings.split)
    rows = rows[: settings.most or len(rows)]
    targets = [ObjectBank.of(labels).targets(data.machines.judging, [RATIO], LEAST_JUDGES) for labels in data.sets]
    lines, charts = [], dict[str, Draw]()
    for name, with_detector in (("no detector at hand", False), ("a detector's confidence map at hand", True)):
        progress.phase(name, len(rows))
        answers = []
        for sample in rows.tolist():
            at, row = int(data.samples.labels_at[sample]), int(data.samples.row[sample])
            answers.append(_answer(predictor, data, sample, targets[at], row, with_detector))
            progress.advance()
        lines.append(_row(name, answers, settings.how))
        if not with_detector:
            true, said = (np.concatenate([a[i][a[0] < N_LEVELS] for a in answers]) for i in (0, 1))
            charts["map-predicted-true"] = scatter_chart(said, true, "object blocks", "level")
    facts = {
        "split": settings.split,
        "pictures": len(rows),
        "ratio": RATIO,
        "judging machines": list(data.machines.judging),
    }
    return Report(facts, [Table("Dense map", COLUMNS, lines, NOTE)]), charts


BlockLevels = tuple[Floats, Floats, Floats]


def _answer(
    predictor: JRDMapPredictor, data: TrainingData, sample: int, targets: ObjectTargets, row: int, detector: bool
) -> BlockLevels:
    """True levels (N_LEVELS where no object is), predicted levels, and levels as delivered: float64 [blocks] each."""
    labels, _ = data.samples.labels(sample)
    width, height = int(labels.widths[row]), int(labels.heights[row])
    confidence = None
    if detector:
        rng = np.random.default_rng(row)
        machines = labels.machines_at(data.machines.choosing, "detection")
        confidence = data.samples.map_of(sample, int(rng.choice(machines)), whole(width, height))
    question = Sample(data.samples.picture(sample), confidence_map=confidence)
    levels = predictor.predict([question], ratio=RATIO, threshold=0.0)[0].level
    delivered = predictor.predict([question], ratio=RATIO)[0].level
    true = block_levels(targets, row, height, width)
    return true.ravel(), levels.ravel().astype(np.float64), delivered.ravel().astype(np.float64)


def block_levels(targets: ObjectTargets, row: int, height: int, width: int) -> Floats:
    """Lowest JRD of the objects that touch each block: float64 [rows, cols], N_LEVELS where there is none."""
    rows, cols = -(-height // BLOCK_SIZE), -(-width // BLOCK_SIZE)
    levels = np.full((rows, cols), float(N_LEVELS))
    for member in np.flatnonzero(targets.picture == row):
        x1, y1, x2, y2 = targets.boxes[member] / BLOCK_SIZE
        part = levels[max(0, int(y1)) : int(np.ceil(y2)), max(0, int(x1)) : int(np.ceil(x2))]
        np.minimum(part, float(targets.jrd[member, 0]), out=part)
    return levels


def _row(name: str, answers: list[BlockLevels], how: Resampling) -> Row:
    inside = [true < N_LEVELS for true, _, _ in answers]
    everything = np.concatenate([a[0][i] for a, i in zip(answers, inside, strict=True)])
    if not len(everything):
        raise InputError("the judges see no object on these pictures; annotate more, or name more detectors to judge")
    constant = float(np.median(everything))
    sums = np.array(
        [
            [
                i.sum(),
                np.abs(levels - true)[i].sum(),
                np.abs(constant - true)[i].sum(),
                np.abs(delivered - true)[i].sum(),
                (delivered < N_LEVELS - 1)[i].sum(),
                (~i).sum(),
                (delivered < N_LEVELS - 1)[~i].sum(),
            ]
            for (true, levels, delivered), i in zip(answers, inside, strict=True)
        ],
        np.float64,
    )

    def over(a: int, b: int, scale: float = 1.0, one_minus: bool = False) -> Figure:
        def statistic(items: npt.NDArray[np.intp]) -> float:
            share = sums[items, a].sum() / max(1e-9, sums[items, b].sum())
            return float(scale * (1 - share if one_minus else share))

        return figure(statistic, len(sums), how)

    figures = {
        "error, levels": over(1, 0),
        "skill against the best constant": over(1, 2, 100, one_minus=True),
        "error as delivered": over(3, 0),
        "object blocks found": over(4, 0, 100),
        "other blocks taken for objects": over(6, 5, 100),
    }
    return Row(name, figures)
