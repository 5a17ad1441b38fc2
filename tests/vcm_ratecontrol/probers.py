"""What the tests of probing share: a prober over a file, with real machines and a real encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codec_wrappers.encoder import get_encoder
from codec_wrappers.pipeline import EncodeOptions, guarded_group
from vcm_ratecontrol.machines import MachineLibrary
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.ratecontrol.pieces import Pieces
from vcm_ratecontrol.ratecontrol.probe_cache import ProbeCache, content_hash
from vcm_ratecontrol.ratecontrol.probing import Prober
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds
from vcm_ratecontrol.scoring import MachineRoom


@contextmanager
def prober_of(
    path: Path,
    library: MachineLibrary,
    folder: Path,
    codec: str = "vvc",
    preset: str | None = None,
    cache: Path | None = None,
    frames: int = 2,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Iterator[Prober]:
    """folder: does not exist yet; pieces are made there."""
    clip = open_clip(path)
    options = EncodeOptions(preset, "still" if clip.kind == "still" else "inter", 2)
    with MachineRoom(library, 2) as room, guarded_group() as group:
        pieces = Pieces(clip, get_encoder(codec), options, folder, group)
        yield Prober(pieces, room, thresholds, ProbeCache(cache), content_hash(path), frames)
