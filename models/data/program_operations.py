"""The operations of exported programs that are read. Torch-free.

Their names are looked up in ATen, so the list is what keeps a stranger's file from naming anything
else; each computes from its arguments alone.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from models.core.errors import DataError

_WORDS = """
_log_softmax _native_batch_norm_legit_no_training _softmax _to_copy _unsafe_view
_upsample_bicubic2d_aa _upsample_bilinear2d_aa abs adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_max_pool2d add add_ addcmul addmm alias amax amin arange argmax avg_pool1d avg_pool2d
baddbmm batch_norm bernoulli_ bitwise_and bitwise_not bitwise_or bmm cat ceil channel_shuffle
chunk clamp clamp_ clamp_max clamp_min clone col2im constant_pad_nd contiguous conv1d conv2d
convolution copy_ cos cumsum detach detach_ diagonal div div_ dropout dropout_ einsum elu
embedding empty eq erf exp expand expand_as feature_dropout feature_dropout_ fill fill_ flatten
flip floor floor_divide full full_like ge gelu glu group_norm gt hardsigmoid hardsigmoid_
hardswish hardswish_ hardtanh hardtanh_ im2col index index_select instance_norm layer_norm le
leaky_relu leaky_relu_ linalg_vector_norm linear linspace log log1p log_softmax logical_and
logical_not logical_or logsumexp lt masked_fill masked_fill_ matmul max max_pool1d max_pool2d
max_pool2d_with_indices maximum mean meshgrid min minimum mish mish_ mm movedim mul mul_
nan_to_num narrow native_batch_norm native_group_norm native_layer_norm ne neg new_empty norm ones
ones_like outer pad permute pixel_shuffle pixel_unshuffle pow prelu reciprocal reflection_pad2d
relu relu6 relu6_ relu_ remainder repeat repeat_interleave replication_pad2d reshape reshape_as
rms_norm roll round rsqrt rsub scaled_dot_product_attention select selu sigmoid sigmoid_ sign silu
silu_ sin slice softmax softplus split split_with_sizes sqrt square squeeze stack std std_mean sub
sub_ sum sym_size t tanh tanh_ to topk transpose tril triu type_as unbind unflatten unfold
unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var var_mean view view_as
where zero_ zeros zeros_like
"""
OPERATIONS = frozenset(_WORDS.split())  # of ATen
_SIGNS = "add eq floordiv ge getitem gt le lt mod mul ne neg sub truediv"
ARITHMETIC = frozenset(_SIGNS.split())  # of sizes
CHECKS = ("_assert", "sym_constrain", "_assert_tensor_metadata")  # nothing is computed by them
# arguments that say whether an operation trains
MODES = {"batch_norm": "training", "dropout": "train", "dropout_": "train",
         "feature_dropout": "train", "feature_dropout_": "train",
         "instance_norm": "use_input_stats", "native_batch_norm": "training"}  # fmt: skip
BEGIN, END = "begin_autocast", "end_autocast"  # of a region in another precision
TENSORS = ("repeat_interleave.Tensor", "repeat_interleave.self_Tensor")  # lengths that are computed
FILLS = ("fill_", "zero_", "copy_", "masked_fill_", "bernoulli_")
# operations whose result may lie in the memory of their first argument
_VIEWS = """
alias chunk contiguous detach detach_ diagonal dropout expand expand_as feature_dropout flatten
movedim narrow permute reshape reshape_as select slice split split_with_sizes squeeze t to
transpose type_as unbind unflatten unfold unsqueeze view view_as
"""
VIEWS = frozenset(_VIEWS.split())
CHANCE = "bernoulli_"  # of stochastic depth, which is in a program of training alone
ATEN = "torch.ops.aten."
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")

Node = Mapping[str, Any]


def is_check(node: Node) -> bool:
    """Whether a node of the file only asserts something."""
    name = str(node["target"]).removeprefix(ATEN)
    return not node["outputs"] and name.startswith(CHECKS)


def operation_of(node: Node) -> str:
    """Name of the operation of ATen, without its overload."""
    return str(node["target"]).removeprefix(ATEN).partition(".")[0]


def check_node(node: Node) -> None:
    """Refuse an operation that is not on the list.

    Raises:
        DataError: naming it.
    """
    target = str(node["target"])
    name, _, overload = target.removeprefix(ATEN).partition(".")
    if target in (BEGIN, END):  # which no archive holds: see program_regions.py
        return
    aten = target.startswith(ATEN) and name in OPERATIONS and NAME.fullmatch(overload)
    aten = aten and target.removeprefix(ATEN) not in TENSORS
    plain = target.startswith("_operator.") and target.removeprefix("_operator.") in ARITHMETIC
    if not (aten or plain):
        raise DataError(
            f"operation {target!r} of the net is not supported",
            hint="export the net without it, or upload safetensors with a named architecture",
        )


def in_training(nodes: Iterable[Node]) -> list[str]:
    """Names of the operations that were exported in training mode, one an occurrence.

    A norm without running statistics takes those of its input in either mode.
    """
    found = []
    for node in nodes:
        name = operation_of(node)
        given = {each["name"]: each["arg"] for each in node["inputs"]}
        mode = given.get(MODES.get(name, ""), {}).get("as_bool")
        is_norm = name in ("batch_norm", "instance_norm", "native_batch_norm")
        rests = is_norm and "as_none" in given.get("running_mean", {"as_none": True})
        attends = name == "scaled_dot_product_attention" and given.get("dropout_p", {})
        if name == CHANCE or (mode and not rests) or (attends and attends.get("as_float")):
            found.append(name)
    return found
