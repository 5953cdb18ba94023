"""Small nets and their exported programs."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim


class Residual(nn.Module):
    """A small net with all that differs in training: norms, dropout, depth, attention, ties.

    Args:
        classes: logits.
        channels: of the images.
    """

    def __init__(self, classes: int = 4, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.down = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.down.bias.requires_grad_(False)
        self.norm2 = nn.BatchNorm2d(16)
        self.attend = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
        self.first = nn.Linear(16, 16, bias=False)
        self.second = nn.Linear(16, 16, bias=False)
        self.second.weight = self.first.weight
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(images)))
        y = self.norm2(self.down(x))
        if self.training:
            kept = y.new_empty((y.shape[0], 1, 1, 1)).bernoulli_(0.8)
            y = y * kept.div_(0.8)
        x = (x[:, :, ::2, ::2] + y).relu_().flatten(2).transpose(1, 2)
        x = x + self.attend(x, x, x, need_weights=False)[0]
        x = self.second(torch.relu(self.first(x))).mean(1)
        return self.head(self.drop(x))


def exported(
    net: nn.Module, path: Path, size: int = 16, *, channels: int = 1, open_sides: bool = True
) -> Path:
    """Write a net in the mode that it is in, as users do.

    Args:
        net: takes images of any size, or of this one.
        path: of the file.
        size: height and width of the images in pixels.
        channels: of the images.
        open_sides: whether height and width stay open.
    """
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    axes = (0, 2, 3) if open_sides else (0,)
    shapes = (dict.fromkeys(axes, Dim.DYNAMIC),)
    program = torch.export.export(net, (images,), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path
