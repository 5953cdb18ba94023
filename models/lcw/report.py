"""``report.json`` and ``report.html``: every figure with its features, counts, seed and floor."""

import base64
import html
import json
from collections.abc import Mapping
from typing import Any

from models.core.run import Run

COLUMNS = (
    "frechet", "kid", "precision", "recall", "density", "coverage",
    "modes", "kl_generated", "kl_training",
)  # fmt: skip
MEANINGS = {
    "reconstruction": "squared error of a test image, summed over its pixels (0 to 1), mean",
    "std": "latents of test images: standard deviation over all elements",
    "dead_dimensions": "of them, dimensions without spread",
    "cw_to_normal": "of them, Cramer-Wold distance to N(0, I)",
    "cw_to_generated": "of them, Cramer-Wold distance to generated latents",
    "mardia_skewness": "of them, Mardia's skewness (a normal: near 0)",
    "mardia_kurtosis_excess": "of them, Mardia's kurtosis less a normal's",
    "median_nearest_samples": "median distance in pixels of a sample to its nearest training image",
    "median_nearest_test_images": "the same from a test image: far less would be copying",
    "classifier_test_accuracy": "share of test images that the classifier of fd_clf gets right",
}
STYLE = (
    "body{font:15px system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.3rem .6rem;"
    "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    "caption{text-align:left;padding:.3rem 0}"
)


def write(run: Run, figures: Mapping[str, Any], pictures: Mapping[str, str]) -> None:
    """Leave both files as artifacts.

    Args:
        run: takes the files.
        figures: of ``evaluate`` and the run; JSON can hold them.
        pictures: file name to caption.
    """
    run.report("report.json", figures)
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>Latent Cramer-Wold generator</title><style>{STYLE}</style>",
        f"<h1>Latent Cramer-Wold generator on {html.escape(str(figures['data']))}</h1>",
        _scores(figures),
        _figures(figures),
        *(_picture(run, name, caption) for name, caption in pictures.items()),
        _card(figures),
        "</html>",
    ]
    (run.dir / "report.html").write_text("\n".join(parts))
    run.artifact("report.html", role="report")


def _scores(figures: Mapping[str, Any]) -> str:
    features = figures["features"]
    rows = [
        ("floor: test images", figures["floor"]),
        ("test images through the autoencoder", figures["reconstructed"]),
        *figures["scores"].items(),
    ]
    shown = [name for name in COLUMNS if name in figures["floor"]]
    head = "".join(f"<th>{name}</th>" for name in ("", "images", *shown, "frechet at floor count"))
    body = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{values['count']}</td>"
        + "".join(f"<td>{values[column]:.4g}</td>" for column in shown)
        + f"<td>{values.get('frechet_at_floor_count', values['frechet']):.4g}</td></tr>"
        for name, values in rows
    )
    caption = (
        f"Against {figures['reference']['count']} training images in features {features['id']}"
        f" ({features['dim']} dimensions, SHA-256 {features['sha256'][:12]}…)."
        f" {_comparable(features)} The floor is what real images reach,"
        " the row below it what this autoencoder makes of them: latents matched exactly."
    )
    return f"<table><caption>{caption}</caption><tr>{head}</tr>{body}</table>"


def _comparable(features: Mapping[str, Any]) -> str:
    if features["id"] == "fid_inception":
        return "FIDs as far as that net is the usual one: its checksum tells."
    return "These are not FIDs: compare them only with figures in the same features."


def _figures(figures: Mapping[str, Any]) -> str:
    plain = {"reconstruction": figures["reconstruction"]}
    plain |= figures["latent"] | figures["memorisation"]
    if "test_accuracy" in figures["features"]:
        plain["classifier_test_accuracy"] = figures["features"]["test_accuracy"]
    rows = "".join(
        f"<tr><td>{MEANINGS[name]}</td><td>{value:.5g}</td></tr>" for name, value in plain.items()
    )
    return f"<h2>Other figures</h2><table>{rows}</table>"


def _picture(run: Run, name: str, caption: str) -> str:
    data = base64.b64encode((run.dir / name).read_bytes()).decode()
    return f"<h2>{caption}</h2><img alt='{caption}' src='data:image/png;base64,{data}'>"


def _card(figures: Mapping[str, Any]) -> str:
    spec = html.escape(json.dumps(figures["spec"], indent=1, allow_nan=False))
    return (
        "<h2>Model card</h2><p>Draws images like its training data; it knows nothing else and was"
        " checked for nothing else. The licence of the data is that of its source and binds what"
        " is drawn from it as far as the data's owner says.</p>"
        f"<pre>{spec}</pre>"
    )
