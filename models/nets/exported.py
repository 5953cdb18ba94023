"""A net from a user's exported program, rebuilt from a list of known operations."""

import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast

from models.core.errors import DataError
from models.data.program_operations import ATEN, BEGIN, END, FILLS, VIEWS, operation_of
from models.data.programs import Program, Weight, read_program

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
AS_THEY_ARE = {"as_int", "as_ints", "as_bool", "as_bools", "as_string"}
# memory that nothing was written to could hold anything
WRITTEN = {
    "empty.memory_format": torch.ops.aten.zeros.default,
    "new_empty.default": torch.ops.aten.new_zeros.default,
}


def begin_autocast(device: torch.device, dtype: torch.dtype, enabled: bool) -> Any:
    """Begin a region in another precision; what :func:`end_autocast` takes."""
    return _enter_autocast(device.type, dtype, enabled, None)


def end_autocast(region: Any) -> None:
    """End the region."""
    _exit_autocast(region)


REGIONS = {BEGIN: begin_autocast, END: end_autocast}


class ExportedNet(fx.GraphModule):
    """The program's operations on a batch of images; weights are buffers."""

    size: tuple[int | None, int | None, int | None]


def load_program(path: Path, device: str) -> ExportedNet:
    """The net that an archive of ``torch.export.save`` holds, on a device.

    Raises:
        DataError: if the archive is refused, or an operation does not fit its arguments.
    """
    program = read_program(path)
    root = nn.Module()
    for index, weight in enumerate(program.weights.values()):
        root.register_buffer(f"weight_{index}", tensor_of(weight).to(device))
    graph = GraphReader(program, device).graph()
    net = ExportedNet(root, graph)
    net.size = program.size
    net.eval()
    return net


def tensor_of(weight: Weight) -> Tensor:
    """A weight of its own, from the raw bytes of its storage; zeros where there are none.

    Raises:
        DataError: if the bytes do not hold it.
    """
    if weight.dtype not in DTYPES:
        raise DataError(f"a weight is of the scalar type {weight.dtype}, which is not supported")
    dtype = DTYPES[weight.dtype]
    if 0 in weight.sizes or weight.content is None:
        return torch.zeros(weight.sizes, dtype=dtype)
    pairs = zip(weight.sizes, weight.strides, strict=True)
    last = weight.offset + sum((n - 1) * s for n, s in pairs)
    elements = max(last + 1, math.prod(weight.sizes))  # strides of 0 would make much of little
    numbers = (*weight.sizes, *weight.strides, weight.offset)
    if min(numbers) < 0 or elements * dtype.itemsize > len(weight.content):
        raise DataError("a weight is larger than its bytes: the archive is damaged")
    whole = torch.frombuffer(bytearray(weight.content), dtype=dtype)
    return whole.as_strided(weight.sizes, weight.strides, weight.offset).clone()


