"""vcm-decode: a coded file back to pictures."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from codec_wrappers.frames import PixelFormat
from vcm_ratecontrol.cli.common import PATH, CommandRun, vcm_command


@vcm_command("vcm-decode")
@click.argument("coded", metavar="IN", type=PATH)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    type=PATH,
    help="NAME.png for one picture, NAME_%05d.png for one per frame (numbered from 1), or NAME.y4m.",
)
@click.option("-y", "overwrite", is_flag=True, help="Replace what is there.")
@click.option(
    "--pix-fmt",
    type=click.Choice(["yuv420p", "yuv420p10le"]),
    help="Samples of the Y4M.  [default: 8 or 10 bits, as coded]",
)
def main(run: CommandRun, coded: Path, output: Path, overwrite: bool, pix_fmt: str | None) -> None:
    """Decode IN (VVC, HEVC, AV1, or any other picture or video) to PNG or Y4M, without the padding of the encoder.

    PNG holds upright RGB, full range, as machines see it; Y4M the decoded 4:2:0 samples as they are.
    """
    run.progress.phase("reading")
    from vcm_ratecontrol.decoding import decode_clip
    from vcm_ratecontrol.media import open_clip

    clip = open_clip(coded)
    layout = cast(PixelFormat, pix_fmt) if pix_fmt else None
    decoded = decode_clip(clip, output, layout, overwrite, run.progress)
    run.summarise(
        input=coded,
        output=output,
        codec=clip.codec,
        n_frames=decoded.n_frames,
        width=decoded.width,
        height=decoded.height,
        pix_fmt=decoded.pix_fmt,
        files=len(decoded.files),
        notes=decoded.notes,
    )
    frames = f"{decoded.n_frames} frame{'s' * (decoded.n_frames > 1)}"
    line = f"{output}: {frames} of {decoded.width}x{decoded.height}, {decoded.pix_fmt}, decoded from {clip.codec}"
    run.show(line, *(f"note: {note}" for note in decoded.notes))


if __name__ == "__main__":
    main()
