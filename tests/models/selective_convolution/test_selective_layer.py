"""The unit: properties 1, 6, 8, 10 and 12 of the specification."""

import math
from copy import deepcopy

import pytest
import torch
from torch.nn import functional

from models.nets.preactivation import Unit
from models.nets.selective import unit as selective
from models.nets.selective.compact_gpu import build_layout, tabulated
from models.nets.selective.reference import sample
from models.nets.selective.unit import CompactUnit, GatedUnit, SelectiveUnit
from models.selective_convolution.export import folded
from tests.models.selective_convolution.selective_units import make_unit, reference, sampled


@pytest.fixture(autouse=True, params=["by call", "by group"])
def _both_ways(request, monkeypatch):
    """Few moved values are sampled at once, many in groups; both must hold everywhere."""
    if request.param == "by group":
        monkeypatch.setattr(selective, "FEW", 0)


def gradients(out, inputs, seed=3):
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)
    return torch.autograd.grad(out, inputs, weight)


@pytest.mark.parametrize("kind", [GatedUnit, SelectiveUnit])
@pytest.mark.parametrize("kernel", [1, 3])
def test_fresh_is_the_plain_unit(kind, kernel):
    """Property 1: output, gradients and statistics bit for bit, and no shift work."""
    torch.manual_seed(0)
    plain, unit = Unit(5, 4, kernel), kind(5, 4, kernel)
    unit.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(3, 5, 6, 7, requires_grad=True)
    a, b = plain(x), unit(x)
    assert torch.equal(a, b)
    assert "ShiftedNorm" not in str(b.grad_fn.next_functions)
    for p, q in zip(
        gradients(a, [x, *plain.parameters()]),
        gradients(b, [x, *(p for n, p in unit.named_parameters() if n != "shift")]),
        strict=True,
    ):
        assert torch.equal(p, q)
    assert torch.equal(plain.norm.running_var, unit.norm.running_var)
    assert plain.norm.num_batches_tracked == unit.norm.num_batches_tracked


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [(6, 10), (7, 5), (4, 4)])
def test_is_the_definition(training, kernel, size):
    """Sections 2 and 8.6, 8.8: shift, batch norm, ReLU, gate on the activation, convolution.

    Output, statistics and all gradients equal those of grid_sample and autograd; maps are not
    square, slots read closed and moved slots' channels.
    """
    unit = make_unit(6, 4, kernel, moved=(0, 2, 3, 5), closed=(1, 5)).train(training)
    other = deepcopy(unit)
    x = torch.randn(3, 6, *size, dtype=torch.float64, requires_grad=True)
    a, b = unit(x), reference(other, x)
    assert (selective.FEW == 0) == ("ShiftedNorm" in str(unit.activate(x).grad_fn))
    unit.load_state_dict(make_unit(6, 4, kernel, moved=(0, 2, 3, 5), closed=(1, 5)).state_dict())
    a = unit(x)
    torch.testing.assert_close(a, b)
    actual = gradients(a, [x, *unit.parameters()])
    expected = gradients(b, [x, *other.parameters()])
    for p, q in zip(actual, expected, strict=True):
        torch.testing.assert_close(p, q)
    for p, q in zip(unit.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(p, q)


def test_gradients_are_finite_differences():
    """Property 6, fourth part: all gradients, that of the shift among them, away from integers."""
    unit = make_unit(4, 3, moved=(1, 2), closed=(3,))
    names = list(dict(unit.named_parameters()))
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)

    def run(x, *parameters):
        return torch.func.functional_call(unit, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *unit.parameters()))


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -1), (-2, 3), (40, -40)])
def test_whole_shifts_index_with_edges_repeated(shift):
    """Property 6, first two parts and the last, pitfall 2: one unit is one pixel on both axes."""
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    unit = make_unit(3, 2, moved=(0, 1, 2)).eval()
    with torch.no_grad():
        unit.source.copy_(torch.tensor([2, 0, 1]))
        unit.shift.copy_(torch.tensor(shift).expand(3, 2))
    rows = (torch.arange(5) + shift[1]).clamp(0, 4)
    columns = (torch.arange(8) + shift[0]).clamp(0, 7)
    z = x[:, [2, 0, 1]][:, :, rows][..., columns]
    assert torch.equal(sample(x, unit.source, unit.shift), z)
    torch.testing.assert_close(unit.activate(x), torch.relu(unit.norm(z)))


