"""Types of what the client sends and gets, written from the schemas of the service.

    python -m tests.contract.client_types

writes ``answers.py`` and ``requests.py`` of the client anew after a change of a schema.
"""

from collections.abc import Callable, Iterator
from keyword import iskeyword
from pathlib import Path
from subprocess import run
from sys import executable
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter

from app.schemas import (
    artifacts,
    datasets,
    events,
    health,
    jobs,
    keys,
    kinds,
    logs,
    metrics,
    pipelines,
    predictions,
    registry,
    state,
    sweeps,
    usage,
    webhooks,
)

CLIENT = Path(__file__).parents[2] / "app/client/sextant_client"
ANSWERS: tuple[type[BaseModel], ...] = (
    *(jobs.JobRead, jobs.DryRun, artifacts.ArtifactRead, metrics.MetricsRead),
    *(events.FeedEvent, events.FeedPage, state.ComparisonRead, datasets.DatasetRead),
    *(kinds.KindRead, keys.KeyRead, keys.KeyCreated, usage.UsageRead, health.Ready),
    *(state.LiveWorker, state.QueueRead, registry.ModelRead, registry.ModelVersionRead),
    *(predictions.PredictionRead, pipelines.PipelineRead, sweeps.SweepRead, sweeps.SweepDetail),
    *(webhooks.WebhookRead, webhooks.WebhookCreated, webhooks.WebhookSecret),
    *(webhooks.WebhookTestRead, webhooks.DeliveryRead),
)
BODIES: tuple[type[BaseModel], ...] = (
    *(jobs.JobOptions, jobs.JobPatch, pipelines.PipelineJob, sweeps.SweepCreate),
    *(datasets.DatasetOptions, registry.ModelPatch),
)
# with what a call has as arguments of its own
QUERIES: dict[type[BaseModel], set[str]] = {
    jobs.JobFilters: {"limit", "cursor"},
    sweeps.SweepFilters: {"limit", "cursor"},
    metrics.MetricQuery: {"format"},
    logs.LogQuery: {"follow"},
    events.FeedQuery: {"after"},
}
PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
HEAD = '''"""{about}

Written by ``python -m tests.contract.client_types`` from the schemas of the service; a test
compares them.{more}
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict
'''


class Words(NamedTuple):
    """How lists and objects of JSON are called in Python, and what may be left out."""

    items: str
    mapping: str
    total: bool


GOT, SENT = Words("list", "dict", True), Words("Sequence", "Mapping", False)


def typed(schema: Any, words: Words) -> str:
    """The annotation of a JSON schema."""
    if not isinstance(schema, dict) or not schema:
        return "Any"
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(dict.fromkeys(typed(each, words) for each in alternatives))
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return f"Literal[{', '.join(map(_quoted, values))}]"
    if "prefixItems" in schema:
        return f"list[{typed(schema['prefixItems'][0], words)}]"
    if schema.get("type") == "array":
        return f"{words.items}[{typed(schema.get('items'), words)}]"
    if schema.get("type") == "object":
        patterns = list(schema.get("patternProperties", {}).values())
        values = schema.get("additionalProperties") or (patterns[0] if patterns else None)
        return f"{words.mapping}[str, {typed(values, words)}]"
    return PLAIN.get(schema.get("type", ""), "Any")


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _class(name: str, schema: dict[str, Any], words: Words) -> str:
    if "properties" not in schema:
        return f"{name} = {typed(schema, words)}"
    fields = {
        field: f"Required[{typed(each, words)}]"
        if not words.total and field in schema.get("required", ())
        else typed(each, words)
        for field, each in schema["properties"].items()
    }
    total = "" if words.total else ", total=False"
    if any(map(iskeyword, fields)):
        body = ", ".join(f'"{field}": {each}' for field, each in fields.items())
        return f'{name} = TypedDict("{name}", {{{body}}}{total})'
    doc = schema.get("description", "").replace("``", "`").split("\n\n")[0]
    lines = "\n".join(f"    {field}: {each}" for field, each in fields.items())
    return f'class {name}(TypedDict{total}):\n    """{doc}"""\n\n{lines}'


def _definitions(
    models: tuple[type[BaseModel], ...], words: Words, mode: Any
) -> Iterator[tuple[str, str]]:
    found: dict[str, Any] = {}
    for model in models:
        schema = TypeAdapter(model).json_schema(mode=mode)
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    for name, schema in _in_order(found):
        yield name, _class(name, schema, words)


def _in_order(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each after those that it names: one with a keyword as a field is made at once."""
    done: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, Any]]:
        if name in done:
            return
        done.add(name)
        for needed in _named(found[name]):
            yield from visit(needed)
        yield name, found[name]

    for name in found:
        yield from visit(name)


def _named(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for each in schema.values():
            yield from _named(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _named(each)


def _query(model: type[BaseModel], own: set[str]) -> str:
    schema = TypeAdapter(model).json_schema(mode="validation")
    names = schema.pop("$defs", {})
    lines = []
    for field, each in schema["properties"].items():
        if field in own:
            continue
        item = each["items"] if each.get("type") == "array" else each
        kind = typed(names.get(item.get("$ref", "").rpartition("/")[2], item), SENT)
        several = f" | Sequence[{kind}]" if item is not each else ""
        kind = kind.removesuffix(" | None")
        lines.append(f"    {field}: {kind}{several} | None")
    doc = f"{model.__doc__ or ''}".split("\n\n")[0]
    head = [f"class {model.__name__}(TypedDict, total=False):", f'    """{doc}"""', ""]
    return "\n".join([*head, *lines])


def answers() -> str:
    """The module of what the service answers."""
    about = HEAD.format(
        about="What the service answers, under the names of ``/openapi.json``.",
        more=" Times are RFC 3339 texts in UTC. A later service may answer more fields.",
    )
    parts = [text for _, text in _definitions(ANSWERS, GOT, "serialization")]
    return _formatted("\n\n\n".join([about, *parts]) + "\n")


def requests() -> str:
    """The module of what calls take by name."""
    about = HEAD.format(
        about="What calls take by name, and bodies that they send.",
        more=" Times are RFC 3339 texts.",
    )
    parts = [text for _, text in _definitions(BODIES, SENT, "validation")]
    parts += [_query(model, own) for model, own in QUERIES.items()]
    return _formatted("\n\n\n".join([about, *parts]) + "\n")


def _formatted(text: str) -> str:
    for command in (["check", "--fix", "--quiet"], ["format", "--quiet"]):
        name = ["--stdin-filename", str(CLIENT / "answers.py"), "-"]
        done = run(
            [executable, "-m", "ruff", *command, *name],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        text = done.stdout
    return text


FILES: dict[str, Callable[[], str]] = {"answers.py": answers, "requests.py": requests}

if __name__ == "__main__":
    for name, written in FILES.items():
        (CLIENT / name).write_text(written())
