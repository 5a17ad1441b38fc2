"""How well a curve network does on the validation pictures, and how far its shifts must be shrunk.

Judged by choosing machines only, never by the judges: half of them give the evidence, the other half the curves, and
the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from codec_wrappers.errors import InputError
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.interface import Condition
from vcm_ratecontrol.predictors.mean_curve import MeanCurves
from vcm_ratecontrol.progress import Progress
from vcm_ratecontrol.training.curve_bank import TargetBank, halves
from vcm_ratecontrol.training.curve_exam import ALL, COUNTS, Answer, CurveExam, grouped
from vcm_ratecontrol.training.curve_targets import shifted_curves
from vcm_ratecontrol.training.decisions import TARGETS, Truth, pooled, saving
from vcm_ratecontrol.training.label_set import LabelSet
from vcm_ratecontrol.training.objective import SCORE
from vcm_ratecontrol.training.samples import Samples

Floats = npt.NDArray[np.float64]

SHRINKAGES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)
"""What is tried. 1 is right where the predicted deviations are."""


class CurveValidation:
    """Questions on the validation pictures of `samples`."""

    def __init__(
        self,
        config: PredictorConfig,
        samples: Samples,
        names: Sequence[str],
        tasks: Sequence[str],
        conditions: Sequence[Condition],
    ) -> None:
        """names, tasks: of the choosing machines; conditions: of the network."""
        self.samples, self.conditions = samples, list(conditions)
        bank = TargetBank.of(samples.sets, halves(names, tasks))
        self.exam = CurveExam(config, samples, samples.of_split("validation"), bank, conditions)

    def build(self, progress: Progress) -> None:
        """Raises InputError when there is nothing to ask."""
        self.exam.build(progress)
        if not self.exam.questions:
            raise InputError("no validation picture has enough valid machines for a curve; annotate more pictures")

    def figures(self, network: nn.Module, device: torch.device, bits_weight: float) -> dict[str, float]:
        """Score (likelihood of the shifts and error of the bits), and correlations by number of machines at hand."""
        likelihood, bits = [], []
        by_count: dict[int, list[float]] = {count: [] for count in COUNTS}
        for answer in self.exam.answers(network, device):
            error = (answer.true_shift - answer.mean) / answer.deviation
            likelihood.append(float((0.5 * error**2 + np.log(answer.deviation)).mean()))
            bits.append(bits_error(answer, self._labels(answer)))
            if answer.question.count:
                by_count[answer.question.count].append(correlation(answer.mean, answer.true_shift))
        found = {SCORE: float(np.mean(likelihood)) + bits_weight * float(np.mean(bits)), "bits": float(np.mean(bits))}
        for count, values in by_count.items():
            if np.isfinite(values).any():
                found[f"correlation {'all' if count == ALL else count}"] = float(np.nanmean(values))
        return found

    def _labels(self, answer: Answer) -> LabelSet:
        return self.samples.sets[answer.question.labels_at]

    def calibrate(self, network: nn.Module, device: torch.device) -> dict[str, float]:
        """Set the network's `shrinkage` of each condition; what it is, and what pooling saves with it.

        The least squared error of the curves decides, and beyond it more is shrunk until pooling over predicted curves
        and bits saves no less than over the mean curve and true bits. Where nothing reaches that, what saves most.
        """
        buffer = next(b for name, b in network.named_buffers() if name.rsplit(".", 1)[-1] == "shrinkage")
        curves = next(m for m in network.modules() if isinstance(m, MeanCurves))
        found: dict[str, float] = {}
        for condition, answers in grouped(self.exam.answers(network, device), lambda a: a.question.condition):
            mean = curves.smr[condition].cpu().numpy().astype(np.float64)
            chosen, safe, blind = self._shrinkage_of(answers, mean, float(curves.shift_deviation[condition]))
            buffer[condition] = chosen
            name = str(self.conditions[condition])
            found |= {f"shrinkage {name}": chosen, f"pooled {name}": safe, f"blind {name}": blind}
        return found

    def _shrinkage_of(self, answers: Sequence[Answer], mean: Floats, spread: float) -> tuple[float, float, float]:
        """The chosen shrinkage, what pooling saves with it, and what blind pooling saves (percent).

        mean: float64 [64], the network's mean curve; spread: standard deviation of all shifts, QP.
        """
        shifts = [[shrunk(answer, shrinkage, spread) for answer in answers] for shrinkage in SHRINKAGES]
        errors = [np.mean([self._curve_error(a, s) for a, s in zip(answers, tried, strict=True)]) for tried in shifts]
        first = int(np.argmin(errors))
        blind = float(np.nanmean([self._saving(a, None, mean) for a in answers]))
        savings: dict[int, float] = {}
        for at in range(first, len(SHRINKAGES)):
            tried = zip(answers, shifts[at], strict=True)
            savings[at] = float(np.nanmean([self._saving(a, s, mean) for a, s in tried]))
            if savings[at] >= blind:
                return SHRINKAGES[at], savings[at], blind
        best = max(savings, key=lambda at: savings[at])
        return SHRINKAGES[best], savings[best], blind

    def _curve_error(self, answer: Answer, shift: Floats) -> float:
        targets = answer.question.targets
        predicted = shifted_curves(targets.mean, shift, self._labels(answer).qps)
        return float(((predicted - targets.smr[answer.question.pictures]) ** 2).mean())

    def _saving(self, answer: Answer, shift: Floats | None, mean: Floats) -> float:
        """Mean saving (percent) over the targets; shift None: blind, with true bits. NaN where nothing compares."""
        question, labels = answer.question, self._labels(answer)
        truth = Truth(question.targets.smr[question.pictures], true_bits(answer, labels), labels.qps)
        flat = np.zeros(len(truth.smr))
        smr = shifted_curves(mean, flat if shift is None else shift, labels.qps)
        bits = truth.bits if shift is None else predicted_bits(answer, labels)
        values = [saving(truth, pooled(truth, smr, bits, target)) for target in TARGETS]
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def shrunk(answer: Answer, shrinkage: float, spread: float) -> Floats:
    """Shifts pulled to 0 by their doubt, as `curve_head.shrunk`: float64 [n]."""
    shifted: Floats = answer.mean * spread**2 / (spread**2 + shrinkage * answer.deviation**2)
    return shifted


def true_bits(answer: Answer, labels: LabelSet) -> Floats:
    """Measured bits of the pictures of an answer: float64 [n, Q]."""
    return labels.verdicts.bits[answer.question.pictures, 1:].astype(np.float64)


def predicted_bits(answer: Answer, labels: LabelSet, offset: Floats | float = 0.0) -> Floats:
    """Predicted bits at the measured QPs: float64 [n, Q]. offset: [Q], added to the log2 of them."""
    area = (labels.widths * labels.heights)[answer.question.pictures][:, None]
    bits: Floats = 2.0 ** (answer.log2_bits[:, list(labels.qps)] + offset) * area
    return bits


def bits_error(answer: Answer, labels: LabelSet, offset: Floats | float = 0.0) -> float:
    """Mean absolute error of log2 bits."""
    predicted = np.log2(predicted_bits(answer, labels, offset))
    return float(np.abs(predicted - np.log2(np.maximum(true_bits(answer, labels), 1))).mean())


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's; NaN where it is not defined."""
    if len(a) < 3 or a.std() < 1e-9 or b.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
