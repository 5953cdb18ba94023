"""RISE: its masks against the published algorithm, its estimators against algebra."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.saliency import philox
from models.saliency.methods import rise_masks
from models.saliency.methods.registry import compute_map
from models.saliency.methods.rise import Sums, estimate, rise
from models.saliency.spec.masks import Rise
from tests.models.saliency.saliency_nets import Linear, case, conv_net, noise


def part(**fields) -> Rise:
    return Rise(id="rise", **fields)


def drawn(spec: Rise, height=20, width=20, seed=0, start=0, stop=None):
    return rise_masks.draw_masks(spec, seed, torch.arange(start, stop or spec.masks), height, width)


def published_mask(cells, top, left, height, width):
    """The generator of the paper's authors, pixel by pixel, as its description says.

    Resize s x s cells to (s + 1) * ceil(H / s) pixels bilinearly with half-pixel centres, index
    -1 reading 1 and s reading s - 2, then crop at (top, left).
    """
    s = len(cells)
    sizes = [(s + 1) * math.ceil(side / s) for side in (height, width)]

    def sample(pixel, size):
        at = (pixel + 0.5) * s / size - 0.5
        low = math.floor(at)
        mirror = [abs(i) if i < s else 2 * (s - 1) - i for i in (low, low + 1)]
        return mirror, (1 - (at - low), at - low)

    mask = np.zeros((height, width))
    for i in range(height):
        rows, row_weights = sample(i + top, sizes[0])
        for j in range(width):
            columns, column_weights = sample(j + left, sizes[1])
            for row, a in zip(rows, row_weights, strict=True):
                for column, b in zip(columns, column_weights, strict=True):
                    mask[i, j] += a * b * cells[row][column]
    return mask


@pytest.mark.parametrize(("grid", "height", "width"), [(7, 20, 20), (4, 13, 18), (2, 9, 5)])
def test_masks_are_those_of_the_published_generator(grid, height, width):
    """Property 6: with the same cells and shifts, to 2e-7."""
    grids = drawn(part(masks=6, grid=grid), height, width)
    masks = rise_masks.render(grids, height, width)
    for index in range(6):
        top, left = int(grids.top[index]), int(grids.left[index])
        expected = published_mask(grids.cells[index].double().tolist(), top, left, height, width)
        np.testing.assert_allclose(masks[index].numpy(), expected, atol=2e-7, rtol=0)


def test_enlargement_agrees_with_the_resize_that_the_paper_calls():
    """The mirrored bilinear resize of scikit-image, which the authors' code uses."""
    resize = pytest.importorskip("skimage.transform").resize
    cells = (noise(7, 7) > 0).double().numpy()
    u = rise_masks.interpolation(7, 32, torch.device("cpu")).numpy()
    expected = resize(cells, (256, 256), order=1, mode="reflect", anti_aliasing=False)
    np.testing.assert_allclose(u @ cells @ u.T, expected, atol=2e-7, rtol=0)


