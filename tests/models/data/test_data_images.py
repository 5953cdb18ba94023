"""Image sets: statistics, order, augmentation keyed by the step."""

import io
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from models.core.errors import DataError, SpecError
from models.core.spec import DatasetRef, ReadOptions
from models.data import fitting, images, order, sizing, synthetic
from models.data.area import area_means
from models.data.spec import Augment, ImageOptions


@pytest.fixture(scope="module")
def data():
    train, test = (synthetic.blobs(20, 2, 8, 3, seed) for seed in (1, 2))
    return images.from_tensors(list(train), list(test), ["a", "b"], "cpu")


def test_statistics_are_numpys():
    pixels = torch.randint(0, 256, (7, 5, 6, 3), dtype=torch.uint8)
    mean, std = images.statistics(pixels)
    shares = pixels.numpy() / 255
    np.testing.assert_allclose(mean, shares.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, shares.std((0, 1, 2)), rtol=1e-12)


def test_the_size_is_height_and_width():
    parts = [[torch.zeros(3, 5, 7, 2, dtype=torch.uint8), torch.arange(3)] for _ in range(2)]
    data = images.from_tensors(*parts, ["a", "b", "c"], "cpu")
    assert (data.size, data.channels) == ((5, 7), 2)


def test_constant_channel_is_not_divided_by_zero():
    pixels = torch.full((2, 4, 4, 1), 51, dtype=torch.uint8)
    mean, std = images.statistics(pixels)
    assert std == [1.0]
    assert images.normalise(pixels, mean, std).abs().max() < 1e-6


