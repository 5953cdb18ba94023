"""What the outputs of a net mean: scores of classes, or of labels each for itself."""

import operator

import torch
from torch import fx, nn

from models.core.errors import SpecError

ATEN = torch.ops.aten
SIGMOIDS = {ATEN.sigmoid, ATEN.sigmoid_, ATEN.hardsigmoid, ATEN.hardsigmoid_}
# operations after which every number is still the one it was
UNCHANGING = {
    *(ATEN.view, ATEN.reshape, ATEN.flatten, ATEN.unflatten, ATEN.squeeze, ATEN.unsqueeze),
    *(ATEN._unsafe_view, ATEN._to_copy, ATEN.to, ATEN.clone, ATEN.contiguous, ATEN.detach),
    *(ATEN.alias, ATEN.expand, ATEN.permute, ATEN.transpose, ATEN.t, ATEN.slice, ATEN.select),
    *(ATEN.cat, ATEN.stack),
}


def ends_in_sigmoid(net: nn.Module) -> bool:
    """Whether every output of a net is a probability for itself, by the last operation.

    An exported program shows its operations; of other nets this is known only where a sigmoid is
    the last module of a sequence.
    """
    if isinstance(net, fx.GraphModule):
        (node,) = (each for each in net.graph.nodes if each.op == "output")
        return all(map(_is_sigmoid, node.all_input_nodes))
    if isinstance(net, nn.Sequential) and len(net):
        return ends_in_sigmoid(net[-1])
    return isinstance(net, nn.Sigmoid | nn.Hardsigmoid)


def _is_sigmoid(node: fx.Node) -> bool:
    packet = getattr(node.target, "overloadpacket", node.target)
    if packet in SIGMOIDS:
        return True
    passes = packet in UNCHANGING or packet is operator.getitem
    sources = [each for each in node.all_input_nodes if each.op == "call_function"]
    tensors = [each for each in sources if not _is_size(each)]
    return passes and bool(tensors) and all(map(_is_sigmoid, tensors))


def _is_size(node: fx.Node) -> bool:
    return getattr(node.target, "overloadpacket", None) is ATEN.sym_size


def check_score(net: nn.Module, score: str, count: int) -> None:
    """Refuse a score that does not fit what the net's outputs mean.

    Args:
        net: to explain.
        score: of the spec.
        count: outputs for an image.

    Raises:
        SpecError: with the scores that do fit.
    """
    labels = ends_in_sigmoid(net)
    if labels and score in ("sigmoid", "logprob"):
        raise SpecError(
            f"score: {score!r} of a net whose outputs are probabilities of labels already (it ends "
            "in a sigmoid)",
            hint="use score 'prob' or 'logit', which read the outputs as they are",
        )
    if count == 1 and not labels and score in ("prob", "logprob"):
        constant = "1" if score == "prob" else "0"
        raise SpecError(
            f"score: {score!r} is a softmax over the outputs, and of this net's one output it is "
            f"{constant} whatever the image",
            hint="use score 'sigmoid', the probability of the one label, or 'logit', the output "
            "as it is",
        )
