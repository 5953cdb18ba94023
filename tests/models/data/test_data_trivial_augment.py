"""TrivialAugment: each change is that of torchvision, draws are keyed, strengths spread."""

import numpy as np
import pytest
import torch

from models.data import augment, images
from models.data.spec import Augment
from models.data.trivial_augment import BLEND, CHANGES, SHIFT, TURN, Draw, changed, draw
from tests.models.nets.libraries import library

NAMES = list(CHANGES)


def pictures(count=2, size=28, channels=3):
    """Smooth patterns of all brightnesses with some noise."""
    numbers = torch.Generator().manual_seed(4)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    waves = torch.stack([(x * (k + 1) + y * 3) % 200 for k in range(channels)], -1)
    noise = torch.randint(0, 56, (count, size, size, channels), generator=numbers)
    return (waves + noise).to(torch.uint8)


def theirs(name, x, v):
    """The change that torchvision makes of images [b, c, i, j]."""
    f = library("torchvision.transforms.functional")
    factor = 1 + BLEND * v
    return {
        "turn": lambda: f.rotate(x, TURN * v),
        "shift_x": lambda: f.affine(x, 0.0, [round(-v * SHIFT * x.shape[3]), 0], 1.0, [0.0, 0.0]),
        "brightness": lambda: f.adjust_brightness(x, factor),
        "colour": lambda: f.adjust_saturation(x, factor),
        "contrast": lambda: f.adjust_contrast(x, factor),
        "sharpness": lambda: f.adjust_sharpness(x, factor),
        "posterize": lambda: f.posterize(x, 8 - round(6 * abs(v))),
        "solarize": lambda: f.solarize(x, 255 * (1 - abs(v))),
        "auto_contrast": lambda: f.autocontrast(x),
        "equalize": lambda: f.equalize(x),
    }[name]()


@pytest.mark.parametrize("v", [-0.6, 0.5])
@pytest.mark.parametrize(
    "name",
    sorted(set(NAMES) - {"identity", "shear_x", "shear_y", "shift_y"}),
)
def test_changes_are_those_of_torchvision(name, v):
    """To a level of 255; of turned images some pixels are rounded to their other neighbour."""
    x = pictures()
    ours = changed(x, [Draw(NAMES.index(name), v)] * 2).permute(0, 3, 1, 2).int()
    other = theirs(name, x.permute(0, 3, 1, 2), v).int()
    apart = ((ours - other).abs() > 1).float().mean().item()
    assert apart <= (0.02 if name == "turn" else 0)
    assert not torch.equal(ours, x.permute(0, 3, 1, 2).int())


def test_shears_move_rows_and_columns_by_their_distance():
    x = torch.zeros(1, 9, 9, 1, dtype=torch.uint8)
    x[0, :, 4] = 200
    (moved,) = changed(x, [Draw(NAMES.index("shear_x"), 1.0)])[..., 0]
    assert [int(row.argmax()) for row in moved[:4]] == [4, 3, 2, 1]
    turned = changed(x.transpose(1, 2), [Draw(NAMES.index("shear_y"), 1.0)])
    assert torch.equal(turned.transpose(1, 2)[0, ..., 0], moved)
    down = changed(x.transpose(1, 2), [Draw(NAMES.index("shift_y"), 1.0)])
    assert int(down[0, :, 0, 0].argmax()) == 4 - round(9 * SHIFT)


@pytest.mark.parametrize("channels", [1, 2])
def test_other_channels_and_even_images(channels):
    flat = torch.full((len(NAMES), 6, 6, channels), 77, dtype=torch.uint8)
    out = changed(flat, [Draw(k, 0.0) for k in range(len(NAMES))])
    assert torch.equal(out, flat)
    assert changed(flat, [Draw(k, -1.0) for k in range(len(NAMES))]).dtype == torch.uint8


def test_each_change_and_strength_is_alike_likely():
    draws = [draw(np.random.default_rng(k)) for k in range(6000)]
    counts = np.bincount([each.change for each in draws], minlength=len(NAMES))
    assert len(NAMES) == 14
    assert counts.min() > 330
    assert counts.max() < 530
    assert len({each.strength for each in draws}) == 61
    assert abs(np.mean([each.strength for each in draws])) < 0.03


def test_a_batch_depends_on_seed_step_and_position_alone():
    """Of several batches at once each image is what its own batch makes of it."""
    x = pictures(8)
    data = images.from_tensors(
        [x, torch.arange(8) % 2], [x, torch.arange(8) % 2], ["a", "b"], "cpu"
    )
    how, chosen = Augment(trivial=True, flip=True), [torch.arange(4), torch.arange(4, 8)]
    both = images.batches(data, chosen, how, 3, [5, 6])[0]
    for part, step, at in zip(chosen, (5, 6), (slice(0, 4), slice(4, 8)), strict=True):
        assert torch.equal(images.batch(data, part, how, 3, step)[0], both[at])
    assert not torch.equal(images.batch(data, chosen[0], how, 3, 6)[0], both[:4])
    same = augment.trivially_changed(x, 3, 5)
    assert torch.equal(same, augment.trivially_changed(x, 3, 5))
    assert not torch.equal(same, augment.trivially_changed(x, 4, 5))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("change", range(len(CHANGES)))
def test_the_smallest_images_change_too(change, size):
    for v in (-1.0, 0.0, 1.0):
        x = pictures(size=size)
        assert changed(x, [Draw(change, v)] * 2).shape == x.shape