@pytest.mark.parametrize(
    ("words", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_generator_gives_the_known_answers(words, key, expected):
    """Known answers of Philox-4x32-10 in the authors' library Random123."""
    drawn_words = philox.philox([torch.tensor([word]) for word in words], key)
    assert [int(word) for word in drawn_words] == list(expected)


def test_numbers_depend_on_index_alone_and_streams_differ():
    """Property 9: counter-based, so any batch gives the same words."""
    whole = philox.words((3, 1), philox.CELLS, torch.arange(50), 10)
    parts = [philox.words((3, 1), philox.CELLS, i, 10) for i in torch.arange(50).split(7)]
    assert torch.equal(whole, torch.cat(parts))
    other = philox.words((3, 1), philox.NOISE, torch.arange(50), 10)
    assert (whole == other).sum() == 0
    assert whole.unique().numel() == 500


@pytest.mark.parametrize("sampling", ["iid", "antithetic", "balanced"])
def test_masks_do_not_depend_on_the_batch(sampling):
    """Property 9: same bytes whatever the batch size, odd batches that split pairs included."""
    spec = part(masks=32, sampling=sampling)
    whole = rise_masks.render(drawn(spec), 20, 20)
    parts = [
        rise_masks.render(drawn(spec, start=i, stop=min(i + 5, 32)), 20, 20)
        for i in range(0, 32, 5)
    ]
    assert torch.equal(whole, torch.cat(parts))
    other = rise_masks.render(drawn(spec, seed=1), 20, 20)
    assert not torch.equal(whole, other)


@pytest.mark.parametrize("sampling", ["iid", "antithetic"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_cells_are_kept_with_probability_p(sampling, p):
    cells = drawn(part(masks=2000, p=p, sampling=sampling)).cells.double()
    assert abs(cells.mean() - p) < 5 * math.sqrt(p * (1 - p) / cells.numel())


@pytest.mark.parametrize("sampling", ["antithetic", "balanced"])
@pytest.mark.parametrize("grid", [7, 8])
def test_pairs_are_complements_at_one_half(sampling, grid):
    m = rise_masks.render(drawn(part(masks=40, grid=grid, sampling=sampling)), 20, 20)
    torch.testing.assert_close(m[::2] + m[1::2], torch.ones(20, 20, 20).double())


@given(st.floats(0.1, 0.9), st.integers(3, 9))
def test_balanced_pairs_keep_a_fixed_number_of_cells(p, grid):
    spec = part(masks=10, grid=grid, p=p, sampling="balanced")
    cells = drawn(spec).cells.flatten(1).sum(1)
    pairs = cells[::2] + cells[1::2]
    assert pairs.unique().tolist() == [round(2 * p * grid**2)]
    assert (cells[::2] - cells[1::2]).abs().max() <= 1
    assert rise_masks.density(spec) == pairs[0] / (2 * grid**2)


def test_balanced_shifts_visit_every_crop_once_in_a_cycle():
    spec = part(masks=2 * 9, grid=7, sampling="balanced")
    grids = drawn(spec, 21, 21)  # cells of 3 x 3 pixels: nine crops
    assert len({*zip(grids.top.tolist(), grids.left.tolist(), strict=True)}) == 9


def test_shifts_stay_inside_a_cell():
    grids = drawn(part(masks=500), 20, 13)
    assert sorted(grids.top.unique().tolist()) == [0, 1, 2]
    assert sorted(grids.left.unique().tolist()) == [0, 1]


def test_all_ones_masks_give_f_over_p():
    """Property 6: the raw map is f(x) / p everywhere."""
    f = torch.tensor([0.3, -2.0], dtype=torch.float64)
    ones = torch.ones(4, 5, dtype=torch.float64)
    sums = Sums(8, 8 * f, 8 * f[:, None, None] * ones, 8 * ones, 8 * ones)
    raw = estimate(sums, "raw", 0.25)
    torch.testing.assert_close(raw, (f / 0.25)[:, None, None].expand(2, 4, 5))
    assert estimate(sums, "slope", 0.25).abs().max() == 0  # no mask differs from another


@pytest.mark.parametrize("estimator", ["raw", "coverage", "centred", "slope"])
def test_estimators_are_their_definitions(estimator):
    """README, eq. 6, over all masks at once."""
    spec = part(masks=60, grid=3, p=0.4, estimator=estimator)
    x, b, net = noise(3, 9, 9), noise(3, 9, 9, seed=1), conv_net().double()
    one = case(net, x, "prob", (1, 4))
    m = rise_masks.render(drawn(spec, 9, 9), 9, 9)
    f = one.score(m[:, None] * x + (1 - m[:, None]) * b)
    product = torch.einsum("nk,nhw->khw", f, m)
    centred = torch.einsum("nk,nhw->khw", f - f.mean(0), m - m.mean(0)) / 60
    expected = {
        "raw": product / (60 * 0.4),
        "coverage": product / m.sum(0),
        "centred": centred / 0.4,
        "slope": centred / m.var(0, correction=0),
    }[estimator]
    torch.testing.assert_close(rise(spec, one, b), expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("estimator", "changes"), [("raw", True), ("centred", False), ("slope", False)]
)
def test_adding_a_constant_to_the_score(estimator, changes):
    """Property 6: it changes only the raw map."""
    w, x, b = noise(1, 3, 8, 8), noise(3, 8, 8, seed=1), torch.zeros(3, 8, 8).double()
    spec = part(masks=50, grid=4, estimator=estimator)
    first, second = (rise(spec, case(Linear(w, a), x), b) for a in (0.0, 5.0))
    assert ((first - second).abs().max() > 1) == changes
    if not changes:
        torch.testing.assert_close(first, second, atol=1e-9, rtol=0)


def test_slope_finds_the_coefficients_of_a_score_linear_in_the_mask():
    """Property 6: with distant cells, the slope at a cell's centre is that cell's coefficient."""
    size, grid = 12, 4
    x = noise(1, size, size)
    w = torch.zeros(1, 1, size, size, dtype=torch.float64)
    w[0, 0, 4, 4] = 1.0
    spec = part(masks=4000, grid=grid, estimator="slope", sampling="antithetic")
    slope = rise(spec, case(Linear(w), x, chunk=500), torch.zeros_like(x))[0]
    assert abs(slope[4, 4] - x[0, 4, 4]) < 1e-9  # the score is exactly x m at that pixel
    far = torch.cat([slope[9:, 9:].ravel(), slope[9:, :2].ravel()])
    assert far.abs().max() < 0.15 * abs(x[0, 4, 4])


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_chunk_size_does_not_matter(chunk):
    """Property 8: within 1e-5 in float32."""
    x, b, net = noise(3, 16, 16, dtype=torch.float32), torch.zeros(3, 16, 16), conv_net()
    spec = part(masks=64, grid=4, estimator="slope")
    actual, expected = (
        compute_map(spec, case(net, x, "prob", (0, 2), size), b) for size in (chunk, 16)
    )
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    compute_map(part(masks=10), case(conv_net(), noise(3, 8, 8)), torch.zeros(3, 8, 8).double())
    assert torch.equal(before, torch.get_rng_state())


def test_early_stop_draws_more_masks_for_a_higher_correlation():
    """The masks drawn are the first of the same sequence, so the map is that of fewer masks."""
    net, x = conv_net(), noise(3, 24, 24)
    one, used, maps = case(net, x), [], []
    for correlation in (0.2, 0.6, 0.999999):
        stop = {"spearman": correlation, "min_masks": 32}
        part = Rise(id="rise", masks=2000, grid=3, estimator="slope", early_stop=stop)
        maps.append(compute_map(part, one, torch.zeros_like(x)))
        used.append(one.reported["masks_used"])
    assert used[0] <= used[1] < used[2] == 2000
    plain = Rise(id="rise", masks=used[1], grid=3, estimator="slope")
    torch.testing.assert_close(
        maps[1], compute_map(plain, one, torch.zeros_like(x)), atol=1e-9, rtol=0
    )


def test_early_stop_beyond_the_masks_is_refused():
    with pytest.raises(ValueError, match="more than masks 40"):
        Rise(id="rise", masks=40, early_stop={"spearman": 0.5, "min_masks": 64})


def test_the_map_does_not_depend_on_the_batch_size():
    """Property 9: sums run over the same groups of masks whatever the batch size."""
    net, x = conv_net(), noise(3, 24, 24)
    part = Rise(id="rise", masks=100, grid=3, estimator="slope")
    maps = [
        compute_map(part, case(net, x, chunk=chunk), torch.zeros_like(x)) for chunk in (1, 5, 64)
    ]
    for other in maps[1:]:
        torch.testing.assert_close(maps[0], other, atol=1e-12, rtol=1e-12)
