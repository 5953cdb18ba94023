"""Nets that users upload: ``torch.export`` archives and safetensors. Torch-free; no pickle.

``torch.export.load`` would unpickle parts of the archive, look functions up by any name and
evaluate expressions as Python. Here the graph is read as the JSON that it is, its operations by a
list of names, and weights as raw bytes; ``models/nets/exported.py`` makes a net of it.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from models.core.errors import DataError
from models.core.json_text import parse_json
from models.data.archives import Archive, open_archive
from models.data.headers import safetensors_shapes

LIMIT_BYTES = 64 * 2**20  # of the graph as JSON
ZIP_MAGIC = b"PK\x03\x04"
_WORDS = """
_log_softmax _native_batch_norm_legit_no_training _softmax _to_copy _unsafe_view abs
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add add_ addmm alias amax amin
arange argmax avg_pool1d avg_pool2d baddbmm batch_norm bmm cat channel_shuffle chunk clamp
clamp_ clamp_max clamp_min clone constant_pad_nd contiguous conv1d conv2d convolution cos cumsum
detach detach_ div div_ dropout dropout_ einsum elu embedding eq exp expand expand_as fill
flatten flip floor_divide full full_like ge gelu glu group_norm gt hardsigmoid hardsigmoid_
hardswish hardswish_ hardtanh hardtanh_ index_select instance_norm layer_norm le leaky_relu
leaky_relu_ linalg_vector_norm linear log log_softmax logsumexp lt masked_fill matmul max
max_pool1d max_pool2d max_pool2d_with_indices maximum mean min minimum mish mish_ mm movedim mul
mul_ narrow native_batch_norm native_group_norm native_layer_norm ne neg norm ones ones_like pad
permute pixel_shuffle pixel_unshuffle pow prelu reciprocal reflection_pad2d relu relu6 relu6_
relu_ repeat replication_pad2d reshape roll rsqrt rsub scaled_dot_product_attention select
sigmoid sigmoid_ silu silu_ sin slice softmax softplus split split_with_sizes sqrt square
squeeze stack std sub sub_ sum sym_size t tanh tanh_ to topk transpose unbind unflatten
unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var view view_as where zeros
zeros_like
"""
OPERATIONS = frozenset(_WORDS.split())  # of ATen
_SIGNS = "add eq floordiv ge getitem gt le lt mod mul ne neg sub truediv"
ARITHMETIC = frozenset(_SIGNS.split())  # of sizes
CHECKS = ("_assert", "sym_constrain", "_assert_tensor_metadata")  # nothing is computed by them
TRAINING = {"batch_norm": "training", "dropout": "train", "dropout_": "train",
            "instance_norm": "use_input_stats"}  # fmt: skip
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")


class Weight(NamedTuple):
    """A tensor as the archive describes it: elements of a run of raw bytes."""

    content: bytes
    dtype: int  # number of torch's scalar type
    sizes: list[int]
    strides: list[int]
    offset: int


class Program(NamedTuple):
    """A checked graph and its weights.

    Attributes:
        image: name of the input.
        size: its channels, height and width; None where the program leaves them open.
        nodes: operations in order, as in the file, of allowed names alone.
        output: name of the result.
        weights: by the names by which nodes ask for them.
    """

    image: str
    size: tuple[int | None, int | None, int | None]
    nodes: list[dict[str, Any]]
    output: str
    weights: dict[str, Weight]


def holds_program(path: Path) -> bool:
    """Whether a file is a zip, as ``torch.export.save`` writes."""
    with path.open("rb") as file:
        return file.read(4) == ZIP_MAGIC


def check(path: Path) -> dict[str, int]:
    """What an uploaded net holds: ``tensors``, ``parameters`` and, of a program, ``operations``.

    Raises:
        DataError: naming what is wrong and the way out.
    """
    if not holds_program(path):
        shapes = safetensors_shapes(path)
        return {"tensors": len(shapes), "parameters": sum(map(_count, shapes.values()))}
    program = read_program(path)
    sizes = [weight.sizes for weight in program.weights.values()]
    return {
        "tensors": len(sizes),
        "parameters": sum(map(_count, sizes)),
        "operations": len(program.nodes),
    }


def _count(sizes: list[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def read_program(path: Path) -> Program:
    """The graph and the weights of a ``torch.export`` archive (torch 2.9 or later).

    Raises:
        DataError: if it is damaged, holds a pickled part that is needed, an operation that is not
            on the list, more than one image or result, or was exported in training mode.
    """
    with open_archive(path) as archive:
        root, model = _model_of(archive)
        try:
            graph = model["graph_module"]["graph"]
            targets = _targets(model["graph_module"]["signature"]["input_specs"])
            weights = _weights(archive, root, targets)
            image = _only([v["as_tensor"]["name"] for v in graph["inputs"]], set(targets), "image")
            output = _only([v["as_tensor"]["name"] for v in graph["outputs"]], set(), "result")
            size = _image_size(graph["tensor_values"][image]["sizes"])
            nodes = [node for node in graph["nodes"] if not _is_check(node)]
            for node in nodes:
                _check_node(node)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError(
                f"the archive's graph is not as torch.export writes it: {error!r}",
                hint="export the net anew with torch 2.9 or later",
            ) from error
    return Program(image, size, nodes, output, weights)


def _model_of(archive: Archive) -> tuple[str, dict[str, Any]]:
    """Folder of the archive and its one model."""
    names = [name for name in archive.names if re.fullmatch(r"[^/]+/models/[^/]+\.json", name)]
    if len(names) != 1:
        old = any(name.endswith("serialized_exported_program.json") for name in archive.names)
        raise DataError(
            "the archive is of an older torch" if old else "the archive holds no exported program",
            hint="torch.export.save(torch.export.export(net.eval(), (images,), dynamic_shapes="
            "({0: torch.export.Dim.DYNAMIC},)), 'net.pt2') with torch 2.9 or later",
        )
    root = names[0].partition("/")[0]
    return root, _json(archive, names[0])


def _json(archive: Archive, name: str) -> dict[str, Any]:
    with archive.open(name) as stream:
        content = stream.read(LIMIT_BYTES + 1)
    if len(content) > LIMIT_BYTES:
        raise DataError(f"{name}: over {LIMIT_BYTES} bytes")
    return parse_json(content, name)


def _targets(specs: list[dict[str, Any]]) -> dict[str, str]:
    """Names in the graph to names of weights in the archive."""
    keys = {"parameter": "parameter_name", "buffer": "buffer_name",
            "tensor_constant": "tensor_constant_name"}  # fmt: skip
    weight_names = {}
    for spec in specs:
        for kind, body in spec.items():
            if kind in keys:
                weight_names[body["arg"]["name"]] = body[keys[kind]]
            elif kind != "user_input":
                raise DataError(f"the program takes a {kind}; only tensors are understood")
    return weight_names


def _weights(archive: Archive, root: str, targets: dict[str, str]) -> dict[str, Weight]:
    entries: dict[str, tuple[str, Any]] = {}
    for folder, name in (("weights", "model_weights"), ("constants", "model_constants")):
        listed = f"{root}/data/{folder}/{name}_config.json"
        if listed in archive.names:
            config = _json(archive, listed)["config"]
            entries |= {key: (folder, entry) for key, entry in config.items()}
    weights = {}
    for name, target in targets.items():
        folder, entry = entries[target]
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta is None:
            raise DataError(f"weight {target!r} is pickled, which is refused")
        content = archive.read(f"{root}/data/{folder}/{entry['path_name']}")
        sizes, strides = ([v["as_int"] for v in meta[key]] for key in ("sizes", "strides"))
        offset = meta["storage_offset"]["as_int"]
        weights[name] = Weight(content, meta["dtype"], sizes, strides, offset)
    return weights


def _only(names: list[str], without: set[str], what: str) -> str:
    left = [name for name in names if name not in without]
    if len(left) != 1:
        raise DataError(
            f"the program has {len(left)} tensors as its {what}; saliency needs one. Detection and "
            "segmentation as such are out of scope",
            hint="export a net that takes a batch of images and gives a row of numbers for each, "
            "such as the number you ask about: the mean score of a class over a box or a mask",
        )
    return left[0]


def _image_size(sizes: list[dict[str, Any]]) -> tuple[int | None, int | None, int | None]:
    if len(sizes) != 4:
        raise DataError(f"the program's input has {len(sizes)} axes; images have [n, c, h, w]")
    c, h, w = (size.get("as_int") for size in sizes[1:])
    return c, h, w


def _is_check(node: dict[str, Any]) -> bool:
    name = str(node["target"]).removeprefix("torch.ops.aten.")
    return not node["outputs"] and name.startswith(CHECKS)


def _check_node(node: dict[str, Any]) -> None:
    """Refuse an operation that is not on the list, or is in training mode."""
    target = str(node["target"])
    name, _, overload = target.removeprefix("torch.ops.aten.").partition(".")
    aten = target.startswith("torch.ops.aten.") and name in OPERATIONS and NAME.fullmatch(overload)
    plain = target.startswith("_operator.") and target.removeprefix("_operator.") in ARITHMETIC
    if not (aten or plain):
        raise DataError(
            f"operation {target!r} of the net is not supported",
            hint="export the net without it, or upload safetensors with a named architecture",
        )
    for given in node["inputs"]:
        if given["name"] == TRAINING.get(name) and given["arg"].get("as_bool"):
            raise DataError(
                f"the net was exported in training mode: its {name} depends on chance or batch",
                hint="call net.eval() before torch.export.export",
            )
