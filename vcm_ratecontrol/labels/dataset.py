"""What a label folder was made with: the settings that its rows share."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from codec_wrappers.errors import CacheError
from vcm_ratecontrol.labels.schema import SCHEMA_VERSION

# How many machines a message names before it only counts them.
NAMED_MACHINES = 3


@dataclass(frozen=True)
class DatasetConfig:
    """What a label folder was made with; a folder never mixes two of them.

    encoder, preset: names of codec_wrappers. coding: 'still' or 'inter'. qps: ascending.
    machines: name -> hash of model and settings. encoder_version: as the binary says.
    max_side: pictures are scaled down so that no side is longer; 0 leaves them.
    """

    encoder: str
    codec: str
    preset: str
    coding: str
    qps: tuple[int, ...]
    machines: dict[str, str]
    encoder_version: str
    max_side: int = 0
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> DatasetConfig:
        """Raises CacheError when the text is no such description, or of another schema version."""
        try:
            raw = json.loads(text)
            if raw.get("schema_version") != SCHEMA_VERSION:
                raise CacheError(
                    f"label schema {raw.get('schema_version')}, this program writes {SCHEMA_VERSION};"
                    " annotate into a new folder"
                )
            return cls(**{**raw, "qps": tuple(raw["qps"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CacheError(f"not a label folder's description ({error}); use another folder") from error

    def differences(self, other: DatasetConfig) -> list[str]:
        """What differs from the folder `other` describes, for people: 'preset: fast there, faster asked'."""
        mine, theirs = asdict(self), asdict(other)
        found = []
        for key in mine:
            if mine[key] == theirs[key]:
                continue
            if key == "machines":
                found.append(f"machines: {_machine_differences(mine[key], theirs[key])}")
            else:
                found.append(f"{key}: {_plain(theirs[key])} there, {_plain(mine[key])} asked")
        return found


def _machine_differences(mine: dict[str, str], theirs: dict[str, str]) -> str:
    kinds = {
        "not asked": [name for name in theirs if name not in mine],
        "not there": [name for name in mine if name not in theirs],
        "changed": [name for name in mine if name in theirs and mine[name] != theirs[name]],
    }
    return ", ".join(f"{_named(names)} {kind}" for kind, names in kinds.items() if names)


def _named(names: list[str]) -> str:
    more = len(names) - NAMED_MACHINES
    return ", ".join(names[:NAMED_MACHINES]) + (f" and {more} more" if more > 0 else "")


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
