"""The one checkpoint format: a safetensors file whose metadata say what it is and how it came to be.

Metadata: one JSON text with format, version, configuration, hash of the training data,
metrics, licence, provenance, and SHA-256 of the weights (names, types, shapes and values; not of the file's
layout). Loading checks all of it. Nothing in the file is executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from codec_wrappers.errors import CacheError, InputError, MissingToolError
from vcm_ratecontrol.predictors.config import PredictorConfig, build_network, config_from_dict, load_config

FORMAT = "vcm-ratecontrol predictor"
VERSION = 1
METADATA_KEY = "vcm_ratecontrol"
"""One key alone: safetensors writes several in no fixed order, and equal networks shall give equal files."""


@dataclass(frozen=True)
class CheckpointCard:
    """What a checkpoint says of itself.

    config: the full configuration it was trained with. training_data_sha256: of the label table and the
    list of pictures; hexadecimal. metrics: name -> value, of the evaluation. licence: SPDX name.
    provenance: command, time, hardware, versions. weights_sha256: hexadecimal.
    """

    config: PredictorConfig
    training_data_sha256: str
    metrics: Mapping[str, Any]
    licence: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""


def save_checkpoint(path: Path, network: nn.Module, card: CheckpointCard, *, half: bool = False) -> CheckpointCard:
    """Write a network and its card; returns the card with the hash of the weights. Replaces the file at
    once or not at all.

    Args: network: in training form (not `for_inference`). half: store parameters of two and more dimensions
    in 16 bit, for shipping; biases, norms and curves stay in 32.
    Raises: ValueError for weights that are not finite.
    """
    parameters = {name for name, _ in network.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"'{name}' holds values that are not finite; it is not saved")
        shrink = half and name in parameters and value.ndim > 1
        tensors[name] = (value.half() if shrink else value).detach().cpu().contiguous()
    digest = weights_sha256(tensors)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "config": card.config.to_dict(),
        "training_data_sha256": card.training_data_sha256,
        "metrics": dict(card.metrics),
        "licence": card.licence,
        "provenance": dict(card.provenance),
        "weights_sha256": digest,
    }
    metadata = {METADATA_KEY: json.dumps(header, sort_keys=True)}
    _write_atomically(path, safetensors.torch.save(tensors, metadata))
    return _card_from_dict(header, str(path))


def read_card(path: Path) -> CheckpointCard:
    """The card alone, without the weights. Raises: MissingToolError, CacheError."""
    with _opened(Path(path)) as file:
        return _read_card(file, path)


def load_checkpoint(path: Path, *, expected: PredictorConfig | str | None = None) -> tuple[nn.Module, CheckpointCard]:
    """The network of a checkpoint in 32 bit, in evaluation mode, and its card.

    Args: expected: configuration (or its name) that the weights must be of; None: that of the file.
    Raises: MissingToolError if there is no file; CacheError if it is damaged, of another format, version or
    configuration, or its weights do not fit.
    """
    with _opened(Path(path)) as file:
        card = _read_card(file, path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    wanted = load_config(expected) if isinstance(expected, str) else expected
    if wanted is not None and not wanted.same_network(card.config):
        raise CacheError(
            f"{path}: weights of the configuration '{card.config.name}', not of '{wanted.name}'; "
            "give weights of that configuration, or train them with vcm-train"
        )
    if weights_sha256(tensors) != card.weights_sha256:
        raise CacheError(f"{path}: the weights differ from the recorded SHA-256; the file is damaged, get it again")
    network = build_network(card.config)
    load_strictly(network, tensors, str(path))
    return network.eval(), card


def load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Fill a network; names and shapes must be those of the network, values finite. Raises CacheError."""
    wanted = network.state_dict()
    problems = [f"'{name}' is missing" for name in wanted if name not in tensors]
    problems += [f"'{name}' is not part of the network" for name in tensors if name not in wanted]
    problems += [
        f"'{name}' has shape {list(value.shape)}, not {list(wanted[name].shape)}"
        for name, value in tensors.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    problems += [f"'{name}' is not finite" for name, value in tensors.items() if not torch.isfinite(value).all()]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CacheError(f"{origin}: the weights do not fit their configuration: {problems[0]}{more}; train it again")
    network.load_state_dict(dict(tensors))


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and values, in order of the names; hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, with errors of ours if there is none or it is damaged."""
    if not path.is_file():
        raise MissingToolError(f"{path}: no such weights file; give an existing one or train it with vcm-train")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CacheError(f"{path}: not a readable safetensors file ({_one_line(error)}); get it again") from None


def _read_card(file: Any, path: Path) -> CheckpointCard:
    try:
        header = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
        found_format, version = header.get("format"), header.get("version")
    except (ValueError, AttributeError) as error:
        raise CacheError(f"{path}: its card cannot be read ({_one_line(error)}); get the file again") from None
    if found_format != FORMAT:
        raise CacheError(
            f"{path}: a safetensors file, but not a predictor of this project; "
            "public trunk weights enter through vcm-train"
        )
    if version != VERSION:
        raise CacheError(
            f"{path}: checkpoint version {version}, this program reads {VERSION}; update the program or train again"
        )
    try:
        return _card_from_dict(header, str(path))
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise CacheError(f"{path}: its card cannot be read ({_one_line(error)}); get the file again") from None


def _card_from_dict(values: Mapping[str, Any], origin: str) -> CheckpointCard:
    return CheckpointCard(
        config=config_from_dict(values["config"], origin),
        training_data_sha256=str(values["training_data_sha256"]),
        metrics=dict(values["metrics"]),
        licence=str(values["licence"]),
        provenance=dict(values["provenance"]),
        weights_sha256=str(values["weights_sha256"]),
    )


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