class GraphReader:
    """Turns the nodes of the file into those of ``torch.fx``."""

    def __init__(self, program: Program, device: str) -> None:
        self.program, self.device = program, torch.device(device)
        self.built = fx.Graph()
        self.values: dict[str, fx.Node] = {}
        self.held: set[fx.Node] = set()  # what lies in the memory of images or weights

    def graph(self) -> fx.Graph:
        """The graph, whose weights are attributes of the module that is to run it.

        Raises:
            DataError: if an operation does not fit its arguments.
        """
        try:
            self.values[self.program.image] = self._images()
            for name in self.program.weights:
                self.values[name] = self.built.get_attr(self.attribute(name))
                self.held.add(self.values[name])
            for node in self.program.nodes:
                self._add(node)
            self.built.output(self.values[self.program.output])
        except DataError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"the program's graph cannot be read: {error!r}") from error
        return self.built

    def attribute(self, name: str) -> str:
        """Where the module keeps a weight, by the name that nodes use."""
        return f"weight_{list(self.program.weights).index(name)}"

    def _images(self) -> fx.Node:
        images = self.built.placeholder("images")
        self.held.add(images)
        return images

    def _add(self, node: dict[str, Any]) -> None:
        given, name = self._given(node), operation_of(node)
        if name in REGIONS:
            args = (self.device, *given.values()) if name == BEGIN else tuple(given.values())
            self._keep(node, self.built.call_function(REGIONS[name], args))
            return
        target = target_of(node["target"])
        first = next(iter(given.values()), None)
        held = isinstance(first, fx.Node) and first in self.held
        if held and name.endswith("_") and name not in VIEWS and not self._may_write(name):
            raise self.refused_write(name)
        if node["target"].removeprefix(ATEN) in WRITTEN:
            given.pop("memory_format", None)
        args, kwargs = ordered(target, given)
        self._keep(node, self.built.call_function(target, args, kwargs))
        if held and name in VIEWS:
            self.held.update(self.values[each] for each in names_of(node["outputs"]))

    @staticmethod
    def refused_write(name: str) -> DataError:
        """What is said of an operation in place on images or weights."""
        return DataError(
            f"the net writes into its images or weights by {name}",
            hint="write y = x + 1 for x += 1 there, and export the net anew",
        )

    def _may_write(self, name: str) -> bool:
        """Whether an operation in place is let pass on images and weights."""
        return name not in FILLS

    def _given(self, node: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a node by name."""
        return {entry["name"]: self._value(entry["arg"]) for entry in node["inputs"]}

    def _keep(self, node: dict[str, Any], made: fx.Node) -> None:
        """Remember a result, or several, under the names that later nodes use."""
        outputs = node["outputs"]
        if len(outputs) == 1 and "as_tensors" not in outputs[0]:
            self.values[_name(outputs[0])] = made
            return
        several = outputs[0]["as_tensors"] if len(outputs) == 1 else outputs
        for index, output in enumerate(several):
            if output.get("as_none") is None:
                part = self.built.call_function(operator.getitem, (made, index))
                self.values[_name(output)] = part

    def _value(self, arg: dict[str, Any]) -> Any:
        """An argument: a number, a list, another node."""
        ((kind, body),) = arg.items()
        if kind in AS_THEY_ARE:
            return body
        if kind == "as_none":
            return None
        if kind in ("as_float", "as_floats"):  # infinities are words
            return float(body) if kind == "as_float" else [float(x) for x in body]
        one = {
            "as_tensor": lambda v: self.values[v["name"]],
            "as_sym_int": self._number,
            "as_sym_float": self._number,
            "as_sym_bool": self._number,
            "as_optional_tensor": self._optional,
            "as_scalar_type": lambda v: DTYPES[v],
            "as_memory_format": lambda v: FORMATS[v],
            "as_layout": lambda _: torch.strided,
            "as_device": lambda _: self.device,
        }
        if kind in one:
            return one[kind](body)
        many = {"as_tensors": "as_tensor", "as_sym_ints": "as_sym_int",
                "as_optional_tensors": "as_optional_tensor"}  # fmt: skip
        return [one[many[kind]](value) for value in body]

    def _number(self, body: dict[str, Any]) -> Any:
        ((kind, value),) = body.items()
        if kind == "as_name":
            return self.values[value]
        return float(value) if kind == "as_float" else value

    def _optional(self, body: dict[str, Any]) -> fx.Node | None:
        named = body.get("as_tensor")
        return None if named is None else self.values[named["name"]]


def names_of(outputs: list[dict[str, Any]]) -> list[str]:
    """Names of the results of a node, those of a list one by one."""
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        outputs = outputs[0]["as_tensors"]
    return [_name(output) for output in outputs if output.get("as_none") is None]


def _name(output: dict[str, Any]) -> str:
    if "name" in output:
        return output["name"]
    ((_, body),) = output.items()
    return body.get("name") or body["as_name"]


def target_of(name: str) -> Callable[..., Any]:
    """The operation of a name that :mod:`models.data.programs` let pass."""
    if name.startswith("_operator."):
        return getattr(operator, name.removeprefix("_operator."))
    name = name.removeprefix(ATEN)
    if name in WRITTEN:
        return WRITTEN[name]
    packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


def ordered(
    target: Callable[..., Any], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments as the operation's schema has them."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return tuple(given.values()), {}
    known = {argument.name for argument in schema.arguments}
    if unknown := given.keys() - known:
        raise ValueError(f"{schema.name} has no argument {sorted(unknown)}")
    plain = [a for a in schema.arguments if not a.kwarg_only]
    while plain and plain[-1].name not in given:
        plain.pop()
    args = tuple(given.get(a.name, a.default_value) for a in plain)
    words = {a.name for a in schema.arguments if a.kwarg_only} & given.keys()
    return args, {name: given[name] for name in sorted(words)}
