"""ONNX export of a predictor's network, checked equal in ONNX Runtime.

The graph takes the tensors of `Batch` that the network reads and gives those of its prediction, by name. The
number of pictures and of machines is free; so is the input size where the configuration's is. What stands around
the network (`preprocess`, reading of levels) is not part of the graph. Needs the packages `onnxscript` and
`onnxruntime`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from codec_wrappers.errors import MissingToolError, VerificationError
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.evidence import N_EVIDENCE
from vcm_ratecontrol.predictors.interface import BLOCK_SIZE, Batch, Tensors
from vcm_ratecontrol.predictors.layers import for_inference
from vcm_ratecontrol.predictors.mean_curve import MeanCurves
from vcm_ratecontrol.predictors.picture_statistics import N_DISTORTION, N_STATISTICS
from vcm_ratecontrol.predictors.preprocess import STRIDE

TOLERANCE = 1e-4
"""Largest difference between torch and ONNX Runtime, against the larger of 1 and the value: 32-bit rounding."""

_READS = {
    "stand_in": (),
    "smr_curve": ("statistics", "condition", "evidence", "evidence_mask", "confidence_map"),
    "smr_curve_evidence": ("statistics", "condition", "evidence", "evidence_mask"),
    "smr_full_reference": ("coded",),
    "owjrd": ("coded",),
    "dtjrd": (),
    "jrd_map": ("statistics", "confidence_map"),
}
_READS_WITH_STATISTICS = {
    "smr_full_reference": (
        *("statistics", "distortion", "condition", "level", "reference_level"),
        *("evidence", "evidence_mask"),
    ),
    "owjrd": ("statistics", "distortion"),
    "dtjrd": ("statistics", "evidence", "evidence_mask"),
}


def export_onnx(network: nn.Module, config: PredictorConfig, path: Path) -> None:
    """Write the network as one ONNX file and check it on two batches of other sizes than it was traced with.

    Args: network: in training form. path: of the file; replaced only once it is checked.
    Raises: MissingToolError (a package is missing), VerificationError (ONNX Runtime gives other numbers).
    """
    names = input_names(config)
    positional = _Positional(for_inference(network), names).eval()
    positional.requires_grad_(False)
    n_conditions = max((len(m.conditions) for m in network.modules() if isinstance(m, MeanCurves)), default=1)
    example = example_batch(config, pictures=2, machines=3, n_conditions=n_conditions)
    inputs = tuple(getattr(example, name) for name in names)
    with torch.inference_mode():
        positional(*inputs)  # learns the names of the outputs
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnx-") as folder:
        temporary = Path(folder) / path.name
        with _quiet():
            try:
                torch.onnx.export(
                    positional,
                    inputs,
                    str(temporary),
                    input_names=list(names),
                    output_names=positional.output_names,
                    dynamic_shapes=(tuple(_free_dimensions(name, config) for name in names),),
                    external_data=False,
                    dynamo=True,
                    optimize=False,  # ONNX Runtime optimises when it loads; here it takes longer than all else
                    verbose=False,
                )
            except ImportError as error:
                raise MissingToolError(f"ONNX export needs the package {error.name}; pip install onnxscript") from None
        for pictures, machines, scale in ((1, 1, 1), (3, 5, 2)):
            batch = example_batch(config, pictures=pictures, machines=machines, n_conditions=n_conditions, scale=scale)
            _check_equal(positional, temporary, tuple(getattr(batch, name) for name in names), names)
        temporary.replace(path)


def input_names(config: PredictorConfig) -> tuple[str, ...]:
    """Fields of `Batch` that the network of this configuration reads, in the order of the graph's inputs."""
    more = _READS_WITH_STATISTICS.get(config.kind, ()) if config.input.statistics else ()
    pixels = () if config.kind == "smr_curve_evidence" else ("picture",)
    return (*pixels, *_READS[config.kind], *more)


def example_batch(
    config: PredictorConfig, *, pictures: int, machines: int, n_conditions: int = 1, scale: int = 1, seed: int = 0
) -> Batch:
    """A batch of noise with every field there, for export and tests.

    Args: scale: in 'area' mode the input is 64 x 96 times this; otherwise the size of the configuration.
    """
    generator = torch.Generator().manual_seed(seed)
    free = config.input.mode == "area"
    height, width = (64 * scale, 96 * scale) if free else (config.input.height, config.input.width)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Batch(
        picture=noise(pictures, 3, height, width),
        coded=noise(pictures, 3, height, width),
        statistics=noise(pictures, N_STATISTICS),
        distortion=noise(pictures, N_DISTORTION),
        condition=torch.randint(0, n_conditions, (pictures,), generator=generator),
        level=torch.rand(pictures, generator=generator) * 63,
        reference_level=torch.full((pictures,), -1.0),
        evidence=noise(pictures, machines, N_EVIDENCE),
        evidence_mask=torch.rand(pictures, machines, generator=generator) < 0.7,
        confidence_map=torch.rand(pictures, 1, height // BLOCK_SIZE, width // BLOCK_SIZE, generator=generator),
    )


class _Positional(nn.Module):
    """The network with tensors in and tensors out, as a graph needs it."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.names = names
        self.output_names: list[str] = []

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, inputs, strict=True))
        nothing = inputs[0].new_zeros(())
        absent = {
            name: nothing for name in (f.name for f in fields(Batch) if f.default is MISSING) if name not in given
        }
        batch = Batch(**given, **absent)
        tensors = _flatten(cast(Tensors, self.network(batch)))
        self.output_names = list(tensors)
        return tuple(tensors.values())


def _flatten(record: Tensors) -> dict[str, Tensor]:
    """The tensors of a prediction; those of the backbone in the stand-in's are left out."""
    return {name: value for name, value in record.named().items() if isinstance(value, Tensor)}


def _free_dimensions(name: str, config: PredictorConfig) -> dict[int, Any]:
    """Which dimensions of an input are free in the graph."""
    dimensions: dict[int, Any] = {0: Dim("pictures", min=1, max=4096)}
    if name in ("evidence", "evidence_mask"):
        dimensions[1] = Dim("machines", min=1, max=4096)
    if config.input.mode == "area" and name in ("picture", "coded", "confidence_map"):
        per_unit = STRIDE // BLOCK_SIZE if name == "confidence_map" else STRIDE
        dimensions[2] = per_unit * Dim("rows", min=1, max=512)
        dimensions[3] = per_unit * Dim("cols", min=1, max=512)
    return dimensions


def _check_equal(network: _Positional, path: Path, inputs: tuple[Tensor, ...], names: tuple[str, ...]) -> None:
    try:
        import onnxruntime
    except ImportError:
        raise MissingToolError("the exported graph is checked in ONNX Runtime; pip install onnxruntime") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    found = session.run(network.output_names, feed)
    with torch.inference_mode():
        expected = network(*inputs)
    for name, ours, theirs in zip(network.output_names, expected, found, strict=True):
        wanted = ours.numpy()
        difference = float(np.max(np.abs(wanted - theirs) / np.maximum(np.abs(wanted), 1), initial=0))
        if wanted.shape != theirs.shape or not difference <= TOLERANCE:
            raise VerificationError(
                f"{path.name}: output '{name}' differs by {difference:.2g} in ONNX Runtime, "
                f"more than {TOLERANCE}; the file is not written"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on missing torchvision operators, which no network here uses."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
