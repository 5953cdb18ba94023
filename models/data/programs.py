"""Nets that users upload: ``torch.export`` archives and safetensors. Torch-free; no pickle.

``torch.export.load`` would unpickle parts of the archive, look functions up by any name and
evaluate expressions as Python. Here the graph is read as the JSON that it is, its operations by a
list of names, and weights as raw bytes; ``models/nets/exported.py`` makes a net of it.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from models.core.errors import DataError
from models.core.json_text import parse_json
from models.data.archives import Archive, open_archive
from models.data.headers import safetensors_shapes
from models.data.program_operations import check_node, in_training
from models.data.program_regions import check_indices, flat

LIMIT_BYTES = 64 * 2**20  # of the graph as JSON
ZIP_MAGIC = b"PK\x03\x04"


class Weight(NamedTuple):
    """A tensor as the archive describes it: elements of a run of raw bytes.

    Attributes:
        content: the bytes; None where only its form is known, as in the text of a program.
        dtype: number of torch's scalar type.
        sizes: of its axes.
        strides: in elements.
        offset: of its first element, in elements.
        name: of the parameter or buffer in the net.
        is_parameter: whether it is one.
        trained: whether it asks for gradients.
        storage: name of the run of bytes, which tied weights share.
    """

    content: bytes | None
    dtype: int
    sizes: list[int]
    strides: list[int]
    offset: int
    name: str
    is_parameter: bool
    trained: bool
    storage: str


class Program(NamedTuple):
    """A checked graph and its weights.

    Attributes:
        image: name of the input.
        size: its channels, height and width; None where the program leaves them open.
        nodes: operations in order, as in the file, of allowed names alone.
        output: name of the result.
        weights: by the names by which nodes ask for them.
        batch: images that it takes; None where it leaves that open.
        outputs: numbers that it gives for an image; None where that is open or no row.
    """

    image: str
    size: tuple[int | None, int | None, int | None]
    nodes: list[dict[str, Any]]
    output: str
    weights: dict[str, Weight]
    batch: int | None
    outputs: int | None


def holds_program(path: Path) -> bool:
    """Whether a file is a zip, as ``torch.export.save`` writes."""
    with path.open("rb") as file:
        return file.read(4) == ZIP_MAGIC


def check(path: Path) -> dict[str, int]:
    """What an uploaded net holds: ``tensors``, ``parameters`` and, of a program, ``operations``.

    Of a program also how many of these are in training mode, ``training_operations``; whether the
    batch is open, ``open_batch`` (0 or 1); how many sides of the image are, ``open_sides``; and,
    where they are not, ``height``, ``width`` and ``channels``.

    Raises:
        DataError: naming what is wrong and the way out.
    """
    if not holds_program(path):
        shapes = safetensors_shapes(path)
        return {"tensors": len(shapes), "parameters": sum(map(math.prod, shapes.values()))}
    program = read_program(path, training=True)
    sizes = [weight.sizes for weight in program.weights.values()]
    named = zip(("channels", "height", "width"), program.size, strict=True)
    return {
        "tensors": len(sizes),
        "parameters": sum(map(math.prod, sizes)),
        "operations": len(program.nodes),
        "training_operations": len(in_training(program.nodes)),
        "open_batch": int(program.batch is None),
        "open_sides": program.size[1:].count(None),
        **{name: size for name, size in named if size is not None},
    }


def read_program(path: Path, *, training: bool = False) -> Program:
    """The graph and the weights of a ``torch.export`` archive (torch 2.9 or later).

    Args:
        path: of the archive.
        training: whether one that was exported in training mode is read, too.

    Raises:
        DataError: if it is damaged, holds a pickled part that is needed, an operation that is not
            on the list, more than one image or result, or was exported in training mode.
    """
    with open_archive(path) as archive:
        root, model = _model_of(archive)
        try:
            graph = model["graph_module"]["graph"]
            signature = model["graph_module"]["signature"]
            targets = _targets(signature["input_specs"])
            _check_outputs(signature["output_specs"])
            weights = _weights(archive, root, targets)
            program = _program(graph, weights)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError(
                f"the archive's graph is not as torch.export writes it: {error!r}",
                hint="export the net anew with torch 2.9 or later",
            ) from error
    if not training and (names := in_training(program.nodes)):
        raise DataError(
            f"the net was exported in training mode: its {names[0]} depends on chance or batch",
            hint="call net.eval() before torch.export.export",
        )
    return program


def _program(graph: dict[str, Any], weights: dict[str, Weight]) -> Program:
    image = _only([v["as_tensor"]["name"] for v in graph["inputs"]], set(weights), "image")
    output = _only([v["as_tensor"]["name"] for v in graph["outputs"]], set(), "result")
    batch, *size = _image_size(graph["tensor_values"][image]["sizes"])
    row = graph["tensor_values"].get(output, {}).get("sizes", [])
    outputs = row[1].get("as_int") if len(row) == 2 else None
    nodes = [dict(node) for node in flat(graph["nodes"])]
    for node in nodes:
        check_node(node)
    check_indices(nodes, weights, graph["tensor_values"])
    c, h, w = size
    return Program(image, (c, h, w), nodes, output, weights, batch, outputs)


def to_text(program: Program) -> str:
    """A program without the numbers of its weights, as JSON that :func:`from_text` reads."""
    kept = ("target", "inputs", "outputs")
    nodes = [{key: node[key] for key in kept} for node in program.nodes]
    forms = {key: weight._replace(content=None) for key, weight in program.weights.items()}
    return json.dumps(program._replace(nodes=nodes, weights=forms), separators=(",", ":"))


def from_text(text: str) -> Program:
    """A program whose weights are forms without numbers.

    Raises:
        DataError: if the text is none of :func:`to_text`, or names an operation not on the list.
    """
    fields = parse_json(text, "the program")
    try:
        program = Program(*fields)
        channels, height, width = program.size
        weights = {key: Weight(*form) for key, form in program.weights.items()}
        for node in program.nodes:
            check_node(node)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"the text of the program is damaged: {error!r}") from error
    return program._replace(size=(channels, height, width), weights=weights)


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


def _targets(specs: list[dict[str, Any]]) -> dict[str, tuple[str, bool]]:
    """Names in the graph to names of weights in the archive, and whether each is a parameter."""
    keys = {"parameter": "parameter_name", "buffer": "buffer_name",
            "tensor_constant": "tensor_constant_name"}  # fmt: skip
    weight_names = {}
    for spec in specs:
        for kind, body in spec.items():
            if kind in keys:
                weight_names[body["arg"]["name"]] = body[keys[kind]], kind == "parameter"
            elif kind != "user_input":
                raise DataError(f"the program takes a {kind}; only tensors are understood")
    return weight_names


def _check_outputs(specs: list[dict[str, Any]]) -> None:
    for spec in specs:
        for kind in spec:
            if kind != "user_output":
                raise DataError(
                    f"the program gives a {kind.replace('_', ' ')} beside its answer",
                    hint="save what torch.export.export gives, without run_decompositions",
                )


def _weights(
    archive: Archive, root: str, targets: dict[str, tuple[str, bool]]
) -> dict[str, Weight]:
    entries: dict[str, tuple[str, Any]] = {}
    for folder, name in (("weights", "model_weights"), ("constants", "model_constants")):
        listed = f"{root}/data/{folder}/{name}_config.json"
        if listed in archive.names:
            config = _json(archive, listed)["config"]
            entries |= {key: (folder, entry) for key, entry in config.items()}
    weights, contents = {}, {}
    for name, (target, is_parameter) in targets.items():
        folder, entry = entries[target]
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta is None:
            raise DataError(f"weight {target!r} is pickled, which is refused")
        storage = f"{folder}/{entry['path_name']}"
        if storage not in contents:
            contents[storage] = archive.read(f"{root}/data/{storage}")
        sizes, strides = ([v["as_int"] for v in meta[key]] for key in ("sizes", "strides"))
        trained = is_parameter and bool(meta["requires_grad"])
        at = meta["storage_offset"]["as_int"]
        form = meta["dtype"], sizes, strides, at, target, is_parameter, trained, storage
        weights[name] = Weight(contents[storage], *form)
    return weights


def _only(names: list[str], without: set[str], what: str) -> str:
    left = [name for name in names if name not in without]
    if len(left) != 1:
        raise DataError(
            f"the program has {len(left)} tensors as its {what}; one is needed. Detection and "
            "segmentation as such are out of scope",
            hint="export a net that takes a batch of images and gives a row of numbers for each, "
            "such as the number you ask about: the mean score of a class over a box or a mask",
        )
    return left[0]


def _image_size(sizes: list[dict[str, Any]]) -> list[int | None]:
    if len(sizes) != 4:
        raise DataError(f"the program's input has {len(sizes)} axes; images have [n, c, h, w]")
    return [size.get("as_int") for size in sizes]
