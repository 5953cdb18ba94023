"""The unit whose slots choose their channel (Jeong and Shin, ICML 2019), and its compact form."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from models.nets.preactivation import Unit
from models.nets.selective import compact_gpu, conv_gpu, norm_gpu
from models.nets.selective.compact_gpu import CompactLayout
from models.nets.selective.norm_cpu import TYPES, ShiftedNorm, gather
from models.nets.selective.reference import sample

EPS = 1e-12  # nothing beside a variance of 1 in float32; torch 2.11 refuses 0 on a GPU
PIECE_BYTES = 2**21  # of input that a compact unit takes through all its steps at once
FEW = 2**16  # values of moved slots below which the number of calls decides, not memory


class GatedUnit(Unit):
    """conv(m ReLU(BN(x))): a slot whose ``gate`` m_c is 0 is closed.

    The gate is multiplied into the weight: the same output and gradients as on the activation,
    and no further map is kept.

    Args:
        c_in: slots, one an input channel.
        c_out: output channels.
        kernel: side of the filters, odd.
        dropout: probability of dropping a value of the activation.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__(c_in, c_out, kernel, dropout=dropout)
        self.gate: Tensor
        self.register_buffer("gate", torch.ones(c_in))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        return self.convolve(self.activate(x), self.conv.weight * self.gate[:, None, None])

    def activate(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """ReLU(BN(z)) of the slots z."""
        return functional.relu_(self.norm(x))


class SelectiveUnit(GatedUnit):
    """A gated unit whose slot c reads channel c, or channel p_c shifted by s_c pixels.

    ``source`` p [c] is -1 for the slot's own channel; ``shift`` s [c, 2] is along the width, then
    along the height. Fresh, it is the plain unit, bit for bit.

    Args:
        c_in: slots, one an input channel.
        c_out: output channels.
        kernel: side of the filters, odd.
        dropout: probability of dropping a value of the activation.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__(c_in, c_out, kernel, dropout)
        self.shift = nn.Parameter(torch.zeros(c_in, 2))
        self.source: Tensor
        self.register_buffer("source", torch.full((c_in,), -1))
        self.register_load_state_dict_post_hook(_check)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        weight = self.conv.weight
        whole = weight.shape[-1] == 1 and not self.dropout
        if whole and conv_gpu.fits(x, len(weight)):
            gated = weight * self.gate[:, None, None]
            return conv_gpu.shifted_conv(x, self.norm, gated, self.shift, self.source)
        return super().forward(x)

    def activate(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """ReLU(BN(z)) of the slots z."""
        norm = self.norm
        if norm_gpu.fits(x):
            return norm_gpu.shifted_norm(x, norm, self.shift, self.source)
        if x.is_cuda or torch.compiler.is_compiling():  # nothing here waits for the device
            return functional.relu_(norm(sample(x, self.source, self.shift)))
        slots = (self.source >= 0).nonzero().flatten()
        if len(slots) == 0:
            return functional.relu_(norm(x))
        if len(slots) * x[:, 0].numel() < FEW or x.dtype not in TYPES:
            moved = sample(x, self.source[slots], self.shift[slots])
            return functional.relu_(norm(x.index_copy(1, slots, moved.to(x.dtype))))
        if norm.training:
            norm.num_batches_tracked.add_(1)  # ty: ignore[missing-union-attribute]  # a buffer
        stats = (norm.running_mean, norm.running_var, norm.training, norm.momentum, norm.eps)
        return ShiftedNorm.apply(x, norm.weight, norm.bias, self.shift, self.source, *stats)


class CompactUnit(nn.Module):
    """A selective unit for inference: open slots alone, batch norm folded to scale and offset.

    Args:
        c_in: channels of the input, no fewer than slots.
        slots: open ones.
        c_out: output channels.
        kernel: side of the filters.
    """

    def __init__(self, c_in: int, slots: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.root: Int64[Tensor, slots]
        self.shift: Float[Tensor, "slots 2"]
        self.scale: Float[Tensor, slots]
        self.offset: Float[Tensor, slots]
        self.weight: Float[Tensor, "o slots k k"]
        self.register_buffer("root", torch.arange(slots))  # channel it reads
        self.register_buffer("shift", torch.zeros(slots, 2))
        self.register_buffer("scale", torch.ones(slots))
        self.register_buffer("offset", torch.zeros(slots))
        self.register_buffer("weight", torch.zeros(c_out, slots, kernel, kernel))
        self.channels = c_in
        self.layout: CompactLayout | None = None
        self.prepare()
        self.register_load_state_dict_post_hook(_prepare)

    def prepare(self) -> None:
        """On a GPU, lay the slots out among all channels, as the programs there read them.

        Raises:
            ValueError: if a slot reads a channel that the input has not.
        """
        refuse_others("root", self.root, 0, self.channels)
        slots = (self.root, self.shift, self.scale, self.offset, self.weight)
        self.layout = compact_gpu.build_layout(*slots, self.channels) if self.root.is_cuda else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CompactUnit":
        """What moves or converts the unit; the slots are laid out anew."""
        super()._apply(fn, recurse)
        self.prepare()
        return self

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        layout = self.layout
        if layout and norm_gpu.fits(x) and not (torch.is_grad_enabled() and x.requires_grad):
            return self._on_gpu(x, layout)
        own = (self.root, self.shift, self.scale, self.offset)
        if x.is_cuda or torch.compiler.is_compiling() or x.requires_grad or x.dtype not in TYPES:
            return self._convolve(self._activate(sample(x, self.root, self.shift)))
        pieces = x.split(max(1, PIECE_BYTES * len(x) // max(1, x.numel() * x.element_size())))
        return torch.cat([self._convolve(gather(piece, *own)) for piece in pieces])

    def _on_gpu(
        self, x: Float[Tensor, "b c h w"], layout: CompactLayout
    ) -> Float[Tensor, "b o h w"]:
        """By programs that find each slot among all channels: nothing is gathered."""
        if self.weight.shape[-1] == 1 and conv_gpu.fits(x, len(self.weight)):
            return compact_gpu.compact_conv(x, layout)
        a = compact_gpu.compact_norm(x, layout)
        return functional.conv2d(a, layout.weight, padding=self.weight.shape[-1] // 2)

    def _activate(self, z: Float[Tensor, "b slots h w"]) -> Float[Tensor, "b slots h w"]:
        mean, var = torch.zeros_like(self.scale), torch.ones_like(self.scale)
        return functional.batch_norm(z, mean, var, self.scale, self.offset, eps=EPS).relu_()

    def _convolve(self, a: Float[Tensor, "b slots h w"]) -> Float[Tensor, "b o h w"]:
        return functional.conv2d(a, self.weight, padding=self.weight.shape[-1] // 2)


def refuse_others(field: str, read: Int64[Tensor, "s"], lowest: int, channels: int) -> None:
    """Refuse slots that read no channel: a program on a GPU would read beyond the map.

    Args:
        field: name of the tensor, for the message.
        read: channel that each slot reads.
        lowest: allowed number: -1 where it means the own channel.
        channels: of the input.

    Raises:
        ValueError: if a number is not from ``lowest`` to the last of the channels.
    """
    wrong = ((read < lowest) | (read >= channels)).nonzero().flatten()
    if len(wrong):
        slot = int(wrong[0])
        raise ValueError(
            f"{field}: slot {slot} reads channel {int(read[slot])}, but must be from {lowest} to"
            f" {channels - 1}, the last of the input; take the file of the training as it was left"
        )


def _check(unit: SelectiveUnit, _: object) -> None:
    refuse_others("source", unit.source, -1, len(unit.source))


def _prepare(unit: CompactUnit, _: object) -> None:
    unit.prepare()
