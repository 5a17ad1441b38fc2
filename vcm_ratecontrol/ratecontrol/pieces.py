"""Coded segments of one clip, each made once: by the probe that measures it, or for the final file."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.encoder import Encoder
from codec_wrappers.errors import EncoderError
from codec_wrappers.pipeline import CodedJob, EncodeOptions, encode_segment, segment_command
from codec_wrappers.plan import Segment
from codec_wrappers.process import ProcessGroup
from codec_wrappers.workfolder import beside
from vcm_ratecontrol.media import Clip

if TYPE_CHECKING:
    from codec_wrappers.qpmap import QPMap


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
    ) -> None:
        """folder: is made. group: its processes are killed together when the caller gives up. qp_map: a legal
        map of the whole clip."""
        self.clip, self.encoder, self.options, self.group = clip, encoder, options, group
        self._folder, self._qp_map = folder, qp_map
        folder.mkdir()
        self._made: dict[Segment, CodedJob] = {}
        self._lock = threading.Lock()

    def get(self, segment: Segment) -> CodedJob:
        """The coded segment. Raises EncoderError, UnsupportedError, InputError (damaged source)."""
        with self._lock:
            known = self._made.get(segment)
        if known is None:
            known = self._code(segment)
            with self._lock:
                self._made[segment] = known
        return known

    def _code(self, segment: Segment) -> CodedJob:
        folder = self._home(segment)
        try:
            return encode_segment(segment, self.clip, self.encoder, folder, self.options, self.group, self._qp_map)
        except EncoderError as error:
            raise EncoderError(f"{self.clip.path}: {error}") from error  # a job may be of many files

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
            gone = [s for s in self._made if s.start == chosen.start and s != chosen]
            for segment in gone:
                # With its folder: the anchor may want this very piece again.
                shutil.rmtree(self._made.pop(segment).piece.parent, ignore_errors=True)
