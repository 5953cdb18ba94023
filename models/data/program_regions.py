"""Regions of a program with another precision, and what it picks by index. Torch-free.

``torch.export`` keeps a region of ``torch.autocast`` as a graph within the graph. Here its nodes
take their place in the outer one, between two that begin and end the region.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from models.core.errors import DataError
from models.data.program_operations import BEGIN, END, Node, is_check, operation_of

REGION = "torch.ops.higher_order.wrap_with_autocast"
DEPTH = 4  # of regions within regions
INTEGERS = {4: np.int32, 5: np.int64}  # types of indices by torch's number; bytes are masks
# operations that only arrange what they are given
_WORDS = """
clone contiguous expand flatten permute reshape select slice squeeze t to transpose unsqueeze view
"""
ARRANGING = frozenset(_WORDS.split())


def flat(nodes: Sequence[Node], depth: int = 0) -> Iterator[Node]:
    """Nodes without checks, those of regions among them.

    Raises:
        DataError: if regions lie in each other too deeply.
    """
    for node in nodes:
        if node["target"] in (BEGIN, END):
            raise DataError(f"operation {node['target']!r} of the net is not supported")
        if node["target"] == REGION:
            yield from _inlined(node, depth + 1)
        elif not is_check(node):
            yield node


def _inlined(node: Node, depth: int) -> Iterator[Node]:
    if depth > DEPTH:
        raise DataError(f"the program nests regions of autocast more than {DEPTH} deep")
    _, dtype, enabled, _, inner, *given = (each["arg"] for each in node["inputs"])
    graph, outer = inner["as_graph"]["graph"], _names(node["outputs"])
    inputs = zip(_names(graph["inputs"]), given, strict=True)
    names = {name: arg["as_tensor"]["name"] for name, arg in inputs}
    body = list(flat(graph["nodes"], depth))
    made = [name for each in body for name in _names(each["outputs"])]
    names |= {name: f"{outer[0]}.{name}" for name in made}
    region = {"as_tensor": {"name": f"{outer[0]}.region"}}
    begin = [{"name": "dtype", "arg": dtype}, {"name": "enabled", "arg": enabled}]
    yield {"target": BEGIN, "inputs": begin, "outputs": [region]}
    for each in body:
        inputs = [{**entry, "arg": _renamed(entry["arg"], names)} for entry in each["inputs"]]
        yield {**each, "inputs": inputs, "outputs": _renamed(each["outputs"], names)}
    yield {"target": END, "inputs": [{"name": "region", "arg": region}], "outputs": []}
    for name, result in zip(outer, _names(graph["outputs"]), strict=True):
        value = {"as_tensor": {"name": names[result]}}
        yield {
            "target": "torch.ops.aten.alias.default",
            "inputs": [{"name": "self", "arg": value}],
            "outputs": [{"as_tensor": {"name": name}}],
        }


def _names(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of tensors, those of a list one by one."""
    lists = [value.get("as_tensors") or [value["as_tensor"]] for value in values]
    return [each["name"] for one in lists for each in one]


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    keys = ("name", "as_name")
    return {
        key: names.get(each, each)
        if key in keys and isinstance(each, str)
        else _renamed(each, names)
        for key, each in value.items()
    }


def check_indices(
    nodes: Sequence[Node], weights: Mapping[str, Any], shapes: Mapping[str, Any]
) -> None:
    """Refuse a program that picks by indices which could lie outside.

    Args:
        nodes: of the flat program.
        weights: by their names in the graph; indices are among them.
        shapes: of the values, as the archive tells them.

    Raises:
        DataError: naming what is wrong.
    """
    sources = {
        name: node["inputs"][0]["arg"]["as_tensor"]["name"]
        for node in nodes
        if operation_of(node) in ARRANGING
        for name in _names(node["outputs"])
    }
    for node in nodes:
        if operation_of(node) == "index":
            given = {entry["name"]: entry["arg"] for entry in node["inputs"]}
            sizes = shapes.get(given["self"]["as_tensor"]["name"], {}).get("sizes", [])
            _check_index(given["indices"], sizes, sources, weights)


def _check_index(
    indices: Mapping[str, Any],
    sizes: Sequence[Mapping[str, Any]],
    sources: Mapping[str, str],
    weights: Mapping[str, Any],
) -> None:
    listed = indices.get("as_optional_tensors") or [
        {"as_tensor": each} for each in indices.get("as_tensors", [])
    ]
    for axis, index in enumerate(listed):
        if "as_tensor" not in index:
            continue
        name = index["as_tensor"]["name"]
        while name in sources:
            name = sources[name]
        weight = weights.get(name)
        size = sizes[axis].get("as_int") if axis < len(sizes) else None
        if weight is None or weight.dtype not in INTEGERS or size is None:
            raise DataError(
                f"the program picks by {name!r}, which is no constant of whole numbers, or along an"
                " open axis: whether it stays inside cannot be told",
                hint="register the indices as a buffer, or use torch.where or masked_fill",
            )
        numbers = np.frombuffer(weight.content or b"", INTEGERS[weight.dtype])
        if numbers.size and not -size <= numbers.min() <= numbers.max() < size:
            raise DataError(
                f"the program picks {numbers.min()} to {numbers.max()} of an axis of {size} by"
                f" {weight.name!r}: the archive is damaged"
            )
