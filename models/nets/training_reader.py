"""The graph of a program with modules where training differs from use."""

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from models.core.errors import DataError
from models.data.program_operations import CHANCE, in_training, operation_of
from models.data.programs import Program
from models.nets.exported import GraphReader, names_of, ordered, target_of
from models.nets.program_modules import (
    DROP,
    Attention,
    Chance,
    Dropout,
    Norm,
    Rescale,
    admitted,
)

TURNS = ("t", "permute", "transpose")  # of a matrix they are one
COUNT = "num_batches_tracked"
NORMS = ("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm")


class TrainingReader(GraphReader):
    """Reads a program for training.

    Args:
        program: checked.
        names: of its weights in the net, by their names in the graph.
        root: holds the weights; takes the modules.
    """

    def __init__(self, program: Program, names: dict[str, str], root: nn.Module) -> None:
        super().__init__(program, "cpu")
        self.names, self.root = names, root
        self.was_training = bool(in_training(program.nodes))
        self.draws: dict[fx.Node, float] = {}
        self.turned: dict[fx.Node, fx.Node] = {}  # transposed weights to the weights
        self.folder = "operations"
        while hasattr(root, self.folder):
            self.folder += "_"
        root.add_module(self.folder, nn.ModuleList())
        self.rewrites = {
            "instance_norm": self._instance_norm,
            "scaled_dot_product_attention": self._attention,
            CHANCE: self._chance,
            "div_": self._rescale,
            "add_": self._count,
            "convolution": self._convolution,
            "addmm": self._product,
            "mm": self._product,
            **dict.fromkeys(NORMS, self._norm),
            **dict.fromkeys(DROP, self._dropout),
        }

    def graph(self) -> fx.Graph:
        """As of any program.

        Raises:
            DataError: also if the net would change its images or weights, or draws at random what
                is no stochastic depth.
        """
        graph = super().graph()
        for draw in self.draws:
            raise DataError(
                f"the program draws {draw.name} at random and does not divide by the mean: what it"
                " gives without drawing cannot be told",
                hint="export a net whose stochastic depth scales by the share it keeps",
            )
        return graph

    def attribute(self, name: str) -> str:
        """The weight's own name in the net."""
        return self.names[name]

    def _images(self) -> fx.Node:
        images = super()._images()
        self.device: Any = self.built.call_function(getattr, (images, "device"))
        images = self.built.call_function(admitted, (images, self.program.size))
        self.held.add(images)
        return images

    def _add(self, node: dict[str, Any]) -> None:
        name, given = operation_of(node), self._given(node)
        rewrite = self.rewrites.get(name)
        made = rewrite(node, given) if rewrite else None
        if made is not None:
            several = {"outputs": node["outputs"][:1]} if name in NORMS else node
            self._keep(several, made)
            return
        super()._add(node)
        weight = given.get("self")
        if name in TURNS and isinstance(weight, fx.Node) and weight.op == "get_attr":
            self.turned[self.values[names_of(node["outputs"])[0]]] = weight

    def _may_write(self, name: str) -> bool:
        """Nothing may write into images or weights: the next pass would see it."""
        return False

    def _module(self, module: nn.Module, args: tuple[Any, ...], **named: Any) -> fx.Node:
        modules = self.root.get_submodule(self.folder)
        name = str(len(modules._modules))
        modules.add_module(name, module)
        return self.built.call_module(f"{self.folder}.{name}", args, named)

    def _norm(self, _: dict[str, Any], given: dict[str, Any]) -> fx.Node | None:
        mean = given["running_mean"]
        if mean is None:
            return None  # by its batch in either mode
        rests = self.was_training and not given.get("training", False)
        count = self._count_beside(mean.target)
        args = ("input", "weight", "bias", "running_mean", "running_var")
        module = Norm(given["momentum"], given["eps"], rests=rests)
        return self._module(module, (*(given[name] for name in args), count))

    def _count_beside(self, mean: str) -> fx.Node | None:
        """The count of batches that running statistics have seen; None where there is none."""
        count = f"{mean.rpartition('.')[0]}.{COUNT}".lstrip(".")
        keys = [key for key, name in self.names.items() if name == count]
        return self.values[keys[0]] if keys else None

    def _count(self, _: dict[str, Any], given: dict[str, Any]) -> fx.Node | None:
        """The count is moved by the norm that it belongs to."""
        value = given["self"]
        is_count = isinstance(value, fx.Node) and value.op == "get_attr"
        return value if is_count and str(value.target).endswith(COUNT) else None

    def _convolution(self, _: dict[str, Any], given: dict[str, Any]) -> fx.Node | None:
        """As the layer that a program was before it was decomposed, so that it is read as one."""
        pair = len(given["stride"]) == len(given["padding"]) == 2
        if given["transposed"] or not pair:
            return None
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        return self.built.call_function(torch.conv2d, tuple(given[name] for name in names))

    def _product(self, _: dict[str, Any], given: dict[str, Any]) -> fx.Node | None:
        """The same of a linear layer: a product with a transposed weight."""
        first, weight = ("mat1", "mat2") if "mat1" in given else ("self", "mat2")
        turned = given[weight]
        if turned not in self.turned or given.keys() & {"alpha", "beta"}:
            return None
        bias = given["self"] if first == "mat1" else None
        args = (given[first], self.turned[turned], bias)
        return self.built.call_function(functional.linear, args)

    def _instance_norm(self, _: dict[str, Any], given: dict[str, Any]) -> None:
        if given["running_mean"] is not None:
            raise DataError(
                "an instance norm with running statistics cannot be trained",
                hint="export the net with track_running_stats off",
            )

    def _dropout(self, node: dict[str, Any], given: dict[str, Any]) -> fx.Node:
        return self._module(Dropout(operation_of(node), given["p"]), (given["input"],))

    def _attention(self, node: dict[str, Any], given: dict[str, Any]) -> fx.Node | None:
        if not given.get("dropout_p"):
            return None
        args, named = ordered(target_of(node["target"]), given)
        return self._module(Attention(given["dropout_p"]), args, **named)

    def _chance(self, node: dict[str, Any], given: dict[str, Any]) -> fx.Node:
        p = given.get("p", 0.5)
        if not isinstance(p, float):
            raise DataError(f"{node['target']} draws by a tensor, which is not supported")
        if given["self"] in self.held:
            raise self.refused_write(CHANCE)
        drawn = self._module(Chance(p), (given["self"],))
        self.draws[drawn] = p
        return drawn

    def _rescale(self, _: dict[str, Any], given: dict[str, Any]) -> fx.Node | None:
        """The division of draws by their mean."""
        draw = given["self"]
        if draw not in self.draws or given["other"] != self.draws[draw] or draw.users:
            return None
        self.draws.pop(draw)
        return self._module(Rescale(given["other"]), (draw,))
