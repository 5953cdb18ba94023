"""What a training starts from: weights from a file, and parameters that stay as they are."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from models.core.errors import DataError, SpecError

SHOWN = 5  # names in a message


def load_weights(
    net: nn.Module, given: Mapping[str, Tensor], classes: int, source: str
) -> list[str]:
    """Copy weights into a net; a classifier of other classes keeps its fresh ones.

    Args:
        net: its parameters and buffers are changed in place.
        given: by name, in the shapes of the same architecture.
        classes: of the net; a tensor that differs in its first axis alone, where the net's is this
            number, is one of the classifier.
        source: names the weights in errors.

    Returns:
        Names of the tensors of the classifier that start anew.

    Raises:
        DataError: if names or shapes do not fit.
    """
    own = net.state_dict()
    others = [name for name in own.keys() ^ given.keys() if not _is_count(name)]
    fresh, wrong = [], []
    for name in sorted(own.keys() & given.keys()):
        shape, other = tuple(own[name].shape), tuple(given[name].shape)
        if shape != other:
            is_head = shape[1:] == other[1:] and shape[:1] == (classes,)
            (fresh if is_head else wrong).append(name)
    if others or wrong:
        told = _told(others, "in one of both") + _told(wrong, "of another shape")
        raise DataError(
            f"the weights of {source} do not fit the architecture:{told}",
            hint="check library and name of the net; a net made for one size of images needs the"
            " images.image_size that its weights were trained with",
        )
    kept = {name: x for name, x in given.items() if name in own and name not in fresh}
    net.load_state_dict(kept, strict=False)
    return fresh


def _is_count(name: str) -> bool:
    """Whether a buffer only counts batches; older files lack it."""
    return name.endswith("num_batches_tracked")


def _told(names: Iterable[str], what: str) -> str:
    names = sorted(names)
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f" {len(names)} tensors {what} ({shown})" if names else ""


def freeze(net: nn.Module, patterns: Iterable[str]) -> None:
    """Let the parameters of these names stay as they are.

    Raises:
        SpecError: if a pattern names no parameter, or nothing is left to train.
    """
    names = [name for name, _ in net.named_parameters()]
    for pattern in patterns:
        chosen = [name for name in names if fnmatchcase(name, pattern)]
        if not chosen:
            raise SpecError(
                f"model.freeze: {pattern!r} names no parameter; the first are"
                f" {', '.join(names[:SHOWN])}, the last {', '.join(names[-2:])}",
                pointer="/model/freeze",
            )
        for name in chosen:
            net.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise SpecError(
            "model.freeze leaves no parameter to train: name fewer", pointer="/model/freeze"
        )


def check_answer(net: nn.Module, channels: int, size: tuple[int, int], classes: int) -> None:
    """Refuse a net that in training gives anything but a row of logits for each image.

    Args:
        net: on any device; its state is kept.
        channels: of the images.
        size: height and width of the images in pixels.
        classes: logits of a row.

    Raises:
        SpecError: naming what it gives, or why it takes no such images.
    """
    image = torch.zeros(2, channels, *size, device=next(net.parameters()).device)
    kept = {name: x.clone() for name, x in net.named_buffers()}
    try:
        with torch.random.fork_rng([image.device] if image.is_cuda else []), torch.no_grad():
            out = net.train()(image)
    except Exception as error:  # whatever a net of another library raises
        raise SpecError(
            f"model.name: the net takes no images of {size[0]} x {size[1]} with {channels}"
            f" channels: {error}"[:600],
            hint="give another images.image_size",
            pointer="/model/name",
        ) from error
    for name, buffer in net.named_buffers():
        buffer.copy_(kept[name])
    if not isinstance(out, Tensor) or tuple(out.shape) != (2, classes):
        told = (
            f"of shape {tuple(out.shape)}"
            if isinstance(out, Tensor)
            else f"as a {type(out).__name__}"
        )
        raise SpecError(
            f"model.name: in training the net gives its answer {told}; a classifier gives"
            f" {classes} logits for each image",
            pointer="/model/name",
        )
