"""One picture file to an array: its header is judged before a pixel is decoded."""

import io
import struct
import warnings
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from models.core.errors import DataError

PIXELS = 50_000_000
BANDS = 16
FORMATS = ("PNG", "JPEG")
GREY_MODES, COLOUR_MODES = ("1", "L"), ("P", "PA", "LA", "RGB", "RGBA", "CMYK", "YCbCr")

Image.MAX_IMAGE_PIXELS = PIXELS


def decode(content: bytes, name: str) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of a PNG or JPEG file: one channel if it is grey, else three; transparency is lost.

    Args:
        content: the file.
        name: to tell the user which one it was.

    Raises:
        DataError: if it is damaged, of another format, too large, animated or of 16 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_header(image, name)
                return _pixels(image, name)
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: more than {PIXELS} pixels") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"{name}: damaged, cut short, or no PNG or JPEG file") from error


def _check_header(image: Image.Image, name: str) -> None:
    width, height = image.size
    check_size(height, width, len(image.getbands()), name)
    if getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{name}: an animation; only single pictures are read")


def check_size(height: int, width: int, channels: int, name: str) -> None:
    """Refuse an image by its dimensions.

    Args:
        height: in pixels.
        width: in pixels.
        channels: bands of the image.
        name: of the image, for the message.

    Raises:
        DataError: if it has no pixels, too many, or too many bands.
    """
    if not 1 <= height * width <= PIXELS:
        raise DataError(f"{name}: {height} x {width} pixels; from 1 to {PIXELS} are allowed")
    if not 1 <= channels <= BANDS:
        raise DataError(f"{name}: {channels} bands; from 1 to {BANDS} are allowed")


def _pixels(image: Image.Image, name: str) -> np.ndarray:
    if image.mode in GREY_MODES:
        return np.asarray(image.convert("L"))[..., None]
    if image.mode in COLOUR_MODES:
        return np.asarray(image.convert("RGB"))
    raise DataError(f"{name}: pixels of mode {image.mode}; use 8 bits a channel")
