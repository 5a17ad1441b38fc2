"""What a killed run goes on from: one file, written at the end of every epoch, replaced at once or not at all."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec_wrappers.errors import CacheError, OutputError

STATE_FILE = "state.pt"
STATE_VERSION = 1


@dataclass(frozen=True)
class RunState:
    """A run between two epochs.

    identity: configuration, seed, data: what must be the same to go on. epoch: finished ones. network, average,
    best: state dicts (average None without one); optimizer, scaler: theirs. best_score, best_epoch: of validation.
    seconds: of training so far. random: states of torch's generators. Each epoch is seeded by itself, so nothing but
    layers outside the loop depends on them.
    """

    identity: Mapping[str, Any]
    epoch: int
    network: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    best: Mapping[str, Tensor]
    best_score: float
    best_epoch: int
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    seconds: float
    random: Mapping[str, Any]


def save_state(folder: Path, state: RunState) -> None:
    """Raises OutputError when the folder cannot be written."""
    values = {"version": STATE_VERSION, **{name: getattr(state, name) for name in state.__dataclass_fields__}}
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / STATE_FILE)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{folder}: the state of training cannot be written ({error}); free some space") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def load_state(folder: Path, identity: Mapping[str, Any]) -> RunState | None:
    """The state of an earlier run, None where there is none.

    Raises CacheError when it is damaged, or was made with other settings (the message names the first).
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        version = values.pop("version")
        state = RunState(**values)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CacheError(f"{path}: damaged ({reason}); delete it and train again") from None
    if version != STATE_VERSION:
        raise CacheError(f"{path}: of version {version}, this program reads {STATE_VERSION}; train into a new folder")
    for name, value in identity.items():
        if state.identity.get(name) != value:
            raise CacheError(
                f"{path}: made with another {name} ({_short(state.identity.get(name))}, now {_short(value)});"
                " use another --out, or give what it was made with"
            )
    return state


def random_states(device: torch.device) -> dict[str, Any]:
    """States of torch's generators."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(states: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
