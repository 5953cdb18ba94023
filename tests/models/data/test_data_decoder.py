"""Pictures decoded at a part of their size: nearly what the whole picture comes to."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from models.core.errors import DataError
from models.data import decoder, samples
from models.data.augment import CropKey
from models.data.decode import decode
from models.data.decoder import Decoder, reduced
from models.data.picture_index import PictureReader
from models.data.sizing import fitted, resize


class Holds(PictureReader):
    """A reader of one picture."""

    def __init__(self, content):
        self._content = content

    def read(self, _):
        return self._content

    def name(self, _):
        return "cat/1.jpg"


def jpeg(index, size=(500, 375), **options):
    picture = Image.fromarray(samples.photo(index)).resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=92, **options)
    return stream.getvalue()


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("index", [1, 4])
def test_small_images_are_near_the_means_of_large_ones(index, fit):
    """Root mean square of the difference over the deviation; of a shift by a pixel it is .5."""
    maker = Decoder(Holds(jpeg(index)), (224, 224), fit, 3)
    large = torch.from_numpy(maker.image(0))[None]
    for size in (112, 56):
        expected = resize(large, size)[0].double()
        small = torch.from_numpy(maker.image(0, (size, size))).double()
        apart = (small - expected).pow(2).mean().sqrt() / expected.std()
        assert apart < 0.1
        assert abs(small.mean() - expected.mean()) < 1
        shifted = (expected[:, 1:] - expected[:, :-1]).pow(2).mean().sqrt() / expected.std()
        assert apart < shifted / 2


def test_the_picture_is_decoded_at_the_part_that_is_enough(monkeypatch):
    """Half for 112 of 375 pixels, a quarter for 56, whole for 224."""
    decoded = []

    def note(*args, **options):
        decoded.append(decode(*args, **options))
        return decoded[-1]

    monkeypatch.setattr(decoder, "decode", note)
    for side in (None, 112, 56):
        Decoder(Holds(jpeg(1)), (224, 224), "crop", 3).image(0, side and (side, side))
    assert [pixels.shape[:2] for pixels in decoded] == [(375, 500), (188, 250), (94, 125)]


def test_a_turned_picture_is_reduced_by_its_upright_sides():
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    content, seen = jpeg(1, exif=exif), []
    decode(content, "x", reduced=lambda *sides: seen.append(sides) or 2)
    assert seen == [(500, 375)]
    maker = Decoder(Holds(content), (200, 100), "squash", 3)
    assert maker.image(0, (100, 50)).shape == (100, 50, 3)


def test_pictures_without_frequencies_are_decoded_whole_and_come_out_alike():
    picture = Image.fromarray(samples.photo(0)).resize((300, 200))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    small = Decoder(Holds(stream.getvalue()), (96, 96), "crop", 3).image(0, (48, 48))
    assert np.array_equal(small, reduced(np.asarray(picture), (48, 48), 0.0, 50.0, 200.0, 200.0))


def test_areas_that_are_whole_pixels_keep_a_ramp():
    """The mean of a linear image over any symmetric window is its middle."""
    ramp = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (60, 120, 3))
    small = reduced(np.ascontiguousarray(ramp), (15, 30), 0.0, 0.0, 60.0, 120.0)
    expected = np.arange(30) * 8 + 3
    assert np.abs(small[:, 2:-2, 0].astype(int) - expected[2:-2]).max() <= 1


def test_grey_pictures_stay_grey_or_become_grey_colour():
    content = io.BytesIO()
    Image.fromarray(samples.photo(3)[..., 0]).resize((160, 120)).save(content, "JPEG")
    for channels in (1, 3):
        maker = Decoder(Holds(content.getvalue()), (64, 64), "crop", channels)
        assert maker.image(0).shape == (64, 64, channels)
        assert maker.image(0, (32, 32)).shape == (32, 32, channels)


def test_a_colour_picture_among_grey_ones_is_refused():
    with pytest.raises(DataError, match=r"cat/1.jpg: a colour picture"):
        Decoder(Holds(jpeg(1, (60, 50))), (32, 32), "crop", 1).image(0)


def test_cheap_and_full_sizes_of_small_pictures_grow():
    whole = decode(jpeg(2, (30, 20)), "x")
    image = Decoder(Holds(jpeg(2, (30, 20))), (64, 64), "crop", 3).image(0, (32, 32))
    assert np.array_equal(image, fitted(torch.tensor(whole)[None], 32, "crop")[0].numpy())


@pytest.mark.parametrize("position", range(4))
def test_a_random_part_is_the_same_at_a_small_size(position):
    crop = CropKey(1, 2, position, 0.3)
    maker = Decoder(Holds(jpeg(4)), (224, 224), "crop", 3)
    large = torch.from_numpy(maker.image(0, None, crop))[None]
    for size in (112, 56):
        expected = resize(large, size)[0].double()
        small = torch.from_numpy(maker.image(0, (size, size), crop)).double()
        assert (small - expected).pow(2).mean().sqrt() / expected.std() < 0.12


def test_a_tiff_without_a_size_is_damaged():
    entry = struct.pack("<HHII", 258, 3, 1, 8)  # bits a sample alone
    content = b"II*\x00" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    with pytest.raises(DataError, match=r"^a\.tif: damaged"):
        decode(content, "a.tif")
