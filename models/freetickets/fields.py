"""Groups of fields in the spec of FreeTickets. Torch-free."""

from typing import Literal

from pydantic import Field, field_validator

from models.core.spec import DatasetRef, Int, SpecGroup


class PruneRate(SpecGroup):
    """Share of a layer's active weights that an update drops and grows elsewhere."""

    initial: float = Field(default=0.5, ge=0, le=1, description="Share at the beginning of a phase")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="cosine falls from initial to final over each phase"
    )
    final: float = Field(default=0.005, ge=0, le=1, description="Share at the end of the cosine")


class Escape(SpecGroup):
    """The large update between two tickets of one run, which leaves the basin of the last one."""

    fraction: float = Field(default=0.8, ge=0, le=1, description="Share of active weights replaced")
    growth: Literal["gradient", "random", "same"] = Field(
        default="same", description="How positions are chosen; same as in ordinary updates"
    )
    regrow_dropped: bool = Field(
        default=True,
        description="Whether a weight just dropped may be grown again; growth by gradient takes"
        " many back, so the escape is weaker than fraction (the report states the share)",
    )
    reset_momentum: bool = Field(default=False, description="Forget all momentum at an escape")


class Rates(SpecGroup):
    """Learning rates of a refinement, as factors on optimizer.lr."""

    shape: Literal["steps", "cosine"] = Field(
        default="steps",
        description="steps: high in the first half, low in the second; cosine: from high to low,"
        " so that each ticket starts anew from a high rate",
    )
    high: float = Field(default=0.1, gt=0, le=10, description="At the beginning of a refinement")
    low: float = Field(default=0.01, gt=0, le=10, description="At the end of a refinement")


class EnsembleEvaluation(SpecGroup):
    """What the tickets and their ensemble are tested on."""

    ece_bins: Int = Field(default=15, ge=2, le=1000, description="Equal bins of confidence")
    ece_mode: Literal["equal", "reference14"] = Field(
        default="equal",
        description="reference14: the 14 bins between 15 edges of the authors' code",
    )
    corruptions: bool = Field(
        default=False, description="Corruptions of CIFAR-C, five severities each"
    )
    ood: list[DatasetRef] = Field(
        default=[], max_length=8, description="Sets whose images belong to none of the classes"
    )
    fgsm_eps: list[float] = Field(
        default=[],
        max_length=8,
        description="Sizes of a one-step attack on the ensemble, in pixel values on 0..1",
    )

    @field_validator("fgsm_eps")
    @classmethod
    def _small_enough(cls, sizes: list[float]) -> list[float]:
        if any(not 0 < size <= 1 for size in sizes):
            raise ValueError(f"fgsm_eps {sizes}: each in (0, 1], for example 0.0314 for 8/255")
        return sizes


class Export(SpecGroup):
    """What is left of the ensemble for other programs, and how fast it runs here."""

    program: bool | None = Field(
        default=None,
        description="Leave ensemble.pt2, for torch.export.load, checked; null does from 100 steps"
        " on",
    )
    onnx: bool | None = Field(
        default=None, description="Leave ensemble.onnx, checked; null does where it fits in a file"
    )
    timings: list[Int] = Field(
        default=[],
        max_length=8,
        description="Batch sizes at which ways to run the ensemble are timed, and every layer of"
        " the first ticket dense and sparse: CSR on a CPU, 2:4 on a GPU",
    )

    @field_validator("timings")
    @classmethod
    def _batches(cls, sizes: list[int]) -> list[int]:
        if any(not 1 <= size <= 4096 for size in sizes):
            raise ValueError(f"timings {sizes}: batch sizes from 1 to 4096, for example 16 or 256")
        return sizes
