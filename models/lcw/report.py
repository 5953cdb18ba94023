"""``report.json`` and ``report.html``: every figure with its features, counts, seed and floor."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.core import reports
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
TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


def write(run: Run, figures: Mapping[str, Any], pictures: Mapping[str, str]) -> None:
    """Leave both files as artifacts.

    Args:
        run: takes the files.
        figures: of ``evaluate`` and the run; JSON can hold them.
        pictures: file name to caption.
    """
    run.report("report.json", figures)
    text = reports.render(
        TEMPLATE,
        data=figures["data"],
        reference=figures["reference"],
        features=figures["features"],
        columns=[name for name in COLUMNS if name in figures["floor"]],
        scores=_scores(figures),
        others=_others(figures),
        pictures=[(caption, run.dir / name) for name, caption in pictures.items()],
        spec=json.dumps(figures["spec"], indent=1, allow_nan=False),
    )
    (run.dir / "report.html").write_text(text)
    run.artifact("report.html", role="report")


def _scores(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Rows of the table of scores, the floor first."""
    return [
        ("floor: test images", figures["floor"]),
        ("test images through the autoencoder", figures["reconstructed"]),
        *figures["scores"].items(),
    ]


def _others(figures: Mapping[str, Any]) -> list[tuple[str, float]]:
    """All other figures by what they mean."""
    plain = {"reconstruction": figures["reconstruction"]}
    plain |= figures["latent"] | figures["memorisation"]
    if "test_accuracy" in figures["features"]:
        plain["classifier_test_accuracy"] = figures["features"]["test_accuracy"]
    return [(MEANINGS[name], value) for name, value in plain.items()]
