"""The part of an ffmpeg command line that all libraries share: raw frames in, their rate and colour told."""

from codec_wrappers.encoder import EncodeJob


def raw_input_arguments(job: EncodeJob) -> tuple[str, ...]:
    """ffmpeg arguments from the program's name up to the encoder: input, frame count, colour tags, mapping."""
    color = job.format.color
    tags = {
        "-color_range": color.range,
        "-colorspace": color.matrix,
        "-color_primaries": color.primaries,
        "-color_trc": color.transfer,
    }
    told = tuple(word for option, value in tags.items() if value != "unknown" for word in (option, value))
    size = f"{job.format.padded_width}x{job.format.padded_height}"
    return (
        *("-hide_banner", "-nostats", "-loglevel", "info", "-y"),
        *("-f", "rawvideo", "-pix_fmt", job.pix_fmt, "-s", size, "-r", str(job.format.frame_rate)),
        *told,
        *("-i", "-", "-map", "0:v", "-frames:v", str(job.n_frames)),
        *("-fps_mode", "passthrough", "-enc_time_base", "demux"),
        *told,
    )
