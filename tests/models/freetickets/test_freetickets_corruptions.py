"""Corruptions: invariants of each kind, and independent references for what they are made of."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from models.freetickets import corruptions, image_ops
from models.freetickets.spec import CORRUPTED_SETS

MOVING = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate")
NOT_ORDERED = ("glass_blur", "elastic_transform")  # their constants trade one part for another


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=6, side=16, channels=3):
    """Smooth random images, so that small blurs change little."""
    x = torch.rand(n, side, side, channels, generator=numbers())
    x = image_ops.blurred(x, 1.5)
    x = (x - x.amin((1, 2), keepdim=True)) / (x.amax((1, 2), keepdim=True) - x.amin((1, 2), True))
    return (40 + 170 * x).to(torch.uint8)


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_every_kind_repeats_and_keeps_shape(kind):
    for pixels in (pictures(), pictures(3, 8, 1)):
        actual = [corruptions.corrupt(pixels, kind, severity) for severity in range(1, 6)]
        assert all(x.dtype == torch.uint8 and x.shape == pixels.shape for x in actual)
        assert torch.equal(actual[0], corruptions.corrupt(pixels, kind, 1))
        assert not torch.equal(actual[4], pixels)


@pytest.mark.parametrize("kind", [kind for kind in corruptions.KINDS if kind not in NOT_ORDERED])
def test_severity_moves_images_further(kind):
    pixels = pictures(24, 32)
    away = [
        (corruptions.corrupt(pixels, kind, severity).float() - pixels.float()).abs().mean()
        for severity in (1, 5)
    ]
    assert 0 < away[0] < away[1]


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("severity", [1, 5])
def test_what_moves_pixels_leaves_a_plain_image(kind, severity):
    """Kernels sum to 1, warps stay inside: one grey stays that grey, but for rounding down."""
    plain = torch.full((2, 32, 32, 3), 130, dtype=torch.uint8)
    assert (plain.int() - corruptions.corrupt(plain, kind, severity).int()).abs().max() <= 1


def test_there_are_as_many_as_the_spec_counts():
    assert len(corruptions.KINDS) * corruptions.SEVERITIES == CORRUPTED_SETS
    assert all(len(kind.constants) == corruptions.SEVERITIES for kind in corruptions.KINDS.values())


def test_noise_has_its_variance():
    grey = torch.full((40, 32, 32, 3), 0.5)
    spread = corruptions.KINDS["gaussian_noise"].apply(grey, 0.1, numbers()).std()
    assert spread == pytest.approx(0.1, rel=0.02)
    counts = corruptions.KINDS["shot_noise"].apply(grey, 50.0, numbers())
    assert counts.mean() == pytest.approx(0.5, rel=0.01)
    assert counts.var() == pytest.approx(0.5 / 50, rel=0.03)
    hit = corruptions.KINDS["impulse_noise"].apply(grey, 0.07, numbers())
    assert (hit != 0.5).double().mean() == pytest.approx(0.07, abs=0.003)
    assert set(hit.unique().tolist()) == {0.0, 0.5, 1.0}


def test_brightness_and_contrast_by_their_definitions():
    x = pictures().float() / 255
    bright = corruptions.KINDS["brightness"].apply(x, 0.1, numbers())
    torch.testing.assert_close(bright.amax(3), (x.amax(3) + 0.1).clamp(max=1))
    ratio = x / x.amax(3, keepdim=True)  # hue and saturation
    torch.testing.assert_close(bright / bright.amax(3, keepdim=True), ratio)
    flat = corruptions.KINDS["contrast"].apply(x, 0.3, numbers())
    torch.testing.assert_close(flat.mean((1, 2)), x.mean((1, 2)))
    torch.testing.assert_close(flat.std((1, 2)), 0.3 * x.std((1, 2)))


def test_pixelate_is_the_box_filter():
    pixels = pictures(1, 32)
    image = Image.fromarray(pixels[0].numpy())
    box = Image.Resampling.BOX
    expected = np.asarray(image.resize((20, 20), box).resize((32, 32), box)).astype(int)
    actual = corruptions.corrupt(pixels, "pixelate", 5)[0].numpy().astype(int)
    assert np.abs(actual - expected).max() <= 1


def test_blur_is_that_of_scipy():
    x = torch.rand(2, 12, 10, 3, generator=numbers(), dtype=torch.float32)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 1.3, 1.3, 0), mode="nearest")
    torch.testing.assert_close(image_ops.blurred(x, 1.3), torch.from_numpy(expected))


def test_magnified_is_that_of_scipy():
    x = torch.rand(1, 32, 32, 1, generator=numbers())
    inside = x[0, 3:29, 3:29, 0].numpy()  # ceil(32 / 1.25) = 26 places around the middle
    zoomed = ndimage.zoom(inside, 1.25, order=1)
    assert zoomed.shape == (32, 32)
    actual = image_ops.magnified(x, 1.25)[0, :, :, 0]
    torch.testing.assert_close(actual, torch.from_numpy(zoomed), rtol=1e-4, atol=1e-5)


def test_motion_blur_of_a_point_is_a_line():
    """A point becomes a half Gaussian along the direction, whose weights add up to 1."""
    point = torch.zeros(1, 31, 31, 1)
    point[0, 15, 15] = 1
    line = image_ops.moved(point, 6, 2.5, (0.0, 0.0), numbers())[0, :, :, 0]
    assert line.sum() == pytest.approx(1)
    assert set(line.nonzero()[:, 0].tolist()) == {15}
    weights = line[15, :16].flip(0)[:13]
    expected = torch.exp(-0.5 * (torch.arange(13) / 2.5) ** 2)
    torch.testing.assert_close(weights, expected / expected.sum())


def test_clouds_are_between_0_and_1_and_smoother_with_decay():
    rough, smooth = (image_ops.plasma(4, 32, decay, numbers()) for decay in (1.5, 3.0))
    for field in (rough, smooth):
        assert field.amin((1, 2)).tolist() == [0.0] * 4
        assert field.amax((1, 2)).tolist() == pytest.approx([1.0] * 4)
    assert smooth.diff(dim=1).abs().mean() < rough.diff(dim=1).abs().mean()


def test_warps_are_the_identity_without_displacement():
    x = torch.rand(2, 9, 12, 3, generator=numbers())
    torch.testing.assert_close(image_ops.sheared(x, 0.0, numbers()), x, rtol=1e-4, atol=1e-5)
    assert torch.equal(image_ops.displaced(x, 0.0, 1.0, numbers()), x)


def test_shear_moves_its_points_where_it_says():
    """A linear image: its values tell places, so the three points must come out where they went."""
    h = w = 33
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    x = torch.stack([columns, rows], 2).float()[None]
    actual = image_ops.sheared(x, 2.0, numbers(3))[0]
    away = 2.0 * (2 * torch.rand(1, 3, 2, generator=numbers(3)) - 1)[0]
    points = 16 + 11 * torch.tensor([[1.0, 1], [1, -1], [-1, -1]])
    inner = actual[5:-5, 5:-5]
    slope = (inner[1:, 1:] - inner[:-1, :-1]).reshape(-1, 2)
    assert (slope - slope[0]).abs().max() < 1e-2  # affine
    for point, shift in zip(points, away, strict=True):
        column, row = point + shift
        i, j = int(row), int(column)
        u, v = row - i, column - j
        value = (1 - u) * ((1 - v) * actual[i, j] + v * actual[i, j + 1]) + u * (
            (1 - v) * actual[i + 1, j] + v * actual[i + 1, j + 1]
        )
        torch.testing.assert_close(value, point, rtol=0, atol=0.05)
