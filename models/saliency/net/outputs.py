"""What the outputs of a net mean: classes, labels each for itself, or numbers of a regression."""

import operator
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import torch
from torch import fx, nn

from models.core.errors import SpecError

ATEN = torch.ops.aten
SIGMOIDS = {ATEN.sigmoid, ATEN.sigmoid_, ATEN.hardsigmoid, ATEN.hardsigmoid_}
SOFTMAXES = {ATEN.softmax, ATEN._softmax}
# operations after which every number is still the one it was, and the rows are still rows
UNCHANGING = {
    *(ATEN.view, ATEN.reshape, ATEN.flatten, ATEN.unflatten, ATEN.squeeze, ATEN.unsqueeze),
    *(ATEN._unsafe_view, ATEN._to_copy, ATEN.to, ATEN.clone, ATEN.contiguous, ATEN.detach),
    *(ATEN.alias, ATEN.expand, ATEN.permute, ATEN.transpose, ATEN.t),
}
PICKING = {ATEN.slice, ATEN.select, ATEN.cat, ATEN.stack}  # rows of probabilities lose their sum


class Meaning(NamedTuple):
    """What the outputs of a net are.

    Attributes:
        kind: ``classes``, of which one holds; ``labels``, each by itself; ``regression``, numbers
            without a probability.
        applied: whether the net itself ends in the softmax or the sigmoid.
    """

    kind: Literal["classes", "labels", "regression"]
    applied: bool = False


def meaning_of(net: nn.Module, asked: str = "auto", score: str = "prob", count: int = 0) -> Meaning:
    """What a net's outputs mean: as asked, or by its last operation, the score and their number.

    An exported program shows its operations; of other nets the last one is known only where a
    sigmoid or a softmax is the last module of a sequence. One output of which nothing else is known
    is a number.

    Args:
        net: to explain.
        asked: ``output_type`` of the spec.
        score: of the spec.
        count: outputs for an image; 0 if unknown.
    """
    sigmoid = _ends_in(net, SIGMOIDS, (nn.Sigmoid, nn.Hardsigmoid), PICKING)
    softmax = _ends_in(net, SOFTMAXES, (nn.Softmax,), ())
    if asked == "auto":
        if sigmoid or (score == "sigmoid" and not softmax):
            return Meaning("labels", sigmoid)
        return Meaning("regression") if count == 1 else Meaning("classes", softmax)
    if asked == "regression":
        return Meaning("regression")
    if asked == "labels":
        return Meaning("labels", sigmoid)
    return Meaning("classes", softmax or asked == "probabilities")


def _ends_in(
    net: nn.Module,
    functions: Collection[Any],
    modules: tuple[type[nn.Module], ...],
    through: Collection[Any],
) -> bool:
    if isinstance(net, fx.GraphModule):
        (node,) = (each for each in net.graph.nodes if each.op == "output")
        return all(_is_one_of(each, functions, through) for each in node.all_input_nodes)
    if isinstance(net, nn.Sequential) and len(net):
        return _ends_in(net[-1], functions, modules, through)
    return isinstance(net, modules)


def _is_one_of(node: fx.Node, functions: Collection[Any], through: Collection[Any]) -> bool:
    packet = getattr(node.target, "overloadpacket", node.target)
    if packet in functions:
        return True
    passes = packet in UNCHANGING or packet in through or packet is operator.getitem
    sources = [each for each in node.all_input_nodes if each.op == "call_function"]
    tensors = [each for each in sources if not _is_size(each)]
    return passes and bool(tensors) and all(_is_one_of(e, functions, through) for e in tensors)


def _is_size(node: fx.Node) -> bool:
    return getattr(node.target, "overloadpacket", None) is ATEN.sym_size


def check_score(meaning: Meaning, score: str, count: int) -> None:
    """Refuse a score that does not fit what the net's outputs mean.

    Args:
        meaning: of the outputs.
        score: of the spec.
        count: outputs for an image.

    Raises:
        SpecError: with the scores that do fit.
    """
    if meaning.kind == "labels" and meaning.applied and score in ("sigmoid", "logprob"):
        raise SpecError(
            f"score: {score!r} of a net whose outputs are probabilities of labels already (it ends "
            "in a sigmoid)",
            hint="use score 'prob' or 'logit', which read the outputs as they are",
        )
    if meaning.kind == "classes" and score == "sigmoid":
        raise SpecError(
            "score: 'sigmoid' is the probability of a label by itself, and this net's outputs are "
            "classes of which one holds"
            + (", as probabilities already" if meaning.applied else ""),
            hint="use score 'prob', or output_type 'labels' if each output is a label by itself",
        )
    if meaning.kind == "regression" and score != "logit":
        _refuse_of_regression(score, count)
    if count == 1 and meaning.kind == "classes" and score != "logit":
        _refuse_of_regression(score, count)


def _refuse_of_regression(score: str, count: int) -> None:
    constant = {"prob": "1", "logprob": "0"}.get(score)
    if count == 1 and constant is not None:
        raise SpecError(
            f"score: {score!r} is a softmax over the outputs, and of this net's one output it is "
            f"{constant} whatever the image",
            hint="use score 'sigmoid', the probability of the one label, or 'logit', the output "
            "as it is",
        )
    raise SpecError(
        f"score: {score!r} is a probability, and the outputs of a regression have none",
        hint="use score 'logit', which reads the outputs as they are",
    )
