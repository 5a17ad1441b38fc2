"""Coded segments of one clip, each made once: by the probe that measures it, or for the final file."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.encoder import Encoder
from codec_wrappers.errors import EncoderError, NoRoomError
from codec_wrappers.pipeline import CodedJob, EncodeOptions, encode_segment, segment_command
from codec_wrappers.plan import Segment
from codec_wrappers.process import ProcessGroup
from codec_wrappers.workfolder import beside
from vcm_ratecontrol.media import Clip

if TYPE_CHECKING:
    from codec_wrappers.qpmap import QPMap


# Each time that the encoder has no room. Noise takes 6 to 8 % fewer bits then; single steps would be twice the work.
_YIELD_STEP = 2


class Pieces:
    """Codes segments on demand into a private folder. For use by several threads."""

    def __init__(
        self,
        clip: Clip,
        encoder: Encoder,
        options: EncodeOptions,
        folder: Path,
        group: ProcessGroup,
        qp_map: QPMap | None = None,
        *,
        yielding: bool = False,
    ) -> None:
        """folder: is made. group: its processes are killed together when the caller gives up. qp_map: a legal
        map of the whole clip. yielding: a segment for which the encoder has no room at its QP is coded at the next one
        where it has; its `CodedJob` tells at which."""
        self.clip, self.encoder, self.options, self.group = clip, encoder, options, group
        self._folder, self._qp_map, self._yielding = folder, qp_map, yielding
        folder.mkdir()
        self._made: dict[Segment, CodedJob] = {}
        self._lock = threading.Lock()

    def get(self, segment: Segment) -> CodedJob:
        """The coded segment. Raises EncoderError, UnsupportedError, InputError (damaged source)."""
        with self._lock:
            known = self._made.get(segment)
        if known is None:
            known = self._code_or_yield(segment)
            with self._lock:
                self._made[segment] = known
        return known

    def _code_or_yield(self, segment: Segment) -> CodedJob:
        try:
            return self._code(segment)
        except NoRoomError:
            higher = replace(segment, qp=segment.qp + _YIELD_STEP)
            if not self._yielding or higher.qp > self.encoder.capabilities().qp_max:
                raise
            return self.get(higher)

    def _code(self, segment: Segment) -> CodedJob:
        folder = self._home(segment)
        try:
            return encode_segment(segment, self.clip, self.encoder, folder, self.options, self.group, self._qp_map)
        except EncoderError as error:
            raise type(error)(f"{self.clip.path}: {error}") from error  # a job may be of many files

    def command(self, segment: Segment, output: Path | None = None) -> tuple[str, ...]:
        """The command line that `get` runs. output: with its files beside that instead of in the private folder."""
        folder = self._home(segment)
        argv = segment_command(segment, self.clip, self.encoder, folder, self.options, self._qp_map)
        return argv if output is None else beside(argv, folder, output)

    def recipe(self, segment: Segment) -> tuple[str, ...]:
        """The arguments of the command line that codes a segment, without names of files and programs."""
        here, program = str(self._folder), self.encoder.capabilities().path
        return tuple(word for word in self.command(segment) if here not in word and word != program)

    def _home(self, segment: Segment) -> Path:
        return self._folder / f"{segment.start:07d}-{segment.stop:07d}-{segment.qp:02d}"

    def keep_only(self, chosen: Segment) -> None:
        """Delete the pieces of these frames at other QPs: a long clip has thousands of them."""
        with self._lock:
            kept = self._made.get(chosen)  # may be another's piece that it yielded to
            gone = [s for s, job in self._made.items() if s.start == chosen.start and (not kept or job is not kept)]
            for segment in gone:
                # With its folder: the anchor may want this very piece again.
                shutil.rmtree(self._made.pop(segment).piece.parent, ignore_errors=True)
