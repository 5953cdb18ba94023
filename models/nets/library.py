"""Nets of timm and torchvision: made by name for classes, channels and a size of images."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from torch import nn

from models.core.errors import DataMissingError, SpecError
from models.nets.library_spec import LibraryNet

UNKNOWN_ARGUMENT = "unexpected keyword argument"


def named(part: LibraryNet, count: int | None, *, pretrained: bool, **fields: Any) -> nn.Module:
    """A net of timm or torchvision.

    Args:
        part: library and name.
        count: outputs of the classifier; None takes the library's.
        pretrained: whether it comes with the library's weights (timm).
        fields: further arguments of the library.

    Raises:
        SpecError: if the library is not installed or has no such net.
        DataMissingError: if its weights cannot be obtained.
    """
    library = _library(part)
    if count is not None:
        fields["num_classes"] = count
    try:
        if part.library == "timm":
            return library.create_model(part.name, pretrained=pretrained, **fields)
        return library.get_model(part.name, weights=None, **fields)
    except (OSError, ConnectionError) as error:
        raise DataMissingError(f"the weights of {part.name!r} cannot be had: {error}") from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise SpecError(f"model.name: {part.library} makes no {part.name!r}: {error}") from error


def _library(part: LibraryNet) -> Any:
    try:
        return import_module("timm" if part.library == "timm" else "torchvision.models")
    except (ImportError, RuntimeError) as error:  # the second: torchvision made for another torch
        raise SpecError(
            f"model.library: {part.library!r} is not installed where the worker is, or not for its"
            f" torch: {error}",
            hint=f"install {part.library} there, or upload the net by torch.export.save",
        ) from error


def build_foreign(
    spec: Mapping[str, Any],
    num_classes: int,
    channels: int,
    size: tuple[int, int] | None,
    *,
    pretrained: bool = False,
) -> nn.Module:
    """A net of a library for images of one size.

    Args:
        spec: ``library`` and ``name``.
        num_classes: outputs of the classifier.
        channels: of the images.
        size: height and width of the images in pixels; None takes the library's.
        pretrained: whether it starts from the library's weights.

    Raises:
        SpecError: if the library is not installed, has no such net, or takes RGB alone.
        DataMissingError: if its weights cannot be obtained.
    """
    part = LibraryNet.model_validate({key: spec[key] for key in ("library", "name")})
    if part.library == "torchvision" and channels != 3:
        raise SpecError(
            f"model.library: nets of torchvision take 3 channels, the images have {channels}",
            hint="name a net of timm, which takes any number",
            pointer="/model/library",
        )
    for fields in _arguments(part, channels, size):
        try:
            return named(part, num_classes, pretrained=pretrained, **fields)
        except TypeError as error:
            if UNKNOWN_ARGUMENT not in str(error):
                raise SpecError(
                    f"model.name: {part.library} makes no {part.name!r}: {error}"
                ) from error
    raise AssertionError("the last arguments are those that every net takes")


def _arguments(
    part: LibraryNet, channels: int, size: tuple[int, int] | None
) -> Iterator[dict[str, Any]]:
    """Arguments to try in turn: which ones a net takes, only its constructor tells."""
    if part.library == "torchvision":
        if size is not None:
            yield {"image_size": size[0]}
            yield {"input_size": size}
        yield {"aux_logits": False, "init_weights": True}  # else two answers in training
        yield {}
        return
    if size is not None and _has_fixed_size(part.name):
        yield {"in_chans": channels, "img_size": size, "dynamic_img_size": True}
        yield {"in_chans": channels, "img_size": size}
    yield {"in_chans": channels}


def _has_fixed_size(name: str) -> bool:
    """Whether a net of timm is made for one size of images, as it says of itself."""
    known = import_module("timm").get_pretrained_cfg(name, allow_unregistered=True)
    return bool(known and known.fixed_input_size)


def library_classifier(net: nn.Module, classes: int) -> list[str]:
    """Names of the classifier's parameters where timm's weights are of other classes."""
    about: dict[str, Any] = getattr(net, "pretrained_cfg", {})
    if about.get("num_classes") == classes:
        return []
    heads = about.get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    return [name for name, _ in net.named_parameters() if prefixes and name.startswith(prefixes)]


def timm_config(net: nn.Module, about: Mapping[str, Any]) -> dict[str, Any]:
    """What timm reads beside a file of weights, in a folder or from Hugging Face's hub.

    Args:
        net: made by timm.
        about: name of the net, classes and input, as a file of weights tells them.
    """
    shown, known = about["input"], dict(getattr(net, "pretrained_cfg", {}))
    channels = shown["channels"]
    preparation = {
        "input_size": [channels, shown["height"], shown["width"]],
        "fixed_input_size": bool(known.get("fixed_input_size")),
        "mean": shown["mean"],
        "std": shown["std"],
        "crop_pct": 1.0,
        "crop_mode": {"crop": "center", "squash": "squash"}[shown["fit"]],
        "interpolation": "box",  # means over areas
        "num_classes": len(about["classes"]),
        "classifier": known.get("classifier"),
    }
    if channels == 3:  # else timm would take the first weights for those of three channels
        preparation["first_conv"] = known.get("first_conv")
    return {
        "architecture": about["net"]["name"].partition(".")[0],
        "num_classes": len(about["classes"]),
        "label_names": about["classes"],
        "model_args": {"in_chans": channels},
        "pretrained_cfg": preparation,
    }
