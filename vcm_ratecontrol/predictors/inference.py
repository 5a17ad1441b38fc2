"""From pictures to curves, levels and maps: a network with its weights, ready to answer.

`load_predictor` gives the one that a configuration or checkpoint is of; each has `predict(samples)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec_wrappers.errors import CacheError, InputError, MissingToolError
from vcm_ratecontrol.jrd_rules import N_LEVELS, published_window_rule
from vcm_ratecontrol.predictors.checkpoint import CheckpointCard, load_checkpoint
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.device import Notify, choose_device, exact_arithmetic, in_batches
from vcm_ratecontrol.predictors.dtjrd import ObjectJRDClassifier, decode_level
from vcm_ratecontrol.predictors.interface import (
    BLOCK_SIZE,
    Batch,
    Condition,
    CurvePrediction,
    JRDMap,
    JRDPrediction,
    MapPrediction,
    ObjectJRD,
    RecognitionPrediction,
    Sample,
    SMRCurve,
    SMRPrediction,
    Tensors,
)
from vcm_ratecontrol.predictors.jrd_map import JRDMapNetwork, levels_at_ratio, to_blocks
from vcm_ratecontrol.predictors.layers import for_inference
from vcm_ratecontrol.predictors.mean_curve import MeanCurves
from vcm_ratecontrol.predictors.preprocess import PreparedSample, by_size, check_finite, collate, prepare
from vcm_ratecontrol.predictors.smr_curve import SMRCurveNetwork
from vcm_ratecontrol.predictors.smr_curve_evidence import EvidenceCurveNetwork
from vcm_ratecontrol.predictors.smr_full_reference import SMRFullReference
from vcm_ratecontrol.predictors.tiles import Tile, tiles_of

WEIGHTS_DIR = Path(__file__).parent / "weights"

DEFAULT_BATCH = {"cpu": 4, "cuda": 64}
"""Pictures at once: more do not run faster on a CPU core."""

P = TypeVar("P", bound=Tensors)


class _Runner(Generic[P]):
    """Prepared samples -> predictions on the CPU, in batches of one input size."""

    def __init__(
        self,
        network: nn.Module,
        card: CheckpointCard,
        *,
        device: str = "auto",
        batch_size: int | None = None,
        notify: Notify | None = None,
    ) -> None:
        self.card = card
        self.config: PredictorConfig = card.config
        self.name = card.config.name
        self.device = choose_device(device)
        self.batch_size = batch_size or DEFAULT_BATCH[self.device.type]
        self.notify = notify
        curves = next((m for m in network.modules() if isinstance(m, MeanCurves)), None)
        self.conditions: tuple[Condition, ...] = curves.conditions if curves else ()
        self._fitted = curves.fitted.tolist() if curves else []
        self._lowest = curves.lowest_levels() if curves else ()
        self._network = for_inference(network).to(self.device)

    @property
    def known_conditions(self) -> tuple[Condition, ...]:
        """Those of `conditions` that there were labels for."""
        return tuple(condition for condition, fitted in zip(self.conditions, self._fitted, strict=True) if fitted)

    def _prepare(self, sample: Sample) -> PreparedSample:
        prepared = prepare(sample, self.config.input, self.conditions)
        if prepared.condition >= 0 and not self._fitted[prepared.condition]:
            known = [str(condition) for condition in self.known_conditions]
            raise CacheError(
                f"predictor '{self.name}' was trained without labels for {sample.condition}; "
                f"it knows {', '.join(known) or 'none yet'}: choose one, or train it with such labels"
            )
        return prepared

    def _run(self, prepared: Sequence[PreparedSample]) -> Iterator[tuple[Sequence[int], P]]:
        """Indices of samples and their prediction, every sample once."""
        for group in by_size(prepared):

            def forward(part: Sequence[int]) -> P:
                return self._forward(collate([prepared[index] for index in part]))

            yield from in_batches(forward, group, self.batch_size, notify=self.notify)

    def _forward(self, batch: Batch) -> P:
        check_finite(batch)
        with exact_arithmetic(self.device):
            moved = batch.to(self.device)
            pictures = {
                name: value.contiguous(memory_format=torch.channels_last)
                for name, value in moved.named().items()
                if name in ("picture", "coded")
            }
            prediction: P = self._network(replace(moved, **pictures)).to("cpu")
        for name, value in prediction.named().items():
            if not bool(torch.isfinite(value).all()):
                raise CacheError(f"predictor '{self.name}' gave '{name}' that is not finite; get its weights again")
        return prediction


class SMRPredictor(_Runner[SMRPrediction]):
    """SMR, full reference. Reads picture, coded and, for `smr_small`, condition, level, evidence if given."""

    def predict(self, samples: Sequence[Sample]) -> list[float]:
        """SMR of each coded picture, 0..1."""
        results = np.zeros(len(samples))
        for indices, prediction in self._run([self._prepare(_pair(sample)) for sample in samples]):
            results[list(indices)] = prediction.smr.clamp(0, 1).numpy()
        return [float(value) for value in results]


class SMRCurvePredictor(_Runner[CurvePrediction]):
    """SMR curve, one shot. Reads picture, condition and, if given, evidence and confidence map."""

    def lowest_level(self, condition: Condition) -> int:
        """The lowest level that there were labels for: further down curves say nothing. Raises ValueError for a
        condition that is not among `conditions`."""
        return self._lowest[self.conditions.index(condition)]

    def predict(self, samples: Sequence[Sample]) -> list[SMRCurve]:
        """One curve per picture."""
        curves: dict[int, SMRCurve] = {}
        for sample in samples:
            if sample.condition is None:
                raise InputError(f"predictor '{self.name}' needs to know what the curve is for; give a condition")
        for indices, prediction in self._run([self._prepare(sample) for sample in samples]):
            for row, index in enumerate(indices):
                condition = samples[index].condition
                assert condition is not None
                curves[index] = _curve(prediction, row, condition)
        return [curves[index] for index in range(len(samples))]


class ObjectJRDPredictor(_Runner[JRDPrediction]):
    """Object-wise JRD, no reference. Reads picture (the crop of one object, `preprocess.object_crop`),
    evidence."""

    def __init__(self, network: ObjectJRDClassifier, card: CheckpointCard, **options: Any) -> None:
        super().__init__(network, card, **options)
        self._decode = network.decode

    def predict(self, samples: Sequence[Sample]) -> list[ObjectJRD]:
        """One JRD per crop; probabilities: of each level."""
        results: dict[int, ObjectJRD] = {}
        for indices, prediction in self._run([self._prepare(sample) for sample in samples]):
            levels = decode_level(prediction.logits, self._decode).tolist()
            probabilities = torch.softmax(prediction.logits, dim=1).numpy()
            for row, index in enumerate(indices):
                results[index] = ObjectJRD(levels[row], probabilities[row])
        return [results[index] for index in range(len(samples))]


class ObjectJRDFullReferencePredictor(_Runner[RecognitionPrediction]):
    """Object-wise JRD, full reference. Reads picture and coded: two crops of one object."""

    def predict(self, samples: Sequence[Sample]) -> list[float]:
        """Probability, 0..1, that each object is still recognised in its coded crop."""
        results = np.zeros(len(samples))
        for indices, prediction in self._run([self._prepare(_pair(sample)) for sample in samples]):
            results[list(indices)] = torch.softmax(prediction.logits, dim=1)[:, 0].numpy()
        return [float(value) for value in results]

    def predict_jrd(self, picture: NDArray[np.uint8], coded: dict[int, NDArray[np.uint8]]) -> ObjectJRD:
        """JRD of one object from its crops at the measured levels (any, 64 in the paper), by the published
        rule.

        probabilities of the result: 1 where the object was taken for recognised, by the convention of
        `jrd_rules`.
        """
        levels = sorted(coded)
        asked = self.predict([Sample(picture, coded=coded[level]) for level in levels])
        flags = np.array(asked) >= 0.5
        held = np.zeros(N_LEVELS, dtype=np.float32)
        held[: levels[-1] + 1] = flags[np.searchsorted(levels, np.arange(levels[-1] + 1))]
        return ObjectJRD(published_window_rule(flags, levels), held)


class JRDMapPredictor(_Runner[MapPrediction]):
    """Dense JRD map. Reads picture and, if given, confidence map. Large pictures are cut into tiles."""

    def __init__(self, network: JRDMapNetwork, card: CheckpointCard, **options: Any) -> None:
        super().__init__(network, card, **options)
        self.ratios = network.ratios

    def predict(self, samples: Sequence[Sample], *, ratio: float = 0.75, threshold: float = 0.5) -> list[JRDMap]:
        """One map per picture.

        Args: ratio: share of the machines, 0 < ratio <= the network's highest. threshold: probability from
        which a block counts as holding an object, 0..1; lower is safer and costs bits.
        """
        if not 0 < ratio <= self.ratios[-1]:
            raise InputError(f"ratio {ratio} is outside 0..{self.ratios[-1]}, what '{self.name}' was made for")
        return [self._map(sample, ratio, threshold) for sample in samples]

    def _map(self, sample: Sample, ratio: float, threshold: float) -> JRDMap:
        height, width = sample.picture.shape[:2]
        whole = np.zeros((3, -(-height // BLOCK_SIZE), -(-width // BLOCK_SIZE)), dtype=np.float32)
        tiles = tiles_of(height, width, self.config.input)
        prepared = [self._prepare(tile.cut(sample)) for tile in tiles]
        for indices, prediction in self._run(prepared):
            for row, index in enumerate(indices):
                blocks = self._blocks(prediction, row, tiles[index], ratio, threshold)
                tiles[index].paste(blocks, whole)
        return JRDMap(whole[0], whole[1], whole[2], ratio, width, height)

    def _blocks(
        self, prediction: MapPrediction, row: int, tile: Tile, ratio: float, threshold: float
    ) -> NDArray[np.float32]:
        one = MapPrediction(
            prediction.object_logit[row : row + 1],
            prediction.levels[row : row + 1],
            prediction.deviation[row : row + 1],
        )
        levels = levels_at_ratio(one.levels, self.ratios, ratio)
        blocks: Tensor = to_blocks(one, levels, *tile.blocks, threshold)
        result: NDArray[np.float32] = blocks.numpy()
        return result


AnyPredictor = SMRPredictor | SMRCurvePredictor | ObjectJRDPredictor | ObjectJRDFullReferencePredictor | JRDMapPredictor


def load_predictor(
    source: str | Path,
    *,
    expected: PredictorConfig | str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    notify: Notify | None = None,
) -> AnyPredictor:
    """A predictor by the name of its configuration (the shipped weights) or by the path of a checkpoint.

    Args: expected: see `load_checkpoint`. device: 'auto', 'cpu' or 'cuda'. batch_size: pictures at once;
    None: by device. notify: gets one line when memory forces a smaller batch; None: the log.
    Raises: MissingToolError (no such weights, CUDA absent), CacheError (damaged, other version or
    configuration).
    """
    path = Path(source)
    if path.suffix != ".safetensors":
        path = WEIGHTS_DIR / f"{source}.safetensors"
        if not path.is_file():
            raise MissingToolError(
                f"no weights of '{source}' come with the package; train them with vcm-train, "
                "or give a .safetensors file"
            )
    network, card = load_checkpoint(path, expected=expected)
    return predictor_of(network, card, device=device, batch_size=batch_size, notify=notify)


def predictor_of(network: nn.Module, card: CheckpointCard, **options: Any) -> AnyPredictor:
    """The predictor around a network in training form (evaluation during training uses this).

    options: device, batch_size, notify as in `load_predictor`. Raises InputError for a network that
    predicts nothing.
    """
    if isinstance(network, SMRCurveNetwork | EvidenceCurveNetwork):
        return SMRCurvePredictor(network, card, **options)
    if isinstance(network, SMRFullReference):
        return SMRPredictor(network, card, **options)
    if isinstance(network, ObjectJRDClassifier):
        return ObjectJRDPredictor(network, card, **options)
    if isinstance(network, JRDMapNetwork):
        return JRDMapPredictor(network, card, **options)
    if card.config.kind == "owjrd":
        return ObjectJRDFullReferencePredictor(network, card, **options)
    raise InputError(f"'{card.config.name}' is a trunk for training, not a predictor")


def _pair(sample: Sample) -> Sample:
    if sample.coded is None:
        raise InputError("a full-reference predictor needs the coded picture beside the original")
    return sample


def _curve(prediction: CurvePrediction, row: int, condition: Condition) -> SMRCurve:
    # The curves fall by construction; the running minimum takes away what rounding of the interpolation may
    # add.
    falling = {
        name: np.minimum.accumulate(getattr(prediction, name)[row].numpy())
        for name in ("smr", "low", "high", "log2_bits")
    }
    return SMRCurve(
        **falling,
        condition=condition,
        shift=float(prediction.shift[row]),
        shift_deviation=float(prediction.shift_deviation[row]),
    )
