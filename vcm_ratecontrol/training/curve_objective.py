"""Stage 'curve': from what is known of an original to its SMR and bits at every level."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from codec_wrappers.errors import InputError
from vcm_ratecontrol.predictors.backbone import StandInPrediction
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.interface import Batch, Condition, CurvePrediction, Sample, Task, Tensors
from vcm_ratecontrol.predictors.mean_curve import MeanCurves, conditions_from, non_increasing
from vcm_ratecontrol.predictors.preprocess import collate, prepare
from vcm_ratecontrol.predictors.smr_curve import SMRCurveNetwork, shift_loss
from vcm_ratecontrol.progress import Progress
from vcm_ratecontrol.training.buckets import bucket_draws, input_sizes
from vcm_ratecontrol.training.curve_bank import COUNTS, TargetBank, draw_evidence, fitted_curves, partitions
from vcm_ratecontrol.training.curve_exam import ALL, see
from vcm_ratecontrol.training.curve_targets import LEVELS
from vcm_ratecontrol.training.curve_validation import CurveValidation
from vcm_ratecontrol.training.feature_bank import FeatureBank
from vcm_ratecontrol.training.label_set import TASKS
from vcm_ratecontrol.training.machine_split import MachineSplit
from vcm_ratecontrol.training.objective import Draw, even_draws
from vcm_ratecontrol.training.options import objective_options
from vcm_ratecontrol.training.samples import Samples
from vcm_ratecontrol.training.views import View, random_view

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CurveOptions:
    """partitions: divisions of the choosing machines that targets are made for. crop: share of a side that a view may
    leave out. map_share: of the pictures with a detector among their evidence, how many get its confidence map.
    bits_weight: of the error of log2 bits in the loss."""

    partitions: int = 64
    crop: float = 0.1
    map_share: float = 0.7
    bits_weight: float = 1.0


@dataclass(frozen=True)
class CurveItem(Tensors):
    """A batch with its targets. shift: float32 [B], QP, NaN where unknown; log2_bits: float32 [B, 64], NaN likewise.
    seen: what a frozen stand-in saw, or None."""

    batch: Batch
    shift: Tensor
    log2_bits: Tensor
    seen: StandInPrediction | None = None


class CurveObjective:
    """See `objective.Objective`. Networks: `SMRCurveNetwork` (pixels), `EvidenceCurveNetwork` (none)."""

    def __init__(
        self, config: PredictorConfig, values: Mapping[str, Any], samples: Samples, machines: MachineSplit, seed: int,
        *, frozen: bool = False,
    ) -> None:  # fmt: skip
        """values: the options' own part, see `CurveOptions`. frozen: the backbone does not learn, so it runs once.

        Raises InputError for options, or for labels of a condition that the configuration does not name.
        """
        self.options = objective_options(CurveOptions, values)
        self.config, self.samples, self.machines = config, samples, machines
        self.conditions = conditions_from(config.network["conditions"])
        self.pixels = config.kind == "smr_curve"
        self.curves = fitted_curves(samples.sets, machines.choosing)
        self._check_conditions()
        first = samples.sets[0].verdicts
        tasks = [first.tasks[first.machines.index(n)] for n in machines.choosing if n in first.machines]
        names = [n for n in machines.choosing if n in first.machines]
        parts = partitions(names, tasks, self.options.partitions, seed)
        bank = TargetBank.of(samples.sets, parts)
        self.shifts = bank.shifts(samples.labels_at, samples.row)
        self.features, self.asked = samples.evidence()
        self.may_tell = bank.evidence(self.asked.shape[1])
        self.log2_bits = samples.log2_bits()
        self.statistics = np.zeros((len(samples), 0), np.float32)
        self.train = samples.of_split("train")
        heights, widths = samples.sizes()
        self.sizes = input_sizes(heights, widths, config.input) if self.pixels else [(0, 0)] * len(samples)
        self.frozen = FeatureBank() if frozen and self.pixels else None
        self.validation = CurveValidation(config, samples, names, tasks, self.conditions)

    def _check_conditions(self) -> None:
        for condition in self.curves:
            if condition not in self.conditions:
                raise InputError(
                    f"configuration '{self.config.name}': has no condition '{condition}', which the labels are of;"
                    " add it to [network] conditions"
                )

    def prepare(self, network: nn.Module, device: torch.device, progress: Progress) -> None:
        for module in network.modules():
            if isinstance(module, MeanCurves):
                enter_curves(module, self.curves)
        self.statistics = self.samples.all_statistics(progress)
        if self.frozen is not None:
            assert isinstance(network, SMRCurveNetwork)
            views = [(int(s), flip) for s in self.train for flip in (False, True)]
            self.frozen.fill(network.stand_in, views, self._picture, self.config, self.sizes, device, progress)
        self.validation.build(progress)

    def _picture(self, sample: int, flip: bool) -> npt.NDArray[np.uint8]:
        picture = self.samples.picture(sample)
        return np.ascontiguousarray(picture[:, ::-1]) if flip else picture

    def plan(self, rng: np.random.Generator, steps: int, batch_size: int) -> list[Draw]:
        if not self.pixels:
            return even_draws(rng, self.train, steps, batch_size)
        return bucket_draws(rng, self.train, self.sizes, steps, batch_size)

    def load(self, draw: Draw) -> CurveItem:
        rng = draw.rng()
        number = int(rng.integers(len(self.shifts)))
        rows = np.array(draw.rows, np.int64)
        # One of the tasks for which the picture has a target; without any, it does not count.
        chances = rng.random((len(TASKS), len(rows))) + np.isfinite(self.shifts[number][:, rows])
        tasks = chances.argmax(axis=0)
        shift = self.shifts[number, tasks, rows]
        candidates = self.asked[rows] & self.may_tell[number, self.samples.labels_at[rows]]
        masks = draw_evidence(rng, candidates, (*COUNTS, ALL))
        batch, seen = self._batch(rng, draw, rows, [TASKS[task] for task in tasks], masks)
        features = np.where(masks[..., None], self.features[rows], 0)
        batch = replace(batch, evidence=torch.from_numpy(features), evidence_mask=torch.from_numpy(masks))
        return CurveItem(batch, torch.from_numpy(shift), torch.from_numpy(self.log2_bits[rows]), seen)

    def _batch(
        self,
        rng: np.random.Generator,
        draw: Draw,
        rows: npt.NDArray[np.int64],
        tasks: Sequence[Task],
        masks: npt.NDArray[np.bool_],
    ) -> tuple[Batch, StandInPrediction | None]:
        """The batch without evidence, and what a frozen stand-in saw of it."""
        conditions = [self.samples.labels(s)[0].condition(t) for s, t in zip(draw.rows, tasks, strict=True)]
        if not self.pixels or self.frozen is not None:
            plain = plain_batch(self.statistics[rows], [self.conditions.index(c) for c in conditions], draw.size)
            if self.frozen is None:
                return plain, None
            # Seen once whole and once mirrored; nothing else is there.
            return plain, self.frozen.of([(s, bool(rng.random() < 0.5)) for s in rows.tolist()])
        views = [self._view(rng, sample) for sample in rows.tolist()]
        maps = [self._map(rng, s, m, v) for s, m, v in zip(rows.tolist(), masks, views, strict=True)]
        spec = replace(self.config.input, mode="stretch", height=draw.size[0], width=draw.size[1])
        prepared = [
            prepare(Sample(view.of(self.samples.picture(s)), condition=c, confidence_map=m), spec, self.conditions)
            for s, view, c, m in zip(draw.rows, views, conditions, maps, strict=True)
        ]
        return collate(prepared), None

    def _view(self, rng: np.random.Generator, sample: int) -> View:
        labels, row = self.samples.labels(sample)
        width, height = int(labels.widths[row]), int(labels.heights[row])
        return random_view(rng, width, height, self.options.crop)

    def _map(self, rng: np.random.Generator, sample: int, mask: npt.NDArray[np.bool_], view: View) -> Floats | None:
        """The confidence map of one detector among the evidence, sometimes."""
        at = int(self.samples.labels_at[sample])
        is_classifier = self.samples.sets[at].evidence.is_classifier
        detectors = np.flatnonzero(mask[: len(is_classifier)] & ~is_classifier)
        if not len(detectors) or rng.random() >= self.options.map_share:
            return None
        return self.samples.map_of(sample, int(rng.choice(detectors)), view)

    def loss(self, network: nn.Module, item: Tensors) -> dict[str, Tensor]:
        assert isinstance(item, CurveItem)
        prediction = see(network, item.batch, item.seen)
        return curve_losses(prediction, item.shift, item.log2_bits, self.options.bits_weight)

    def validate(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        return self.validation.figures(network, device, self.options.bits_weight)

    def finish(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        progress.phase("calibrating")
        return self.validation.calibrate(network, device)

    def data_sha256(self) -> str:
        digest = hashlib.sha256("".join(labels.sha256() for labels in self.samples.sets).encode())
        digest.update(np.ascontiguousarray(self.samples.row).tobytes())
        digest.update("\n".join(self.machines.choosing).encode())
        return digest.hexdigest()

    def describe(self) -> Mapping[str, Any]:
        return {
            "train_pictures": len(self.train),
            "validation_pictures": len(self.validation.exam.rows),
            "conditions": [str(condition) for condition in self.curves],
            "choosing_machines": list(self.machines.choosing),
            "judging_machines": list(self.machines.judging),
        }


def enter_curves(module: MeanCurves, curves: Mapping[Condition, Any]) -> None:
    """Put the fitted mean curves of SMR and bits into a network; conditions that it does not know are left out."""
    for condition, (labels, targets) in curves.items():
        if condition not in module.conditions:
            continue
        bits = labels.log2_bits_per_pixel()[labels.rows_of("train")].mean(axis=0)
        falling = np.interp(LEVELS, labels.qps, non_increasing(bits))
        device = module.smr.device
        module.to("cpu").set_curves(condition, targets.mean, falling, min(targets.deviation, 30.0))
        module.to(device)


def plain_batch(statistics: Floats, conditions: Sequence[int], size: tuple[int, int] = (0, 0)) -> Batch:
    """A batch of pictures of which only statistics are known: float32 [B, N_STATISTICS], indices [B].

    size: height and width of what a stand-in saw of them, for a map without confidences."""
    n = len(statistics)
    return Batch(
        picture=torch.zeros(n, 3, 32, 32),
        condition=torch.tensor(conditions),
        level=torch.full((n,), -1.0),
        reference_level=torch.full((n,), -1.0),
        evidence=torch.zeros(n, 1, 16),
        evidence_mask=torch.zeros(n, 1, dtype=torch.bool),
        confidence_map=torch.full((n, 1, max(2, size[0] // 16), max(2, size[1] // 16)), -1.0),
        statistics=torch.from_numpy(statistics),
    )


def curve_losses(
    prediction: CurvePrediction, shift: Tensor, log2_bits: Tensor, bits_weight: float
) -> dict[str, Tensor]:
    """Likelihood of the shifts and error of the bits; targets that are NaN do not count."""
    known = torch.isfinite(shift)
    chosen = replace(
        prediction,
        shift_mean=prediction.shift_mean[known],
        shift_deviation=prediction.shift_deviation[known],
    )
    zero = prediction.shift_mean.sum() * 0
    measured = torch.isfinite(log2_bits)
    error = F.smooth_l1_loss(prediction.log2_bits[measured], log2_bits[measured], beta=0.25)
    return {
        "shift": shift_loss(chosen, shift[known]) if bool(known.any()) else zero,
        "bits": bits_weight * error,
    }
