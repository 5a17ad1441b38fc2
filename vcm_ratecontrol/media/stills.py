"""Pictures: any that Pillow reads, to upright RGB of 8 bits.

- EXIF orientation is applied.
- Alpha is composited on black.
- CMYK goes through its ICC profile where it has one, else through Pillow's plain conversion; profiles of RGB
  pictures are not applied, as machines are trained on plain decodes.
- 16-bit samples are rounded to 8 bits (value * 255 / 65535): what machines see and what is coded.
- Of a TIFF with several pages and of a multi-picture JPEG the first picture counts.
- An animation (GIF, PNG, AVIF with more than one frame) is no still: the video reader takes it.
"""

from __future__ import annotations

import io
import threading
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError
from codec_wrappers.frames import BT709
from vcm_ratecontrol.media.clip import Clip

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

#: Longest side in samples; 8K is 7680 x 4320, VVC level 6.3 ends at 16888.
MAX_SIDE = 16384

# Formats by content. Not those without a signature (TGA), of vectors (EPS runs a program) or of sounds and
# films.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "AVIF", "GIF", "PPM", "JPEG2000")

_PIXEL_FORMATS = {
    "1": ("monow", 1),
    "L": ("gray", 8),
    "LA": ("ya8", 8),
    "La": ("ya8", 8),
    "P": ("pal8", 8),
    "PA": ("pal8", 8),
    "RGB": ("rgb24", 8),
    "RGBA": ("rgba", 8),
    "RGBa": ("rgba", 8),
    "RGBX": ("rgb0", 8),
    "CMYK": ("cmyk", 8),
    "YCbCr": ("yuv444p", 8),
    "LAB": ("lab", 8),
    "HSV": ("hsv", 8),
    "I;16": ("gray16le", 16),
    "I;16B": ("gray16be", 16),
    "I;16L": ("gray16le", 16),
    "I;16N": ("gray16le", 16),
    "I": ("gray16le", 16),
}

# Pillow's limit against decompression bombs is a module variable, half of what a picture may have here.
_bomb_limit = threading.Lock()


def probe_still(path: Path, head: bytes) -> Clip | None:
    """A `Clip` of one frame if the file is a picture, else None. Decodes it, to find whether it is whole.

    head: the first bytes of the file (64 suffice).
    Raises InputError when the picture is truncated, damaged or too large.
    """
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1") and b"avif" not in head:
        raise InputError(f"{path}: HEIC pictures are not read; convert it to PNG or JPEG first")
    image = _open(path)
    if image is None:
        return None
    with image:
        if getattr(image, "is_animated", False) and image.format in ("GIF", "PNG", "WEBP", "AVIF"):
            if image.format == "WEBP":
                raise InputError(f"{path}: animated WebP is not read; convert it to mp4 or y4m first")
            return None
        mode, name, deep = image.mode, str(image.format).lower(), _is_deep_color(image, head)
    height, width = load_still(path).shape[:2]
    pix_fmt, depth = ("rgb48le", 16) if deep else _PIXEL_FORMATS.get(mode, ("rgb24", 8))
    return Clip(
        path=path,
        kind="still",
        width=width,
        height=height,
        n_frames=1,
        frame_rate=Fraction(25),
        pts=(0,),
        time_base=Fraction(1, 25),
        color=BT709,
        pix_fmt=pix_fmt,
        bit_depth=depth,
        codec=name,
    )


def load_still(path: Path) -> npt.NDArray[np.uint8]:
    """Decode a picture to upright RGB, uint8 [H, W, 3].

    Raises InputError when the file is no picture (any more), truncated, damaged or too large.
    """
    import numpy as np

    image = _open(path)
    if image is None:
        raise InputError(f"{path}: is not a picture any more; it was changed while it was read")
    with image:
        try:
            with path.open("rb") as file:
                deep = _is_deep_color(image, file.read(64))
            if deep:
                return _load_deep_color(path, image)
            image.load()
            rgb = _to_rgb(path, _turned(image))
        except InputError:
            raise
        except (OSError, SyntaxError, ValueError, EOFError, ZeroDivisionError) as error:
            raise _damaged(path, error) from error
    return np.ascontiguousarray(rgb)


def _open(path: Path) -> Image.Image | None:
    """The picture with its header read, None if it is none. Raises InputError when it is too large."""
    from PIL import Image, UnidentifiedImageError

    with _bomb_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path, formats=_readable_formats())
        except UnidentifiedImageError:
            return None
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise _damaged(path, error) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    width, height = image.size
    if max(width, height) > MAX_SIDE:
        image.close()
        raise InputError(
            f"{path}: the picture is {width}x{height}, larger than {MAX_SIDE}x{MAX_SIDE}; scale it down first"
        )
    return image


def _readable_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path}: the picture is truncated or damaged ({reason}); copy or export it again")


def _turned(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _to_rgb(path: Path, image: Image.Image) -> npt.NDArray[np.uint8]:
    import numpy as np

    if image.mode in ("F", "I;32", "I;32B"):
        raise InputError(f"{path}: floating-point samples have no range; convert it to 8 or 16 bits first")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise InputError(f"{path}: samples beyond 16 bits; convert it to 8 or 16 bits first")
        return np.repeat(_to_eight_bits(grey)[..., None], 3, axis=2)
    if image.has_transparency_data:
        return _on_black(np.asarray(image.convert("RGBA")))
    if image.mode == "CMYK" and (profile := image.info.get("icc_profile")):
        image = _through_profile(image, profile)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _through_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """CMYK to sRGB by the picture's own ICC profile; the picture as it is when the profile is broken."""
    from PIL import ImageCms

    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError):
        return image
    return converted or image


def _to_eight_bits(samples: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """16-bit samples, rounded: 65535 becomes 255."""
    import numpy as np

    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _on_black(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Composite straight alpha on black: uint8 [H, W, 4] -> [H, W, 3]."""
    import numpy as np

    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)


def _is_deep_color(image: Image.Image, head: bytes) -> bool:
    """Colour of more than 8 bits in PNG or TIFF, whose low bits Pillow cuts off (or which it cannot load)."""
    if image.format == "PNG":
        return head[24:25] == b"\x10" and head[25:26] in (b"\x02", b"\x06")  # bit depth, colour type in IHDR
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, ())  # BitsPerSample
        return isinstance(bits, tuple) and len(bits) >= 3 and set(bits) == {16}
    return False


def _load_deep_color(path: Path, image: Image.Image) -> npt.NDArray[np.uint8]:
    """16-bit RGB(A) by FFmpeg's decoder, upright, rounded to 8 bits."""
    import av
    import numpy as np
    from PIL import Image

    from vcm_ratecontrol.media.convert import frame_samples

    orientation = image.getexif().get(0x0112, 1)
    demuxer = "png_pipe" if image.format == "PNG" else "tiff_pipe"
    try:
        with av.open(f"file:{path}", format=demuxer) as container:
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration) as error:
        raise _damaged(path, error) from error
    rgba = frame_samples(frame.reformat(format="rgba64le"), 0, 4, "<u2")
    rgb = _to_eight_bits((rgba[..., :3].astype(np.uint64) * rgba[..., 3:] + 32767) // 65535)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.fromarray(rgb)
    turned.info["exif"] = exif.tobytes()
    return np.ascontiguousarray(np.asarray(_turned(turned)))
