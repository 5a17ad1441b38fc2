"""The one way from pictures of any size to the tensors of a network, for training and inference alike.

Pictures are resized on the CPU as 8-bit values (torch's antialiased bilinear filter, as Pillow's), whatever
the device of the network, so that the CPU and CUDA see the same input. Samples are batched by input size;
nothing in a batch depends on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the usual name

from codec_wrappers.errors import InputError
from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.predictors.config import InputSpec
from vcm_ratecontrol.predictors.evidence import N_EVIDENCE, evidence_features
from vcm_ratecontrol.predictors.interface import BLOCK_SIZE, Batch, Condition, Sample
from vcm_ratecontrol.predictors.picture_statistics import distortion_statistics, picture_statistics

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

STRIDE = 32
"""Input sides are multiples of this, the stride of the deepest layer."""

MAX_ASPECT = 8
"""'area' mode squeezes pictures that are longer than this: a 1 x 8000 picture must not become a line."""

UNKNOWN = -1


@dataclass(frozen=True)
class PreparedSample:
    """One sample as tensors; `collate` stacks those of one input size into a `Batch`.

    picture, coded: uint8 [3, h, w]; statistics, distortion: float32, or None; condition: index, -1 = unknown;
    evidence: float32 [M, N_EVIDENCE]; confidence_map: float32 [1, h / 16, w / 16], -1 = unknown.
    """

    picture: Tensor
    coded: Tensor | None
    statistics: Tensor | None
    distortion: Tensor | None
    condition: int
    level: float
    reference_level: float
    evidence: Tensor
    confidence_map: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Input height and width."""
        return int(self.picture.shape[1]), int(self.picture.shape[2])


def prepare(sample: Sample, spec: InputSpec, conditions: Sequence[Condition] = ()) -> PreparedSample:
    """A sample as tensors of the network's input size.

    Args: conditions: those that the network knows; the position is the index.
    Raises: InputError for a picture that is not uint8 [H, W, 3], a pair of two sizes, a condition that the
    network does not know, and values that are not finite or outside their range.
    """
    _check_picture(sample.picture, "picture")
    if sample.coded is not None:
        _check_picture(sample.coded, "coded picture")
        if sample.coded.shape != sample.picture.shape:
            raise InputError(f"the coded picture is {_size_of(sample.coded)}, its original {_size_of(sample.picture)}")
    picture = fit_picture(sample.picture, spec)
    has_pair_statistics = spec.statistics and sample.coded is not None
    return PreparedSample(
        picture=picture,
        coded=None if sample.coded is None else fit_picture(sample.coded, spec),
        statistics=torch.from_numpy(picture_statistics(sample.picture)) if spec.statistics else None,
        distortion=torch.from_numpy(distortion_statistics(sample.picture, sample.coded))
        if has_pair_statistics and sample.coded is not None
        else None,
        condition=_condition_index(sample.condition, conditions),
        level=_level(sample.level),
        reference_level=_level(sample.reference_level),
        evidence=_evidence(sample),
        confidence_map=_confidence_map(sample, picture.shape[1] // BLOCK_SIZE, picture.shape[2] // BLOCK_SIZE),
    )


def collate(prepared: Sequence[PreparedSample]) -> Batch:
    """Samples of one input size as one batch. Raises ValueError if sizes differ or only some have a coded
    picture."""
    if len({item.size for item in prepared}) != 1:
        raise ValueError("the samples of a batch must have one input size; group them with `by_size`")
    n_machines = max(1, *(len(item.evidence) for item in prepared))
    evidence = torch.zeros(len(prepared), n_machines, N_EVIDENCE)
    mask = torch.zeros(len(prepared), n_machines, dtype=torch.bool)
    for row, item in enumerate(prepared):
        evidence[row, : len(item.evidence)] = item.evidence
        mask[row, : len(item.evidence)] = True
    coded = _stack(item.coded for item in prepared)
    return Batch(
        picture=normalise(torch.stack([item.picture for item in prepared])),
        coded=None if coded is None else normalise(coded),
        statistics=_stack(item.statistics for item in prepared),
        distortion=_stack(item.distortion for item in prepared),
        condition=torch.tensor([item.condition for item in prepared]),
        level=torch.tensor([item.level for item in prepared], dtype=torch.float32),
        reference_level=torch.tensor([item.reference_level for item in prepared], dtype=torch.float32),
        evidence=evidence,
        evidence_mask=mask,
        confidence_map=torch.stack([item.confidence_map for item in prepared]),
    )


def by_size(prepared: Sequence[PreparedSample]) -> list[list[int]]:
    """Indices of the samples, grouped by input size, in order of first appearance."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, item in enumerate(prepared):
        groups.setdefault(item.size, []).append(index)
    return list(groups.values())


def normalise(pictures: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> float32, ImageNet mean and standard deviation taken out."""
    mean = torch.tensor(IMAGENET_MEAN, device=pictures.device).view(1, 3, 1, 1)
    scale = 1 / torch.tensor(IMAGENET_STD, device=pictures.device).view(1, 3, 1, 1)
    return (pictures.float() * (scale / 255)) - mean * scale


def check_finite(batch: Batch) -> None:
    """Raise InputError, naming the field, if a tensor of the batch holds NaN or an infinity."""
    for name, value in batch.named().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"the predictor's input '{name}' holds values that are not finite")