def test_ramp_moves_by_the_shift():
    """Property 6, third part: x = w gives w + s inside."""
    ramp = torch.arange(9.0, dtype=torch.float64).expand(1, 1, 6, 9)
    z = sample(ramp, torch.tensor([0]), torch.tensor([[1.25, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(z[..., :7], ramp[..., :7] + 1.25)
    z = sample(ramp.mT, torch.tensor([0]), torch.tensor([[0.5, -0.75]], dtype=torch.float64))
    torch.testing.assert_close(z[..., 1:, :], ramp.mT[..., 1:, :] - 0.75)


def test_where_the_shift_has_no_gradient():
    """Property 6, last part: outside of the map, without a source, and with a column of zeros."""
    unit = make_unit(4, 3, moved=(0, 1, 2))
    with torch.no_grad():
        unit.shift[0] = torch.tensor([50.0, -50.0])
        unit.conv.weight[:, 1] = 0
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    (grad,) = gradients(unit(x), [unit.shift])
    assert not grad[[0, 1, 3]].any()
    assert grad[2].all()


def test_gate_in_the_weight_is_the_gate_on_the_activation():
    """Property 8: difference exactly 0."""
    unit = make_unit(5, 4, 3, closed=(1, 4))
    a = torch.randn(2, 5, 6, 6, dtype=torch.float64, requires_grad=True)
    weight, gate = unit.conv.weight, unit.gate[:, None, None]
    first = functional.conv2d(a, weight * gate, padding=1)
    second = functional.conv2d(a * gate, weight, padding=1)
    assert torch.equal(first, second)
    for p, q in zip(gradients(first, [a, weight]), gradients(second, [a, weight]), strict=True):
        assert torch.equal(p, q)


def test_state_keeps_the_allocation():
    """Property 10, first part."""
    unit = make_unit(5, 3, moved=(0, 3), closed=(2,))
    other = SelectiveUnit(5, 3, 1).double()
    other.load_state_dict(unit.state_dict(), strict=True)
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    assert torch.equal(unit.eval()(x), other.eval()(x))


@pytest.mark.parametrize("batch", [1, 3])
def test_odd_memory_and_precision(batch):
    """Property 12: channels_last and bfloat16 agree with the plain layout in float32."""
    unit = make_unit(6, 4, moved=(0, 1, 5), dtype=torch.float32)
    x = torch.randn(batch, 6, 7, 9)
    expected = unit.eval()(x)
    last = unit.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        low = unit(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.1, atol=0.15)


def test_coordinates_are_in_float32():
    """Property 12: in bfloat16, coordinate 62.3 would be 62.25, and so its fraction."""
    unit = make_unit(1, 1, moved=(0,), dtype=torch.float32).eval()
    with torch.no_grad():
        unit.shift.copy_(torch.tensor([[0.3, 0.0]]))
        unit.norm.reset_parameters()
    stripes = (torch.arange(64) % 2).expand(2, 1, 8, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        a = unit.activate(stripes)
    torch.testing.assert_close(
        a[..., 0:63:2].float(), torch.full((2, 1, 8, 32), 0.3), rtol=0.01, atol=0
    )


def test_sampling_agrees_with_grid_sample():
    """Both ways of the product and torch's, on the same slots."""
    unit = make_unit(5, 3, moved=(0, 2, 4))
    x = torch.randn(2, 5, 6, 9, dtype=torch.float64)
    expected = sampled(x, unit.source, unit.shift)
    torch.testing.assert_close(sample(x, unit.source, unit.shift), expected)


def test_the_input_stays_as_it_is():
    """Pitfall 9: what other paths read too is not written to; a NaN is not hidden by the ReLU."""
    unit = make_unit(5, 3, moved=(0, 2))
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    before = x.clone()
    unit(x)
    assert torch.equal(x, before)
    x[0, 1, 2, 3] = torch.nan
    assert unit.eval().activate(x)[0, 1, 2, 3].isnan()


def test_threads_do_not_matter():
    """Output and all gradients to the last bit, with one thread and with three."""
    x = torch.randn(4, 7, 9, 8, requires_grad=True)
    actual, usual = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        unit = make_unit(7, 3, moved=(0, 2, 3, 6), dtype=torch.float32)
        a = unit.activate(x)
        actual.append([a, *gradients(a, [x, unit.norm.weight, unit.norm.bias, unit.shift])])
    torch.set_num_threads(usual)
    if selective.FEW == 0:
        assert all(torch.equal(p, q) for p, q in zip(*actual, strict=True))


@pytest.mark.parametrize("shift", [(0.5, 0.5), (-9.0, 0.3), (0.0, 40.0), (-1.0, 1.0)])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 3)])
def test_smallest_maps(size, shift):
    """Property 12: one slot, maps of a pixel or a row, shifts beyond them."""
    unit = make_unit(1, 2, moved=(0,))
    with torch.no_grad():
        unit.shift.copy_(torch.tensor([shift]))
    other = deepcopy(unit)
    x = torch.randn(3, 1, *size, dtype=torch.float64, requires_grad=True)
    z = sample(x, other.source, other.shift)
    a, b = unit(x), functional.conv2d(torch.relu(other.norm(z)), other.conv.weight)
    torch.testing.assert_close(a, b)
    actual, expected = (gradients(y, [x, u.shift]) for y, u in ((a, unit), (b, other)))
    torch.testing.assert_close(actual[0], expected[0])


@pytest.mark.parametrize("seed", range(4))
def test_compact_unit_is_the_unit(seed):
    """Property 7, one unit: closed, moved and own slots, with gradients and without."""
    unit = make_unit(9, 4, moved=(1, 4, 6), closed=(0, 4), dtype=torch.float32, seed=seed).eval()
    state = folded(unit, whole=False)
    small = CompactUnit(9, len(state["root"]), 4, 1)
    small.load_state_dict(state)
    x = torch.randn(3, 9, 6, 10)
    with torch.no_grad():
        torch.testing.assert_close(small(x), unit(x), rtol=1e-4, atol=1e-5)
    x.requires_grad_()
    actual, expected = (gradients(u(x), [x]) for u in (small, unit))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_slots_without_a_shift_keep_their_places():
    """A slot that moves takes the place of a closed one; on a CPU nothing is laid out."""
    small = CompactUnit(5, 3, 2, 1)
    assert small.layout is None
    state = small.state_dict() | {"scale": torch.tensor([2.0, 3, 4])}
    still = build_layout(*state.values(), 5)
    assert not still.moves
    assert still.coefficients[2].tolist() == [2, 3, 4, 0, 0]
    moved = build_layout(
        *(state | {"shift": torch.tensor([[0.0, 0], [0.5, 0], [0, 0]])}).values(), 5
    )
    assert moved.moves
    assert moved.source.tolist() == [-1, 1, -1, -1, -1]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_slots_laid_out_among_the_channels_are_the_unit(kernel, whole):
    """Closed ones leave a weight of 0; two copies of a channel that do not move have two places."""
    unit = make_unit(9, 4, kernel, moved=(1, 4, 6, 7), closed=(0, 4), dtype=torch.float32).eval()
    with torch.no_grad():
        unit.source[[1, 6]], unit.shift[[1, 6]] = 3, 0.25
    layout = build_layout(*folded(unit, whole=whole).values(), 9)
    x = torch.randn(3, 9, 6, 10)
    z = sample(x, layout.source, layout.shift)
    scale, offset = (row[:, None, None] for row in layout.coefficients[2:])
    actual = functional.conv2d(torch.relu(z * scale + offset), layout.weight, padding=kernel // 2)
    unit.shift.data = unit.shift.round() if whole else unit.shift
    torch.testing.assert_close(actual, unit(x), rtol=1e-4, atol=1e-5)


def test_table_of_slots():
    """Re-used slots by plane, planes by channel; unused places hold 0."""
    table = tabulated(torch.tensor([-1, 4, 2, -1, 4]))
    slots, planes, plane_of, channels, first, flags = table[:-2].view(6, 5).tolist()
    assert slots == [2, 1, 4, 0, 0]
    assert planes == [0, 1, 1, 0, 0]
    assert plane_of == [-1, -1, 0, -1, 1]
    assert channels == [2, 4, 0, 0, 0]
    assert first == [0, 1, 0, 0, 0]
    assert flags == [0, 0, 1, 0, 1]
    assert table[-2:].tolist() == [3, 2]


@pytest.mark.parametrize("channel", [-2, 5])
def test_slots_of_no_channel_are_refused(channel):
    """A program on a GPU would read beyond the map."""
    unit, small = SelectiveUnit(5, 2, 1), CompactUnit(5, 3, 2, 1)
    with pytest.raises(ValueError, match=f"root: slot 1 reads channel {channel}"):
        small.load_state_dict(small.state_dict() | {"root": torch.tensor([0, channel, 2])})
    source = torch.tensor([-1, 0, channel, 4, 2])
    with pytest.raises(ValueError, match=f"source: slot 2 reads channel {channel}, but must be"):
        unit.load_state_dict(unit.state_dict() | {"source": source})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["x", "shift", "norm.weight", "norm.bias"])
@pytest.mark.parametrize("size", [(6, 10), (1, 1)])
def test_nan_is_seen(training, name, size):
    """A NaN in what a slot reads or is shifted by is in all outputs that the slot has a part in.

    Maps of one pixel too, where all of a shifted slot is border.
    """
    unit = make_unit(6, 4, 1, moved=(0, 2, 3, 5), closed=(1,)).train(training)
    x = torch.randn(3, 6, *size, dtype=torch.float64)
    if name == "x":
        x[:, 4] = math.nan
    else:
        dict(unit.named_parameters())[name].data[3] = math.nan
    assert unit(x.requires_grad_()).isnan().all()
