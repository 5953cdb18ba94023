"""What a trained classifier is, for whoever finds its files: the card in headers and as text.

Markdown with the front matter that Hugging Face's hub reads.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from models.core import device
from models.data.images import ImageData
from models.supervised.spec import SupervisedSpec
from models.supervised.state import describe, spec_digest

FITTED = {
    "crop": "cut at the centre to these proportions, then resized",
    "squash": "resized whole, whatever their proportions",
}
SHOWN = ("accuracy", "nll", "ece")
MEANING = {
    "accuracy": "share of the test images classified right",
    "nll": "mean negative log-likelihood, in nats",
    "ece": "expected calibration error, 15 bins",
    "balanced accuracy": "mean over the classes of the share classified right",
    "top-5 accuracy": "the true class is among the five likeliest",
}


def make(
    spec: SupervisedSpec, data: ImageData, net: nn.Module, on: str, test: Mapping[str, float | None]
) -> dict[str, Any]:
    """Everything that a file of a trained net says of itself, as JSON can hold it.

    Nothing in it depends on time or on the number of the run: the same training gives the same
    bytes.

    Args:
        spec: of the job.
        data: that the net was trained on.
        net: that was trained.
        on: device of the run.
        test: figures on the test images by name.
    """
    left_out = {"threads", "resume_from"}  # as in the digest of a spec
    return describe(spec, data, net) | {
        "kind": getattr(spec, "kind", ""),
        "test": {name: value for name, value in test.items() if value is not None},
        "dataset": {"name": spec.data.dataset, "sha256": spec.data.sha256},
        "images": {"train": len(data.train), "test": len(data.test)},
        "seed": spec.seed,
        "spec": spec.model_dump(mode="json", exclude=left_out),
        "spec_sha256": spec_digest(spec),
        "versions": device.versions(on),
    }


def markdown(card: Mapping[str, Any], files: Sequence[tuple[str, str]]) -> str:
    """The card as a page, with how to use each file.

    Args:
        card: of :func:`make`.
        files: name and description of each that was left.
    """
    shown, net, name = card["input"], card["net"]["name"], card["dataset"]["name"]
    parts = [
        _front_matter(card),
        f"# {net} on {name}",
        f"An image classifier of {len(card['classes'])} classes, trained by Sextant with"
        f" `{card['kind']}` on {card['images']['train']} images; figures are of"
        f" {card['images']['test']} test images, which no decision of the training saw unless"
        " `validation` is 0.",
        _table(("figure", "value", "meaning"), _figures(card["test"])),
        "## Input",
        f"Float32 [batch, {shown['channels']}, {shown['height']}, {shown['width']}]: pixel values"
        " divided by 255, then (value - mean) / std for each channel. Pictures of other sizes were"
        f" {FITTED[shown['fit']]}, by means over areas where that made them smaller.",
        _code({"mean": shown["mean"], "std": shown["std"]}),
        "## Classes",
        "In the order of the outputs:",
        _code(card["classes"]),
        "## Files",
        _table(("file", "holds"), files),
        "## Use",
        *_uses({file for file, _ in files}),
        "## Training",
        f"Seed {card['seed']}, spec {card['spec_sha256'][:12]}, data"
        f" {(card['dataset']['sha256'] or 'built in')[:12]}. Versions and the whole spec:",
        _code(card["versions"]),
        _code(card["spec"]),
        "## Limits",
        "It names one of its classes whatever the image shows. On images of another source, size"
        " or preparation than those of the data the figures above say nothing; `classes.csv` and"
        " `confusion.csv` of the job tell which classes it takes for which.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(card: Mapping[str, Any]) -> str:
    fields = {
        "library_name": "timm" if card["net"].get("library") == "timm" else "sextant",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", card["kind"]],
        "datasets": [card["dataset"]["name"]],
        "metrics": ["accuracy"],
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]  # JSON is YAML
    return "\n".join(["---", *lines, "---"])


def _figures(test: Mapping[str, float]) -> list[tuple[str, str, str]]:
    return [(name, f"{value:.4f}", MEANING.get(name, "")) for name, value in test.items()]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(value: Any) -> str:
    """JSON, indented as code is: names of users are no Markdown; of a mapping a line a field."""
    fields = value.items() if isinstance(value, Mapping) else ()
    lines = [f"    {json.dumps(name)}: {json.dumps(each)}" for name, each in fields]
    return "\n".join(lines) or f"    {json.dumps(value)}"


def _uses(files: set[str]) -> list[str]:
    """Lines of code for the files that are there."""
    return [text for suffix, text in USES.items() if any(name.endswith(suffix) for name in files)]


USES = {
    ".onnx": """With onnxruntime (`name` is that of the file above):

    session = onnxruntime.InferenceSession(name)
    about = session.get_modelmeta().custom_metadata_map
    outputs = session.run(None, {"images": images})[0]
    print([json.loads(about["classes"])[k] for k in outputs.argmax(1)])""",
    ".pt2": """With torch alone:

    extra = {"description.json": ""}
    net = torch.export.load(name, extra_files=extra).module()
    classes = json.loads(extra["description.json"])["classes"]
    print([classes[k] for k in net(images).argmax(1)])""",
    ".safetensors": """In another job of Sextant, by id and name of the file: `saliency.map`,
`classify.predict` and the others take it as `model`.""",
}
