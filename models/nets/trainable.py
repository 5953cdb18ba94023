"""A net to train from a user's exported program: the same losses as the net it was exported from.

Its parameters have their own names, those that were tied are one, and what differs between training
and use are modules with a mode (``program_modules.py``), whichever mode it was exported in.
"""

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import fx, nn

from models.core.errors import DataError, SpecError
from models.data.program_operations import ATEN, in_training
from models.data.programs import Program, Weight, from_text, read_program, to_text
from models.nets.exported import tensor_of
from models.nets.training_reader import TrainingReader

NET = "program"  # name of such a net in files
LINEAR = f"{ATEN}linear.default"
PART = re.compile(r"[A-Za-z0-9_]{1,200}")  # of a dotted name; others could be code to torch.fx


class TrainableProgram(fx.GraphModule):
    """A program as a net with parameters, buffers and a mode.

    Attributes:
        architecture: what a file tells of it, so that :func:`from_architecture` makes it again.
        was_training: whether it was exported in training mode.
        fresh: names of the parameters of its classifier that do not come from the program.
    """

    architecture: dict[str, Any]
    was_training: bool
    fresh: list[str]


def load_trainable(path: Path, classes: int) -> TrainableProgram:
    """The net of an archive of ``torch.export.save``, on the CPU.

    Args:
        path: of the archive.
        classes: logits that it is to give; a last linear layer of others starts anew, from torch's
            global stream.

    Raises:
        DataError: if the archive is refused.
        SpecError: if its answer is of other classes and no linear layer gives it.
    """
    program, fresh = with_classes(read_program(path, training=True), classes)
    net = build(program)
    for name in fresh:  # as nn.Linear does: the first is the weight
        bound = net.get_parameter(fresh[0]).shape[1] ** -0.5
        nn.init.uniform_(net.get_parameter(name), -bound, bound)
    net.fresh = fresh
    return net


def from_architecture(about: Mapping[str, Any]) -> TrainableProgram:
    """The net of a description, with zeros for its weights.

    Raises:
        DataError: if it is damaged.
    """
    return build(from_text(about["graph"]))


def with_classes(program: Program, classes: int) -> tuple[Program, list[str]]:
    """A program of so many outputs, and the names of the parameters that are of another shape.

    Raises:
        SpecError: if it gives others, and not by a linear layer whose weights nothing else uses.
    """
    if program.outputs in (None, classes):  # a trial tells what an open number comes to
        return program, []
    head = _head(program)
    if not head:
        raise SpecError(
            f"model: the program gives {program.outputs} numbers for an image, and the data has"
            f" {classes} classes",
            hint="export a net whose last layer is linear, which then starts anew, or one of so"
            " many outputs",
            pointer="/model/dataset",
        )
    resized = {
        key: _contiguous(program.weights[key], [classes, *program.weights[key].sizes[1:]])
        for key in head
    }
    changed = program._replace(weights=program.weights | resized, outputs=classes)
    return changed, [weight.name for weight in resized.values()]


def _contiguous(weight: Weight, sizes: list[int]) -> Weight:
    strides = [sizes[1], 1] if len(sizes) == 2 else [1]
    return weight._replace(content=None, sizes=sizes, strides=strides, offset=0)


def _head(program: Program) -> list[str]:
    """Weight and bias of the linear layer that gives the answer; none if others use them too."""
    for node in reversed(program.nodes):
        if {"as_tensor": {"name": program.output}} in node["outputs"]:
            named = [_tensor_name(each["arg"]) for each in node["inputs"]]
            keys = [name for name in named[1:] if name in program.weights]
            uses = [_tensor_name(x["arg"]) for each in program.nodes for x in each["inputs"]]
            names = [weight.storage for weight in program.weights.values()]
            alone = all(
                uses.count(key) == 1 and names.count(program.weights[key].storage) == 1
                for key in keys
            )
            return keys if node["target"] == LINEAR and alone else []
    return []


def _tensor_name(arg: dict[str, Any]) -> str | None:
    return arg["as_tensor"]["name"] if "as_tensor" in arg else None


def build(program: Program) -> TrainableProgram:
    """The net of a program, on the CPU; it runs wherever its weights and images are.

    Raises:
        DataError: if its graph or its weights cannot be trained.
    """
    names, root = _names(program.weights), nn.Module()
    for key in dict.fromkeys(names.values()):
        _put(root, program.weights[key])
    attributes = {key: program.weights[first].name for key, first in names.items()}
    graph = TrainingReader(program, attributes, root).graph()
    net = TrainableProgram(root, graph)
    net.architecture = {"name": NET, "graph": to_text(program)}
    net.was_training, net.fresh = bool(in_training(program.nodes)), []
    return net


def _names(weights: dict[str, Weight]) -> dict[str, str]:
    """Each name in the graph to the first of those that are tied to it.

    Raises:
        DataError: if two share memory in part.
    """
    first: dict[tuple[Any, ...], str] = {}
    names = {}
    for key, weight in weights.items():
        form = weight.storage, weight.offset, *weight.sizes, *weight.strides
        names[key] = first.setdefault(form, key)
    apart = [weights[key] for key in first.values()]
    for a, b in combinations(sorted(apart, key=lambda x: (x.storage, x.offset)), 2):
        if a.storage == b.storage and b.offset <= _last(a):
            raise DataError(
                f"weights {a.name!r} and {b.name!r} of the program share memory in part, so that"
                " training one would change the other",
                hint="export the net with weights of their own, or wholly tied ones",
            )
    return names


def _last(weight: Weight) -> int:
    """Place of the last element in its storage; before the first of all where there is none."""
    if 0 in weight.sizes:
        return -1
    pairs = zip(weight.sizes, weight.strides, strict=True)
    return weight.offset + sum((n - 1) * s for n, s in pairs)


def _put(root: nn.Module, weight: Weight) -> None:
    """Give a weight its place in the net, by its dotted name."""
    *path, leaf = weight.name.split(".")
    if not all(map(PART.fullmatch, (*path, leaf))) or hasattr(_EMPTY, (*path, leaf)[0]):
        raise DataError(
            f"a weight of the program is called {weight.name!r}, which torch.fx cannot name",
            hint="rename that part of the net and export it anew",
        )
    module = root
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    tensor = tensor_of(weight)
    if weight.is_parameter and tensor.is_floating_point():
        module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=weight.trained))
    else:
        module.register_buffer(leaf, tensor)


_EMPTY = fx.GraphModule(nn.Module(), fx.Graph())  # whose attributes no part may be called
