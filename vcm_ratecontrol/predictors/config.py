"""Configurations of the predictors: one TOML file each, and the way from its `kind` to the network class."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from codec_wrappers.errors import InputError

if TYPE_CHECKING:
    from torch import nn

CONFIG_DIR = Path(__file__).parent / "configs"

NETWORKS: Mapping[str, str] = {
    "stand_in": "vcm_ratecontrol.predictors.backbone:StandIn",
    "smr_full_reference": "vcm_ratecontrol.predictors.smr_full_reference:SMRFullReference",
    "smr_curve": "vcm_ratecontrol.predictors.smr_curve:SMRCurveNetwork",
    "smr_curve_evidence": "vcm_ratecontrol.predictors.smr_curve_evidence:EvidenceCurveNetwork",
    "owjrd": "vcm_ratecontrol.predictors.owjrd:ObjectRecognition",
    "dtjrd": "vcm_ratecontrol.predictors.dtjrd:ObjectJRDClassifier",
    "jrd_map": "vcm_ratecontrol.predictors.jrd_map:JRDMapNetwork",
}
"""kind of a configuration -> module and class of its network, imported when it is built."""

InputMode = Literal["stretch", "letterbox", "center", "area"]


@dataclass(frozen=True)
class InputSpec:
    """How a picture of any size becomes the network's input.

    mode: 'stretch': resized to width x height, aspect not kept. 'letterbox': aspect kept, centred, padded
    with black.
        'center': centre crop, padded with black, never resized. 'area': aspect kept to the nearest
        multiples of 32, at about width x height pixels, so that nothing is padded.
    width, height: pixels, multiples of 32.
    enlarge: 'area' only: whether small pictures are enlarged to that many pixels.
    min_scale: 'area' only: a picture that would be shrunk below this scale is cut into tiles; 0: never.
    statistics: whether the network also takes `picture_statistics` (and `distortion_statistics` of pairs).
    """

    mode: InputMode
    width: int
    height: int
    enlarge: bool = True
    min_scale: float = 0.0
    statistics: bool = False

    def __post_init__(self) -> None:
        if self.mode not in get_args(InputMode):
            raise InputError(f"[input] mode '{self.mode}' is none of {', '.join(get_args(InputMode))}")
        if self.width < 32 or self.height < 32 or self.width % 32 or self.height % 32:
            raise InputError(f"[input] {self.width}x{self.height}: both must be positive multiples of 32")
        if not 0 <= self.min_scale <= 1:
            raise InputError(f"[input] min_scale {self.min_scale} must be within 0..1")


@dataclass(frozen=True)
class PredictorConfig:
    """One configuration. name, kind: see `NETWORKS`; network: keyword arguments of the network class;
    training: read by the trainer alone, never part of what a checkpoint is checked against.
    """

    name: str
    kind: str
    input: InputSpec
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, in a fixed order."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), sort_keys=True))
        return plain

    def same_network(self, other: PredictorConfig) -> bool:
        """Whether weights of the one fit the other: same kind, input and network."""
        return all(self.to_dict()[key] == other.to_dict()[key] for key in ("kind", "input", "network"))


def config_from_dict(values: Mapping[str, Any], origin: str) -> PredictorConfig:
    """The configuration in plain values. origin: names the file in errors. Raises InputError."""
    unknown = set(values) - {f.name for f in fields(PredictorConfig)}
    if unknown:
        raise InputError(f"{origin}: unknown key '{min(unknown)}'; known: name, kind, input, network, training")
    try:
        kind = values["kind"]
        spec = InputSpec(**values["input"])
        name = values["name"]
    except KeyError as error:
        raise InputError(f"{origin}: the key {error} is missing") from None
    except (TypeError, InputError) as error:
        raise InputError(f"{origin}: {error}") from None
    if kind not in NETWORKS:
        raise InputError(f"{origin}: kind '{kind}' is none of {', '.join(NETWORKS)}")
    return PredictorConfig(name, kind, spec, values.get("network", {}), values.get("training", {}))


def config_names() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.toml"))


def load_config(name_or_path: str | Path) -> PredictorConfig:
    """A configuration of the package by name, or any TOML file by path. Raises InputError."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = CONFIG_DIR / f"{name_or_path}.toml"
        if not path.is_file():
            raise InputError(
                f"no predictor configuration '{name_or_path}'; give a .toml file or one of " + ", ".join(config_names())
            )
    try:
        return config_from_dict(tomllib.loads(path.read_text()), origin=str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an existing .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from None


def build_network(config: PredictorConfig) -> nn.Module:
    """The network of a configuration with fresh weights (seed torch first). Raises InputError for bad
    arguments."""
    module, _, class_name = NETWORKS[config.kind].partition(":")
    network_class = getattr(importlib.import_module(module), class_name)
    try:
        network: nn.Module = network_class(**config.network)
    except (TypeError, ValueError) as error:
        raise InputError(f"configuration '{config.name}', [network]: {error}") from None
    return network
