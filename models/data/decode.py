"""One picture file to an array: its header is judged before a pixel is decoded."""

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from models.core.errors import DataError

PIXELS = 50_000_000
BANDS = 16
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
NAMES_OF_FORMATS = "PNG, JPEG, WebP, TIFF, BMP, GIF or PPM"
GREY_MODES, COLOUR_MODES = ("1", "L"), ("P", "RGB", "RGBX", "CMYK", "YCbCr")
CLEAR_MODES = {"LA": "L", "La": "L", "PA": "RGB", "RGBA": "RGB", "RGBa": "RGB"}
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
DEEP_TO_BYTE = 257  # 65535 / 255
OPAQUE = 255
WHITE_IS_ZERO = 0
FEW_LEVELS = 1 << 12  # 16-bit pictures below this highest value come out nearly black

TURNED = "turned upright by their EXIF orientation"
FLATTENED = "with transparent pixels, laid over white"
DEEP = "of 16 bits a channel, divided by 257 to 8 bits"
DIM = f"of 16 bits that use none above {FEW_LEVELS - 1}, so nearly black; scale them to 65535"
FIRST_OF_MPO = "of several pictures in one JPEG (MPO), the first one taken"

Image.MAX_IMAGE_PIXELS = PIXELS


# what Pillow's readers raise of damaged files
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(TypeError, LookupError, ArithmeticError, RuntimeError),
)


def decode(
    content: bytes,
    name: str,
    noted: Counter[str] | None = None,
    reduced: Callable[[int, int], int] = lambda *_: 1,
) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of a picture file, upright: one channel if it is grey, else three.

    Transparent pixels are laid over white; 16 bits become 8. A JPEG may come out at a half, a
    quarter or an eighth of its size, rounded up, for a share of the work: the lowest frequencies of
    its 8 x 8 blocks alone are transformed back.

    Args:
        content: the file.
        name: names the picture in errors.
        noted: counts pictures by what was changed in them, if given.
        reduced: from height and width of the upright picture, in pixels, to the divisor by which
            its sides may be smaller: 1, 2, 4 or 8. Called before a pixel is decoded.

    Raises:
        DataError: if it is damaged, of another format, too large, animated, or of values that are
            no 8 or 16 bits.
    """
    noted = Counter() if noted is None else noted
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_header(image, name)
                _reduce(image, reduced)
                from_white = _zero_is_white(image)
                pixels = _pixels(_upright(image, noted), name, noted)
                return OPAQUE - pixels if from_white else pixels
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: more than {PIXELS} pixels") from error
    except DAMAGED as error:
        raise DataError(f"{name}: damaged, cut short, or no {NAMES_OF_FORMATS} file") from error


def _reduce(image: Image.Image, reduced: Callable[[int, int], int]) -> None:
    """Let a JPEG be decoded at a part of its size; pictures of other formats stay whole."""
    width, height = image.size
    lies = image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
    divisor = reduced(width, height) if lies else reduced(height, width)
    if divisor > 1 and image.format in ("JPEG", "MPO"):
        image.draft(image.mode, (max(1, width // divisor), max(1, height // divisor)))


def _check_header(image: Image.Image, name: str) -> None:
    width, height = image.size
    check_size(height, width, len(image.getbands()), name)
    frames = getattr(image, "n_frames", 1)
    if image.format != "MPO" and frames > 1:
        raise DataError(
            f"{name}: {frames} pictures in one file (an animation or pages); "
            "only single pictures are read, save each as a file of its own"
        )


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


def _upright(image: Image.Image, noted: Counter[str]) -> Image.Image:
    """The picture as it is to be seen; of a TIFF, loading alone turns it."""
    if image.format == "MPO" and getattr(image, "n_frames", 1) > 1:
        noted[FIRST_OF_MPO] += 1
    if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        noted[TURNED] += 1
    image.load()
    return ImageOps.exif_transpose(image)


def _pixels(image: Image.Image, name: str, noted: Counter[str]) -> np.ndarray:
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        image = image.convert("LA" if image.mode in GREY_MODES else "RGBA")
    if image.mode in CLEAR_MODES:
        return _flattened(image, noted)
    if image.mode in GREY_MODES:
        return np.asarray(image.convert("L"))[..., None]
    if image.mode in COLOUR_MODES:
        return np.asarray(image.convert("RGB"))
    if image.mode in (*DEEP_MODES, "I"):
        return _of_16_bits(np.asarray(image).astype(np.int64), name, noted)[..., None]
    hint = "a raster of heights is imported alone, as elevation" if image.mode == "F" else None
    raise DataError(f"{name}: pixels of mode {image.mode}; use 8 or 16 bits a channel", hint=hint)


def _zero_is_white(image: Image.Image) -> bool:
    """Whether a TIFF of 16 bits counts from white to black: Pillow turns 8 bits round alone."""
    tags = getattr(image, "tag_v2", {})
    return image.mode in DEEP_MODES and tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO


def _flattened(image: Image.Image, noted: Counter[str]) -> np.ndarray:
    """The picture over white; where it is opaque throughout, exactly its own pixels."""
    target = CLEAR_MODES[image.mode]
    pixels = np.asarray(image.convert("LA" if target == "L" else "RGBA"))
    colour, alpha = pixels[..., :-1], pixels[..., -1:]
    if (alpha == OPAQUE).all():
        return np.ascontiguousarray(colour)
    noted[FLATTENED] += 1
    share = alpha / OPAQUE
    return np.rint(colour * share + OPAQUE * (1 - share)).astype(np.uint8)


def _of_16_bits(values: np.ndarray, name: str, noted: Counter[str]) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise DataError(f"{name}: values from {low} to {high}; use 8 or 16 bits a channel")
    noted[DIM if high < FEW_LEVELS else DEEP] += 1
    return ((values + DEEP_TO_BYTE // 2) // DEEP_TO_BYTE).astype(np.uint8)
