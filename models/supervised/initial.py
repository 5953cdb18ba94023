"""The net of a spec before its first step."""

from typing import NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.core import checkpoint, device
from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.core.spec import ArtifactRef
from models.data.images import ImageData
from models.data.programs import holds_program
from models.nets.build import build_net
from models.nets.layers import Layer, evaluate, layers_of
from models.nets.library import build_foreign, library_classifier
from models.nets.library_spec import ForeignNet, GivenNet, ProgramNet
from models.nets.start import check_answer, freeze, load_weights
from models.nets.trainable import TrainableProgram, load_trainable
from models.supervised.spec import SupervisedSpec
from models.supervised.state import shown

VECTOR = 16  # values of float32
AnySpec = TypeVar("AnySpec", bound=SupervisedSpec)


class Initial(NamedTuple):
    """A net on the device, and the tensors of its classifier that do not come from its weights."""

    net: nn.Module
    fresh: list[str]


def initial_net(spec: SupervisedSpec, data: ImageData, run: Run) -> Initial:
    """The net of a spec with the initial weights of its seed, or those that it names.

    Raises:
        SpecError: if a library is not installed or its net cannot be trained on such images.
        DataError: if the weights do not fit the net.
        DataMissingError: if the library's weights cannot be obtained.
    """
    device.seed_all(spec.seed)
    model, classes = spec.model, len(data.classes)
    if not isinstance(model, GivenNet):
        net = build_net(model.architecture(), classes, data.channels)
        return Initial(net.to(run.device), [])
    initial = given_net(model, data, run)
    admit(initial, model, data, run)
    return initial


def admit(initial: Initial, model: GivenNet, data: ImageData, run: Run) -> None:
    """Bring a net of others to the device, and try it; warnings tell what it lacks.

    Raises:
        SpecError: if it cannot be trained on such images.
    """
    net, fresh = initial
    check_answer(net.to(run.device), data.channels, data.size, len(data.classes))
    if fresh:
        run.warn(
            "new_classifier",
            f"the weights are of other classes: {', '.join(fresh)} of {model.name} start anew",
        )
    if isinstance(net, TrainableProgram) and not net.was_training:
        run.warn(
            "exported_in_eval_mode",
            "the program was exported in eval mode, in which stochastic depth, dropout within"
            " attention and auxiliary classifiers are left out: if the net has any, export it after"
            " net.train() to train with them",
        )


def given_net(model: GivenNet, data: ImageData, run: Run) -> Initial:
    """A net of others on the CPU, with what is random in it from torch's global stream.

    Errors are those of :func:`initial_net`.
    """
    if isinstance(model, ForeignNet):
        return foreign_net(model, data, run)
    net = load_trainable(run.input(model), len(data.classes))
    freeze(net, model.freeze)
    return Initial(net, net.fresh)


def foreign_net(model: ForeignNet, data: ImageData, run: Run) -> Initial:
    """A net of a library on the CPU, with what is random in it from torch's global stream.

    Errors are those of :func:`initial_net`.
    """
    about, pretrained = model.architecture(), model.weights == "pretrained"
    classes = len(data.classes)
    net = build_foreign(about, classes, data.channels, data.size, pretrained=pretrained)
    fresh = _load(net, model, classes, run)
    freeze(net, model.freeze)
    return Initial(net, fresh)


def in_safe_order(spec: AnySpec, net: nn.Module, data: ImageData, run: Run) -> AnySpec:
    """The spec, ``channels_last`` off where torch would write out of bounds; a warning says so.

    On CPUs its backward pass in NHWC does, in strided 1 x 1 convolutions of few channels (oneDNN
    issue 6035): it ends the process, or changes what lies beside. The project's nets have none.

    Args:
        spec: of the job.
        net: that it trains.
        data: tells channels and size of the images.
        run: names the device, takes the warning.
    """
    if not spec.channels_last or not isinstance(spec.model, GivenNet):
        return spec
    if isinstance(spec.model, ProgramNet) and (error := _refuses_channels_last(net, data)):
        run.warn("channels_first", f"channels_last is off: the program does not take it: {error}")
        return spec.model_copy(update={"channels_last": False})
    if run.device != "cpu":
        return spec
    unsafe = [x.name for x in layers_of(net, data.channels, data.size) if _overruns(x)]
    if not unsafe:
        return spec
    run.warn(
        "channels_first",
        f"channels_last is off: on a CPU torch writes out of bounds in {', '.join(unsafe)}, strided"
        f" 1 x 1 convolutions of fewer than {VECTOR} channels",
    )
    return spec.model_copy(update={"channels_last": False})


def _refuses_channels_last(net: nn.Module, data: ImageData) -> str | None:
    """Why a program that was recorded in NCHW fails in NHWC, such as by a view; None if it runs."""
    net.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # a torch gap
    try:
        evaluate(net, data.channels, data.size, torch.channels_last)
    except SpecError as error:
        net.to(memory_format=torch.contiguous_format)  # ty: ignore[no-matching-overload]
        return str(error).splitlines()[0][:200]
    return None


def _overruns(layer: Layer) -> bool:
    strided = layer.kind == "conv" and max(layer.stride) > 1
    return strided and layer.shape[2:] == (1, 1) and layer.shape[1] < VECTOR


def _load(net: nn.Module, model: ForeignNet, classes: int, run: Run) -> list[str]:
    """Load the weights that the spec names in a file; what starts anew all the same."""
    if model.weights is None:
        return []
    if isinstance(model.weights, str):
        return library_classifier(net, classes)
    path = run.input(model.weights)
    if isinstance(model.weights, ArtifactRef):
        tensors, about = checkpoint.read(path)
        if about["net"] != model.architecture():
            raise SpecError(
                f"model.weights are of the net {shown(about['net'])}, the model is"
                f" {model.architecture()}: name the same net",
                pointer="/model/weights",
            )
        return load_weights(net, _net_of(tensors), classes, model.weights.artifact)
    if holds_program(path):
        raise DataError(
            f"model.weights: {model.weights.dataset} is a torch.export archive",
            hint="save the state_dict by safetensors.torch.save_file and upload that file",
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"model.weights: {model.weights.dataset} is damaged: {error}") from error
    checkpoint.check_finite(tensors, model.weights.dataset)
    return load_weights(net, tensors, classes, model.weights.dataset)


def _net_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name from a file of weights or a checkpoint."""
    return checkpoint.part(tensors, "net") or tensors