def test_normalised_training_images_have_mean_0_and_std_1(data):
    x = images.normalise(data.train, data.mean, data.std)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_order_is_a_permutation_of_its_own():
    first, second = (order.chosen(50, 1, epoch, 0, 50) for epoch in (0, 1))
    assert sorted(first.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()
    assert torch.equal(first, order.chosen(50, 1, 0, 0, 50))


def test_batch_without_augmentation_is_the_images(data):
    chosen = torch.tensor([3, 1])
    x, labels = images.batch(data, chosen, Augment(), 0, 0)
    assert torch.equal(x, images.normalise(data.train[chosen], data.mean, data.std))
    assert torch.equal(labels, data.train_labels[chosen])


def test_augmentation_is_a_window_of_the_padded_image_or_its_mirror(data):
    """Every augmented image is one of the 25 x 2 possible ones; the draws vary and repeat."""
    chosen, seen = torch.arange(20), set()
    plain = images.normalise(torch.zeros_like(data.train[:1]), data.mean, data.std)
    padded = plain.repeat(20, 1, 2, 2)[:, :, :12, :12].clone()
    padded[:, :, 2:10, 2:10] = images.normalise(data.train, data.mean, data.std)
    x, _ = images.batch(data, chosen, Augment(crop_padding=2, flip=True), 7, 3)
    for k in range(20):
        windows = {
            (i, j, flip): padded[k, :, i : i + 8, j : j + 8].flip(-1 if flip else ())
            for i in range(5)
            for j in range(5)
            for flip in (False, True)
        }
        (actual,) = [key for key, window in windows.items() if torch.equal(window, x[k])]
        seen.add(actual)
    assert len(seen) > 10
    again, _ = images.batch(data, chosen, Augment(crop_padding=2, flip=True), 7, 3)
    other, _ = images.batch(data, chosen, Augment(crop_padding=2, flip=True), 7, 4)
    assert torch.equal(x, again)
    assert not torch.equal(x, other)


def test_crops_and_mirrors_are_drawn_evenly(data):
    """One picture 5,000 times: each of the 25 offsets, the last included, and half mirrored."""
    count, seen = 5000, Counter()
    picture = torch.arange(1, 65, dtype=torch.uint8).view(1, 8, 8, 1).expand(1, 8, 8, 3)
    one = images.from_tensors(
        [picture, torch.zeros(1).long()], [picture, torch.zeros(1).long()], ["a"], "cpu"
    )
    chosen = torch.zeros(count, dtype=torch.int64)
    x, _ = images.batch(one, chosen, Augment(crop_padding=2, flip=True), 7, 0)
    pixels = (x[:, 0] * one.std[0] + one.mean[0]).mul(255).round().long()
    for middle, beside in zip(pixels[:, 3, 3].tolist(), pixels[:, 3, 4].tolist(), strict=True):
        mirrored = beside < middle
        row, column = divmod(middle - 1, 8)
        left = column - 4 if mirrored else column - 3
        seen[row - 3, left, mirrored] += 1
    assert set(seen) == {(i, j, m) for i in range(-2, 3) for j in range(-2, 3) for m in (0, 1)}
    expected = count / 50
    chi_square = sum((n - expected) ** 2 / expected for n in seen.values())
    assert chi_square < 95  # 49 degrees of freedom: of true draws one in 10,000 is above
    unchanged, _ = images.batch(one, chosen, Augment(crop_padding=2), 7, 0)
    assert not any((unchanged[:, 0, 3, 4] < unchanged[:, 0, 3, 3]).tolist())


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_batch_on_a_gpu_is_that_of_a_cpu_and_nobody_waits(data):
    """A host that waited for a copy could not prepare a step while the GPU is in the one before."""
    augment, chosen = Augment(crop_padding=2, flip=True), torch.arange(20)
    on_gpu = images.from_tensors(
        [data.train, data.train_labels], [data.test, data.test_labels], data.classes, "cuda"
    )
    images.batch(on_gpu, chosen, augment, 7, 2)  # allocates, and keeps mean and deviation there
    torch.cuda.set_sync_debug_mode("error")
    try:
        x, labels = images.batch(on_gpu, chosen, augment, 7, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected, expected_labels = images.batch(data, chosen, augment, 7, 3)
    torch.testing.assert_close(x.cpu(), expected)
    assert torch.equal(labels.cpu(), expected_labels)


def test_resize_by_area_and_bilinear():
    pixels = torch.tensor([[0, 100], [200, 100]], dtype=torch.uint8).view(1, 2, 2, 1)
    assert sizing.resize(pixels, 1).flatten().tolist() == [100]
    grown = sizing.resize(pixels.repeat_interleave(4, 1).repeat_interleave(4, 2), 2)
    assert torch.equal(grown, pixels)
    assert sizing.resize(pixels, 6).shape == (1, 6, 6, 1)


@pytest.mark.parametrize("seed", range(12))
def test_area_means_are_those_of_torch(seed):
    """Of whole multiples and others: overlapping windows, sums of two bytes and of four."""
    rng = np.random.default_rng(seed)
    high, wide = rng.integers(1, 20, 2)
    height, width = rng.integers((high, wide), (high * 24 + 1, wide * 24 + 1))
    shape = (int(rng.integers(1, 4)), int(height), int(width), int(rng.choice([1, 3, 4])))
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    torchs = torch.nn.functional.interpolate(x, size=(int(high), int(wide)), mode="area")
    means = area_means(pixels, (int(high), int(wide)))
    assert np.array_equal(means, torchs.round().permute(0, 2, 3, 1).numpy())
    assert area_means(np.full(shape, 255, np.uint8), (int(high), int(wide))).min() == 255


@pytest.mark.parametrize("shape", [(2, 9, 9, 3), (2, 9, 14, 3), (2, 15, 9, 1), (1, 4, 400, 1)])
@pytest.mark.parametrize("size", [(8, 8), (8, 12), (20, 20)])
def test_the_central_part_of_the_asked_proportions(shape, size):
    """As large as the image allows, in its middle; squares that become squares lose nothing."""
    pixels = torch.arange(np.prod(shape) % 251, dtype=torch.uint8).repeat(np.prod(shape))
    pixels = pixels[: np.prod(shape)].view(shape)
    part = fitting.central(pixels, size)
    (h, w), (high, wide) = shape[1:3], part.shape[1:3]
    assert (high, wide) == (h, w) if h * size[1] == w * size[0] else high == h or wide == w
    assert abs(high * size[1] - wide * size[0]) <= max(size)
    top, left = (h - high) // 2, (w - wide) // 2
    assert torch.equal(part, pixels[:, top : top + high, left : left + wide])
    fitted = sizing.fitted(pixels, size, "crop")
    assert torch.equal(fitted, sizing.resize(part.contiguous(), size))
    assert torch.equal(sizing.fitted(pixels, size, "squash"), sizing.resize(pixels, size))


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_pictures_of_several_sizes_are_resized_as_they_are_read(new_run, tmp_path, fit):
    """Each becomes what :func:`sizing.fitted` makes of it alone; a uniform set is unchanged."""
    numbers = np.random.default_rng(0)
    pictures = [numbers.integers(0, 256, (8 + i, 12, 3), dtype=np.uint8) for i in range(10)]
    run = new_run()
    (run.dir / "inputs").mkdir(exist_ok=True)
    ref = DatasetRef(dataset="mine", sha256="0" * 64, read=ReadOptions(split="hold_out"))
    with zipfile.ZipFile(run.dir / "inputs" / str(ref.sha256), "w") as archive:
        for index, pixels in enumerate(pictures):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            archive.writestr(f"train/{index}.png", stream.getvalue())
            archive.writestr(f"test/{index}.png", stream.getvalue())
    data = images.load(ref, ImageOptions(image_size=8, fit=fit), run, 0)
    assert data.classes == ["test", "train"]
    assert data.train.shape == (16, 8, 8, 3)
    wanted = {
        sizing.fitted(torch.from_numpy(each)[None], 8, fit)[0].numpy().tobytes()
        for each in pictures
    }
    assert {image.numpy().tobytes() for image in torch.cat([data.train, data.test])} == wanted
    with pytest.raises(DataError, match="several sizes"):
        images.load(ref, ImageOptions(), run, 0)


def test_images_that_are_all_alike_are_refused(new_run):
    run = new_run()
    (run.dir / "inputs").mkdir(exist_ok=True)
    ref = DatasetRef(dataset="grey", sha256="0" * 64)
    parts = {"x_train": 8, "x_test": 2}
    arrays = {name: np.full((count, 8, 8, 1), 51, np.uint8) for name, count in parts.items()}
    labels = {f"y_{name[2:]}": np.arange(count) % 2 for name, count in parts.items()}
    with (run.dir / "inputs" / str(ref.sha256)).open("wb") as file:
        np.savez(file, **arrays, **labels)
    with pytest.raises(DataError, match="the 8 training images of grey are all alike"):
        images.load(ref, ImageOptions(), run, 0)


def test_digits_load(new_run):
    pytest.importorskip("sklearn", reason="extra samples is not installed")
    options = ImageOptions(subset=100, image_size=16)
    data = images.load(DatasetRef(dataset="digits"), options, new_run(), seed=1)
    assert data.train.shape == (100, 16, 16, 1)
    assert data.size == (16, 16)
    assert len(data.classes) == 10
    with pytest.raises(SpecError, match="more than the"):
        images.load(DatasetRef(dataset="digits"), ImageOptions(subset=5000), new_run(), seed=1)


def test_validation_is_of_each_class_alike_and_drawn_by_the_seed(new_run):
    """Parts of one set: nothing twice, nothing lost; each class within one image of its share."""
    ref, options = DatasetRef(dataset="digits"), ImageOptions()
    whole = images.load(ref, options, new_run(), 0)
    one, same, other = (
        images.load(ref, options, new_run(), s, lambda n: n // 10) for s in (0, 0, 1)
    )
    assert len(one.validation) == len(whole.train) // 10
    assert torch.equal(one.validation, same.validation)
    assert not torch.equal(one.validation, other.validation)
    both = torch.cat([one.train, one.validation]).flatten(1)
    assert torch.equal(both.unique(dim=0), whole.train.flatten(1).unique(dim=0))
    counts = one.validation_labels.bincount() / whole.train_labels.bincount()
    assert (counts - 0.1).abs().max() < 1 / whole.train_labels.bincount().min()
    assert torch.equal(one.test, whole.test)
