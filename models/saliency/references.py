"""The sources of what a spec uses, for people and as BibTeX."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from models.core.run import Run
from models.saliency.spec.evaluate import SaliencySweep
from models.saliency.spec.map import Explanation

FILE = Path(__file__).with_name("references.bib")
ENTRY = re.compile(r"^@\w+\{(\w+),\n(.*?)^\}\n", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.MULTILINE)
ACCENT = re.compile(r"\{\\([\"'])(\w)\}")
COMBINING = {'"': "\u0308", "'": "\u0301"}

ALWAYS = ("brunke2020",)
OF_SWEEPS = ("spearman1904", "holm1979", "hayes2007")
# by the id of a method, a grader, a baseline or segments
SOURCES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("occlusion", "occlusion_raw"), ("zeiler2014",)),
    "rise": ("petsiuk2018",),
    "lime": ("ribeiro2016",),
    "kernel_shap": ("lundberg2017",),
    "shapley_exact": ("shapley1953",),
    "partition_shap": ("owen1977", "lundberg2017"),
    "slic": ("achanta2012",),
    "meaningful": ("fong2017",),
    "extremal": ("fong2019",),
    "gradient": ("simonyan2014",),
    "input_x_gradient": ("shrikumar2016",),
    "integrated_gradients": ("sundararajan2017",),
    "smoothgrad": ("smilkov2017",),
    "gradcam": ("selvaraju2017",),
    "score_cam": ("wang2020",),
    "ablation_cam": ("desai2020",),
    "sobol": ("fel2021", "jansen1999"),
    **dict.fromkeys(("deletion", "insertion"), ("petsiuk2018",)),
    **dict.fromkeys(("morf", "lerf", "region_perturbation"), ("samek2017",)),
    "srg": ("samek2017", "bluecher2024"),
    "selectivity": ("montavon2018",),
    "irof": ("rieger2020", "achanta2012"),
    **dict.fromkeys(("road", "noisy_linear"), ("rong2022",)),
    "inpainted": ("damelin2018",),
    "dataset_samples": ("sturmfels2020",),
    **dict.fromkeys(("infidelity", "sensitivity_max", "sensitivity_avg"), ("yeh2019",)),
    "faithfulness_correlation": ("bhatt2020",),
    "sensitivity_n": ("ancona2018",),
    "monotonicity_correlation": ("nguyen2020",),
    "pointing_game": ("zhang2018",),
    **dict.fromkeys(("mass_in_box", "region_iou"), ("wang2020",)),
    "complexity": ("bhatt2020", "hedstroem2023"),
    "sparseness": ("chalasani2020", "hedstroem2023"),
    **dict.fromkeys(("sic", "aic"), ("kapishnikov2019",)),
    "roar": ("hooker2019", "holm1979"),
    "mprt": ("adebayo2018",),
    "random_logit": ("sixt2020",),
    "efficient_mprt": ("hedstroem2024",),
}


def cited(spec: Explanation) -> list[str]:
    """Keys of the sources that a spec uses, sorted."""
    parts = [*spec.methods, *spec.baselines, *getattr(spec, "graders", [])]
    parts += [part.baseline for part in getattr(spec, "graders", []) if hasattr(part, "baseline")]
    further = OF_SWEEPS if isinstance(spec, SaliencySweep) else ()
    return sorted({*cited_by(parts), *ALWAYS, *further})


def cited_by(parts: Sequence[Any], *ids: str) -> list[str]:
    """Keys of the sources of methods, graders and baselines, and of further ids, sorted."""
    parts = [*parts, *(part.segments for part in parts if hasattr(part, "segments"))]
    names = [*ids, *(getattr(part, "id", "") for part in parts)]
    return sorted({key for name in names for key in SOURCES.get(name, ())})


def leave(spec: Explanation, run: Run) -> None:
    """Leave ``references.bib`` with the sources of what a spec uses."""
    leave_keys(cited(spec), run)


def leave_keys(keys: list[str], run: Run) -> None:
    """Leave ``references.bib`` with some sources."""
    (run.dir / FILE.name).write_text(bibtex(keys))
    run.artifact(FILE.name, role="report")


def bibtex(keys: list[str]) -> str:
    """The entries of some keys, in their order."""
    return "\n".join(_entries()[key] for key in keys)


def listed(key: str) -> str:
    """A source in words: authors, title, where, year, arXiv number."""
    fields = dict(FIELD.findall(_entries()[key]))
    names = [name.partition(",")[0] for name in fields["author"].split(" and ")]
    authors = ", ".join(names) if len(names) < 4 else f"{names[0]} et al."
    where = fields.get("booktitle") or fields.get("journal") or f"arXiv {fields.get('eprint')}"
    words = f"{authors}: {fields['title'].rstrip('?')}. {where}, {fields['year']}"
    words = ACCENT.sub(lambda letter: letter[2] + COMBINING[letter[1]], words)
    return unicodedata.normalize("NFC", re.sub(r"[{}]", "", words))


@cache
def _entries() -> dict[str, str]:
    return {entry[1]: entry[0] for entry in ENTRY.finditer(FILE.read_text())}
