"""timm and torchvision, where they are installed; a test that asks for a missing one is skipped."""

import warnings
from types import ModuleType

import pytest
import torch

# A build of torch for CPUs lacks the operations with which the wheel of torchvision was made.
SCHEMAS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_defined: list[torch.library.Library] = []


def library(name: str = "timm") -> ModuleType:
    """The library, loaded as far as nets of classifiers need it."""
    if not _defined:
        _defined.append(torch.library.Library("torchvision", "FRAGMENT"))
        for operation in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operation):
                _defined[0].define(f"{operation}{SCHEMAS}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)
