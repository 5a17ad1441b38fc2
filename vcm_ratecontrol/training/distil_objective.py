"""Stage 'distil': the small backbone learns what the teachers say of crops."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from codec_wrappers.errors import CacheError, InputError
from vcm_ratecontrol.predictors.backbone import StandInPrediction
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.interface import Tensors
from vcm_ratecontrol.predictors.preprocess import normalise
from vcm_ratecontrol.progress import Progress
from vcm_ratecontrol.training.crop_sources import CropPictures
from vcm_ratecontrol.training.crops import SIZES, Recipe, make_crop
from vcm_ratecontrol.training.curve_validation import correlation
from vcm_ratecontrol.training.disk_cache import DiskCache
from vcm_ratecontrol.training.objective import SCORE, Draw, mean_of, shuffled
from vcm_ratecontrol.training.options import objective_options
from vcm_ratecontrol.training.pictures import Sources
from vcm_ratecontrol.training.teach import check_machines
from vcm_ratecontrol.training.teacher_cache import TeacherCache, TeacherIndex
from vcm_ratecontrol.training.teacher_space import TeacherSpace, fit_space, raw_vector

CODED_BYTES = 4 << 30

_AT_ONCE = 32


@dataclass(frozen=True)
class DistilOptions:
    """Weights of the parts of the loss; fit_crops: how many crops the teachers' space is fitted to;
    validation_crops: looked at after each epoch. halvings: how often crops are halved in size before the student sees
    them, 0 or 1: at half the size a step takes a quarter of the time, so learn most there and the rest at full size.
    kept_crops: crops that are kept in memory (110 KB each at half size, 440 KB at full size)."""

    confidence_weight: float = 1.0
    groups_weight: float = 0.5
    features_weight: float = 0.5
    objects_weight: float = 1.0
    fit_crops: int = 8192
    validation_crops: int = 1024
    halvings: int = 0
    kept_crops: int = 4000


@dataclass(frozen=True)
class DistilItem(Tensors):
    """Crops with what the teachers say. picture: float32 [B, 3, h, w]; confidence: float32 [B, T], NaN where not asked;
    groups: float32 [B, G]; features: float32 [B, D]; maps: float32 [B, 2, h / 16, w / 16]."""

    picture: Tensor
    confidence: Tensor
    groups: Tensor
    features: Tensor
    maps: Tensor


class DistilObjective:
    """See `objective.Objective`. Network: `StandIn`."""

    def __init__(self, config: PredictorConfig, values: Mapping[str, Any], cache: Path, sources: Sources) -> None:
        """cache: folder of `vcm-train distil`. Raises InputError, CacheError (none there, damaged)."""
        self.options = objective_options(DistilOptions, values)
        self.cache = TeacherCache(cache)
        index = self.cache.index()
        if index is None:
            raise CacheError(f"{cache}: holds no answers of teachers; make them with vcm-train distil")
        self.index: TeacherIndex = index
        network = config.network
        check_machines(index, int(network.get("teachers", 31)))
        self.shard = self.cache.read()
        self.train = np.flatnonzero(self.shard.recipes[:, -1] == 0)
        self.validation = np.flatnonzero(self.shard.recipes[:, -1] == 1)[: self.options.validation_crops]
        if not len(self.train) or not len(self.validation):
            raise InputError(f"{cache}: has no crops of training or of validation pictures; make more")
        self.coded = DiskCache(cache / "coded", CODED_BYTES)
        self.pictures = CropPictures(sources, self.coded)
        self._kept: dict[Recipe, npt.NDArray[np.uint8]] = {}
        if not 0 <= self.options.halvings <= 1:
            raise InputError(f"[training] halvings = {self.options.halvings}: must be 0 or 1")
        self.groups, self.features = int(network.get("groups", 64)), int(network.get("features", 128))

    @cached_property
    def space(self) -> TeacherSpace:
        """Fitted to the first training crops: the same however many follow."""
        rows = self.train[: self.options.fit_crops]
        shard, options = self.shard, (self.groups, self.features)
        probabilities, scores = shard.probabilities[rows].astype(np.float32), shard.class_scores[rows]
        return fit_space(probabilities, scores.astype(np.float32), shard.summaries[rows].astype(np.float32), *options)

    def prepare(self, network: nn.Module, device: torch.device, progress: Progress) -> None:
        progress.phase("fitting the teachers' space")
        if self.space.n_groups != self.groups:
            raise InputError(
                f"the teachers tell {self.space.n_groups} groups of classes, not {self.groups}; make more crops"
            )

    def plan(self, rng: np.random.Generator, steps: int, batch_size: int) -> list[Draw]:
        by_size = [self.train[self.shard.recipes[self.train, 5] == size] for size in range(len(SIZES))]
        share = np.array([len(rows) for rows in by_size], np.float64)
        numbers = rng.multinomial(steps, share / share.sum())
        draws = []
        for size, rows, number in zip(SIZES, by_size, numbers.tolist(), strict=True):
            order = shuffled(rng, rows, number * batch_size) if number else rows[:0]
            for at in range(number):
                part = order[at * batch_size : (at + 1) * batch_size]
                draws.append(Draw(tuple(part.tolist()), int(rng.integers(0, 2**62)), size))
        return [draws[at] for at in rng.permutation(len(draws))]

    def load(self, draw: Draw) -> DistilItem:
        return self.item(np.array(draw.rows, np.int64), draw.rng())

    def item(self, rows: npt.NDArray[np.int64], rng: np.random.Generator | None = None) -> DistilItem:
        """Crops of one size. rng: mirrors half of them once more (what was said stays true); None: none."""
        recipes = [Recipe.from_row(row) for row in self.shard.recipes[rows].tolist()]
        crops = np.stack([self._crop(recipe) for recipe in recipes])
        height, width = SIZES[recipes[0].size]
        rows16, cols16 = height // 16, width // 16
        maps = self.shard.maps[rows, :, : rows16 * cols16].reshape(len(rows), 2, rows16, cols16).astype(np.float32)
        for _ in range(self.options.halvings):
            maps = maps.reshape(len(rows), 2, maps.shape[2] // 2, 2, maps.shape[3] // 2, 2).mean(axis=(3, 5))
        if rng is not None:
            mirrored = rng.random(len(rows)) < 0.5
            crops[mirrored], maps[mirrored] = crops[mirrored, :, ::-1], maps[mirrored, :, :, ::-1]
        probabilities = self.shard.probabilities[rows].astype(np.float32)
        scores = self.shard.class_scores[rows].astype(np.float32)
        raw = np.stack([raw_vector(p, s) for p, s in zip(probabilities, scores, strict=True)])
        features = self.space.features(raw, self.shard.summaries[rows].astype(np.float32))
        return DistilItem(
            normalise(torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))),
            torch.from_numpy(self.shard.confidence[rows].astype(np.float32)),
            torch.from_numpy(self.space.groups(probabilities)),
            torch.from_numpy(features.clip(-6, 6)),
            torch.from_numpy(maps / 255),
        )

    def _crop(self, recipe: Recipe) -> npt.NDArray[np.uint8]:
        """uint8 [h, w, 3], halved as often as the options say."""
        kept = self._kept.get(recipe)
        if kept is not None:
            return kept
        source = self.index.sources[recipe.source]
        crop = make_crop(recipe, self.pictures.rgb(source), source.key, self.coded)
        for _ in range(self.options.halvings):
            height, width = crop.shape[0] // 2, crop.shape[1] // 2
            crop = crop.reshape(height, 2, width, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
        if len(self._kept) < self.options.kept_crops:
            self._kept[recipe] = crop
        return crop

    def loss(self, network: nn.Module, item: Tensors) -> dict[str, Tensor]:
        assert isinstance(item, DistilItem)
        return distil_losses(network.see(item.picture), item, self.options)  # type: ignore[operator]

    def validate(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        """Score: the loss. confidence: correlation with each teacher's confidence, mean; mean confidence: with the mean
        of all; groups: agreement on the likeliest group; objects: correlation with the teachers' maps."""
        figures: list[dict[str, float]] = []
        said, true, maps, true_maps = [], [], [], []
        for size in range(len(SIZES)):
            rows = self.validation[self.shard.recipes[self.validation, 5] == size]
            for start in range(0, len(rows), _AT_ONCE):
                item = self.item(rows[start : start + _AT_ONCE]).to(device)
                seen = network.see(item.picture)  # type: ignore[operator]
                parts = {name: float(part) for name, part in distil_losses(seen, item, self.options).items()}
                agree = float((seen.groups.argmax(1) == item.groups.argmax(1)).float().mean())
                figures.append({SCORE: sum(parts.values()), "groups": agree})
                said.append(torch.sigmoid(seen.confidence.float()).cpu().numpy())
                true.append(item.confidence.cpu().numpy())
                maps.append(torch.sigmoid(seen.objectness.float()).prod(dim=1).cpu().numpy().ravel())
                true_maps.append(item.maps.prod(dim=1).cpu().numpy().ravel())
        told, wanted = np.concatenate(said), np.concatenate(true)
        asked = np.flatnonzero(~np.isnan(wanted).all(axis=0))
        alone = [correlation(told[:, at], np.nan_to_num(wanted[:, at])) for at in asked]
        found = mean_of(figures)
        found["confidence"] = float(np.nanmean(alone))
        found["mean confidence"] = correlation(told[:, asked].mean(axis=1), np.nanmean(wanted[:, asked], axis=1))
        found["objects"] = correlation(np.concatenate(maps), np.concatenate(true_maps))
        return found

    def finish(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        return {}

    def data_sha256(self) -> str:
        digest = hashlib.sha256(self.index.to_json().encode())
        for name in ("recipes", "confidence", "probabilities", "maps"):
            digest.update(np.ascontiguousarray(getattr(self.shard, name)).tobytes())
        return digest.hexdigest()

    def describe(self) -> Mapping[str, Any]:
        sources = self.index.sources
        return {
            "crops": len(self.shard),
            "train_pictures": sum(s.split == 0 and s.frame < 0 for s in sources),
            "train_clip_frames": sum(s.split == 0 and s.frame >= 0 for s in sources),
            "teachers": list(self.index.teachers),
        }


def distil_losses(seen: StandInPrediction, item: DistilItem, options: DistilOptions) -> dict[str, Tensor]:
    """Cross entropies against soft confidences, groups and maps; distance of the features."""
    asked = torch.isfinite(item.confidence)
    confidence = F.binary_cross_entropy_with_logits(seen.confidence.float()[asked], item.confidence[asked])
    groups = F.cross_entropy(seen.groups.float(), item.groups)
    features = F.smooth_l1_loss(seen.features.float(), item.features, beta=1.0)
    there, sure = item.maps.unbind(dim=1)
    logits = seen.objectness.float()
    objects = F.binary_cross_entropy_with_logits(logits[:, 0], there)
    weight = there.clamp(min=1e-4)
    sureness = F.binary_cross_entropy_with_logits(logits[:, 1], sure, weight=weight, reduction="sum") / weight.sum()
    return {
        "confidence": options.confidence_weight * confidence,
        "groups": options.groups_weight * groups,
        "features": options.features_weight * features,
        "objects": options.objects_weight * (objects + 0.25 * sureness),
    }
