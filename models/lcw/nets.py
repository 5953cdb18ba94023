"""Encoder, decoder and latent generator as plain sequences, in the shapes of the authors' code.

Images are float32 in [0, 1], NCHW. Batches need two rows in training mode (batch norm).
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.lcw.fields import Architecture, GeneratorShape


class Half(nn.Module):
    """Maps [-1, 1] to [0, 1]."""

    def forward(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return (x + 1) / 2


class Affine(nn.Module):
    """shift + scale x, not trained: the spread of the latents that a generator is to match.

    Without it the last layer of the generator has to grow to that spread first, which for the
    latents of a plain autoencoder (ten times a normal's) takes more steps than all the rest.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(dim))

    def fit(self, target: Float[Tensor, "n d"]) -> None:
        """Take the mean of a target and its one standard deviation over all elements."""
        self.scale.copy_(target.std())
        self.shift.copy_(target.mean(0))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return self.shift + self.scale * x


class Nets(NamedTuple):
    """Image to latent, latent to image, noise to latent."""

    encoder: nn.Module
    decoder: nn.Module
    generator: nn.Module

    def whole(self) -> nn.Sequential:
        """Noise to image, layer by layer."""
        return nn.Sequential(*self.generator.children(), *self.decoder.children())


class ImageShape(NamedTuple):
    """Of an image."""

    channels: int
    side: int


def build(arch: Architecture, shape: ImageShape) -> Nets:
    """Nets with fresh weights from torch's global stream; ``arch`` must be resolved."""
    make = _convolutional if arch.preset == "conv" else _dense
    encoder, decoder = make(arch, shape)
    return Nets(encoder, decoder, latent_generator(arch.inputs, arch.latent_dim, arch.generator))


def latent_generator(noise: int, latent: int, shape: GeneratorShape) -> nn.Sequential:
    """Blocks of Linear with bias, batch norm, ReLU, then Linear to the latent, in its units."""
    layers: list[nn.Module] = []
    for inputs in [noise] + [shape.width] * (shape.depth - 1):
        layers += [nn.Linear(inputs, shape.width), nn.BatchNorm1d(shape.width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(shape.width, latent), Affine(latent))


def _dense(arch: Architecture, shape: ImageShape) -> tuple[nn.Sequential, nn.Sequential]:
    width, pixels = int(arch.width or 0), shape.channels * shape.side**2
    encoder = nn.Sequential(
        nn.Flatten(),
        *_block(pixels, width),
        *_block(width, width),
        *_block(width, width),
        nn.Linear(width, arch.latent_dim),
    )
    decoder = nn.Sequential(
        *_block(arch.latent_dim, width),
        *_block(width, width),
        *_block(width, width),
        nn.Linear(width, pixels),
        nn.Sigmoid(),
        nn.Unflatten(1, (shape.channels, shape.side, shape.side)),
    )
    return encoder, decoder


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]


def _convolutional(arch: Architecture, shape: ImageShape) -> tuple[nn.Sequential, nn.Sequential]:
    """Each convolution halves the side; the decoder begins at twice the encoder's last side."""
    widths = [int(arch.width or 0) * 2**k for k in range(arch.depth)]
    last, small = widths[-1], shape.side // 2**arch.depth
    layers: list[nn.Module] = []
    for inputs, outputs in zip([shape.channels, *widths], widths, strict=False):
        layers += _down(inputs, outputs)
    encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(last * small**2, arch.latent_dim))
    begin = 2 * small
    layers = [nn.Linear(arch.latent_dim, last * begin**2), nn.ReLU()]
    layers.append(nn.Unflatten(1, (last, begin, begin)))
    for inputs, outputs in zip(widths[::-1], widths[-2::-1], strict=False):
        layers += _up(inputs, outputs)
    out = nn.ConvTranspose2d(widths[0], shape.channels, 3, 1, 1)
    return encoder, nn.Sequential(*layers, out, nn.Tanh(), Half())


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


@torch.no_grad()
def in_parts(
    net: nn.Module, rows: Float[Tensor, "n *rest"], size: int = 1024
) -> Float[Tensor, "n *out"]:
    """A net in evaluation mode over many rows; its mode is kept."""
    training = net.training
    net.eval()
    outputs = torch.cat([net(part) for part in rows.split(size)])
    net.train(training)
    return outputs


def describe(arch: Architecture, shape: ImageShape) -> dict[str, Any]:
    """What a file must tell to rebuild the nets."""
    return {"arch": arch.model_dump(), "image": shape._asdict()}
