"""Random parts, erased rectangles, mixed images: in their ranges, and the same when repeated."""

import numpy as np
import pytest
import torch

from models.data import augment
from models.data.augment import CropKey, crop_box
from models.data.spec import Augment


def test_random_parts_have_areas_and_proportions_within_their_ranges():
    boxes = [crop_box(CropKey(1, 2, k, 0.1), 375, 500) for k in range(2000)]
    shares = np.array([box.height * box.width for box in boxes]) / (375 * 500)
    ratios = np.array([box.width / box.height for box in boxes])
    assert 0.095 < shares.min() < 0.13
    assert shares.max() <= 1
    assert 0.74 < ratios.min() < 0.77
    assert 1.3 < ratios.max() < 1.35
    assert all(0 <= b.top <= 375 - b.height and 0 <= b.left <= 500 - b.width for b in boxes)
    assert abs(np.log(ratios).mean()) < 0.03


def test_where_no_part_fits_it_is_the_largest_central_one():
    assert crop_box(CropKey(0, 0, 0, 1.0), 100, 1000) == (0, 433, 100, 133)


def test_a_random_part_depends_on_its_key_alone():
    keys = [CropKey(*key, 0.2) for key in ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4))]
    boxes = [crop_box(key, 64, 64) for key in keys]
    assert len(set(boxes)) == 4
    assert crop_box(keys[0], 64, 64) == boxes[0]


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_erased_rectangles(probability):
    x = augment.erased(torch.ones(400, 3, 32, 32), probability, 1, 2)
    gone = (x == 0).float().mean((1, 2, 3))
    assert (gone > 0).float().mean().item() == pytest.approx(probability, abs=0.08)
    some = gone[gone > 0]
    assert all((some > 0.01) & (some < 0.36))
    assert torch.equal((x == 0).any(1), (x == 0).all(1))


def shares_of(labels):
    return torch.nn.functional.one_hot(torch.tensor(labels), 4).float()


def test_mixup_weighs_images_and_labels_alike():
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 3, 3)
    mixed, shares = augment.mixed(x, shares_of([0, 1, 2, 3]), Augment(mixup=1.0), 0, 5)
    kept = shares[0, 0].item()
    assert 0 < kept < 1
    torch.testing.assert_close(mixed[0, 0], torch.full((3, 3), 3 * (1 - kept)))
    torch.testing.assert_close(shares.sum(1), torch.ones(4))


def test_cutmix_gives_labels_by_area():
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 20, 30)
    for step in range(20):
        mixed, shares = augment.mixed(x, shares_of([0, 1, 2, 3]), Augment(cutmix=1.0), 0, step)
        assert (mixed[0] == 3).float().mean().item() == pytest.approx(shares[0, 3].item(), abs=1e-6)
        assert set(mixed[0].unique().tolist()) <= {0.0, 3.0}


def test_both_take_turns_at_random():
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 20, 30)
    both = Augment(mixup=1.0, cutmix=1.0)
    blended = [
        len(augment.mixed(x, shares_of([0, 1, 2, 3]), both, 0, step)[0][0].unique()) == 1
        for step in range(60)
    ]
    assert 15 < sum(blended) < 45
