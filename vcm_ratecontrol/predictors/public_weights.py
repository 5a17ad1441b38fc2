"""Public pretrained weights, from a path or URL that the user gives; none come with the package."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from codec_wrappers.errors import CacheError, InputError, MissingToolError
from vcm_ratecontrol.predictors.interface import LevelNetwork

_UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
)


def load_public_weights(
    network: nn.Module, source: str | Path, *, sha256: str | None = None, cache_dir: Path | None = None
) -> tuple[str, ...]:
    """Fill the trunk of a network from a public state dict.

    Args:
        network: `efficientnet_b4` takes torchvision's EfficientNet-B4, `owjrd` torchvision's
        EfficientNetV2-S or the
            OW-JRD code's own, `dtjrd` timm's ViT-L/32.
        source: path of a .pth or .safetensors file, or an http(s) URL.
        sha256: of the file, hexadecimal; needed for a URL, checked for a path where given.
        cache_dir: where a download is kept; None: the cache of the machines.
    Returns: names in the file that were not used (classifiers, later stages).
    Raises: MissingToolError, InputError, CacheError.
    """
    path = _local_file(str(source), sha256, cache_dir)
    state = read_state_dict(path)
    try:
        return cast("LevelNetwork[object]", network).load_public(state)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CacheError(
            f"{path}: not the public weights of this configuration ({reason}); see its .toml file"
        ) from None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict of a .safetensors or .pth file, without running any code in it; a leading 'module.' is
    dropped.

    Raises: CacheError.
    """
    try:
        if path.suffix == ".safetensors":
            loaded: object = safetensors.torch.load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:120]
        raise CacheError(
            f"{path}: not a file of weights alone ({reason}); give a .pth or .safetensors state dict"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CacheError(f"{path}: holds no state dict (names -> tensors); give a .pth or .safetensors state dict")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def _local_file(source: str, sha256: str | None, cache_dir: Path | None) -> Path:
    if source.startswith(("http://", "https://")):
        if sha256 is None:
            raise InputError(f"{source}: weights from a URL need their SHA-256; give it too")
        from vcm_ratecontrol.machines.fetch import fetch

        return fetch(source, sha256, cache_dir)
    path = Path(source)
    if not path.is_file():
        raise MissingToolError(f"{path}: no such weights file; give a path or a URL with its SHA-256")
    if sha256 is not None and _file_sha256(path) != sha256.lower():
        raise MissingToolError(f"{path}: SHA-256 is not {sha256}; the file is damaged or another one, get it again")
    return path


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