def input_size(height: int, width: int, spec: InputSpec) -> tuple[int, int]:
    """Height and width of the network's input for a picture of that size."""
    if spec.mode != "area":
        return spec.height, spec.width
    aspect = min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
    pixels = spec.width * spec.height
    if not spec.enlarge:
        pixels = min(pixels, height * width)
    wanted = math.sqrt(pixels / aspect)
    return _multiple(wanted), _multiple(wanted * aspect)


def fit_picture(picture: NDArray[np.uint8], spec: InputSpec) -> Tensor:
    """A picture at the network's input size: uint8 [H, W, 3] -> uint8 [3, h, w]."""
    height, width = input_size(picture.shape[0], picture.shape[1], spec)
    if spec.mode == "center":
        return _crop_or_pad(_to_tensor(picture), height, width)
    if spec.mode == "letterbox":
        scale = min(height / picture.shape[0], width / picture.shape[1])
        inner = (max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale)))
        return _crop_or_pad(_resize(picture, *inner), height, width)
    return _resize(picture, height, width)


def object_crop(picture: NDArray[np.uint8], box: Sequence[float], *, margin: float = 0.0) -> NDArray[np.uint8]:
    """The part of a picture inside a box, widened by `margin` times its sides and clipped to the picture.

    Args: picture: uint8 [H, W, 3]; box: x1, y1, x2, y2 in pixels; margin: >= 0, of each side.
    Returns: uint8 [h, w, 3], at least 1 x 1. Raises: InputError for a box outside the picture or not finite.
    """
    x1, y1, x2, y2 = box
    height, width = picture.shape[:2]
    if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1 or x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise InputError(f"box {tuple(box)} is empty or outside the picture of {width}x{height}")
    across, down = (x2 - x1) * margin, (y2 - y1) * margin
    left, top = max(math.floor(x1 - across), 0), max(math.floor(y1 - down), 0)
    right, bottom = min(math.ceil(x2 + across), width), min(math.ceil(y2 + down), height)
    return picture[top:bottom, left:right]


def _multiple(side: float) -> int:
    return max(round(side / STRIDE), 1) * STRIDE


def _to_tensor(picture: NDArray[np.uint8]) -> Tensor:
    """uint8 [H, W, 3] -> uint8 [3, H, W], without a copy if the array is contiguous and writable (torch knows no
    read-only tensors)."""
    return torch.from_numpy(np.require(picture, requirements=["C", "W"])).permute(2, 0, 1)


def _resize(picture: NDArray[np.uint8], height: int, width: int) -> Tensor:
    resized = F.interpolate(_to_tensor(picture)[None], size=(height, width), mode="bilinear", antialias=True)
    return resized[0]


def _crop_or_pad(picture: Tensor, height: int, width: int) -> Tensor:
    """Centre crop, or pad with black, to height x width: uint8 [3, H, W] -> uint8 [3, height, width]."""
    top, left = max(picture.shape[1] - height, 0) // 2, max(picture.shape[2] - width, 0) // 2
    cut = picture[:, top : top + height, left : left + width]
    canvas = torch.zeros(3, height, width, dtype=torch.uint8)
    y, x = (height - cut.shape[1]) // 2, (width - cut.shape[2]) // 2
    canvas[:, y : y + cut.shape[1], x : x + cut.shape[2]] = cut
    return canvas


def _check_picture(picture: NDArray[np.uint8], name: str) -> None:
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        found = f"{getattr(picture, 'dtype', type(picture).__name__)} {getattr(picture, 'shape', '')}"
        raise InputError(f"the {name} must be an RGB array, uint8 [H, W, 3], not {found}")
    if 0 in picture.shape:
        raise InputError(f"the {name} is empty: {_size_of(picture)}")


def _size_of(picture: NDArray[np.uint8]) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _condition_index(condition: Condition | None, known: Sequence[Condition]) -> int:
    if condition is None or not known:
        return UNKNOWN
    if condition not in known:
        raise InputError(f"the predictor knows no {condition}; it knows {', '.join(map(str, known))}")
    return list(known).index(condition)


def _level(level: float | None) -> float:
    if level is None:
        return UNKNOWN
    if not 0 <= level <= N_LEVELS - 1:  # also refuses NaN
        raise InputError(f"level {level} is outside 0..{N_LEVELS - 1}")
    return float(level)


def _evidence(sample: Sample) -> Tensor:
    try:
        rows = [evidence_features(item) for item in sample.evidence]
    except ValueError as error:
        raise InputError(str(error)) from None
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, N_EVIDENCE)


def _confidence_map(sample: Sample, rows: int, cols: int) -> Tensor:
    """The sample's map on the cells of the input: float32 [1, rows, cols]; -1 everywhere where there is
    none."""
    values = sample.confidence_map
    if values is None:
        return torch.full((1, rows, cols), float(UNKNOWN))
    expected = tuple(-(-side // BLOCK_SIZE) for side in sample.picture.shape[:2])
    if values.shape != expected:
        raise InputError(f"the confidence map has {values.shape} blocks, the picture {expected}")
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError("the confidence map holds values outside 0..1 or not finite")
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
    return F.interpolate(tensor, size=(rows, cols), mode="bilinear", antialias=True)[0]


def _stack(items: Iterable[Tensor | None]) -> Tensor | None:
    """The tensors stacked, or None if all are None. Raises ValueError if only some are."""
    listed = list(items)
    there = [item for item in listed if item is not None]
    if there and len(there) != len(listed):
        raise ValueError("either all samples of a batch have a coded picture, or none")
    return torch.stack(there) if there else None
