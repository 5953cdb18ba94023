"""Spec of FreeTickets training. Torch-free."""

import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from models.core.errors import SpecError
from models.core.needs import Bound, DatasetNeed, Need
from models.core.spec import MACS, ArtifactInfo, Estimate, Int, MetricInfo
from models.data.spec import check_one_size
from models.freetickets import cost, timetable
from models.freetickets.densities import MaskableLayer, can_cap, counts, densities, layers_of
from models.freetickets.fields import EnsembleEvaluation, Escape, Export, PruneRate, Rates
from models.freetickets.presets import PRESETS
from models.freetickets.timetable import Phase, Update
from models.nets.library_spec import ForeignNet, GivenNet, ProgramNet, net_tag
from models.nets.spec import ResidualFamily
from models.supervised.spec import ASSESSMENT, CONFIG, METRICS, SupervisedSpec

ONNX_LIMIT_BYTES = 2**31
RENAMED = {"escape": {"q": "fraction"}, "prune_rate": {"p": "initial", "p_min": "final"}}
IN_MEMORY = (
    "evaluate.corruptions changes all test images at once, so they must be in memory: leave"
    " evaluate.corruptions out, or give loading memory"
)
CORRUPTED_SETS = 70  # 14 corruptions, 5 severities: models/freetickets/corruptions.py


class FreeTicketsTrain(SupervisedSpec):
    """Train an ensemble of sparse nets by dynamic sparse training, or a baseline beside it."""

    entry: ClassVar[str] = "models.freetickets.train:train"
    resumable: ClassVar[bool] = True
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        *METRICS,
        MetricInfo("prune_rate", "share", None, "active weights dropped by an update"),
        MetricInfo("regrown", "share", "min", "of the dropped weights, those grown at once again"),
        MetricInfo("explored", "share", "max", "positions that were active at least once"),
        MetricInfo("ticket_accuracy", "share", "max", "test accuracy of a ticket at its end"),
        MetricInfo("ticket_nll", "nats", "min", "mean cross-entropy of a ticket at its end"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("tickets/ticket-*.safetensors", "weights", "a ticket as a plain net"),
        ArtifactInfo("ensemble.safetensors", "weights", "all tickets, zeros left out, checksum"),
        ArtifactInfo("checkpoints/step-*.safetensors", "checkpoint", "state to resume from"),
        ArtifactInfo(
            "ensemble.pt2",
            "export",
            "the ensemble for torch.export.load, any batch",
            on_request=True,
        ),
        ArtifactInfo("ensemble.onnx", "export", "the ensemble as ONNX, any batch"),
        CONFIG,
        ArtifactInfo("model_card.md", "report", "what the ensemble is, how good, how to use it"),
        ArtifactInfo("report.json", "report", "all figures, layers, updates, operations, times"),
        ArtifactInfo("history.csv", "table", "a row an epoch: accuracy, seconds"),
        ArtifactInfo("updates.csv", "table", "a row an update of the masks"),
        ArtifactInfo(
            "layers.csv",
            "table",
            "a row a layer and batch: dense and sparse timings",
            on_request=True,
        ),
        ArtifactInfo(
            "corruptions.csv", "table", "a row a corruption and severity", on_request=True
        ),
        ArtifactInfo(
            "corruptions.png",
            "image",
            "accuracy and NLL by severity, ECE by corruption",
            on_request=True,
        ),
        ArtifactInfo("curves.png", "image", "loss and accuracy against training time"),
        *ASSESSMENT,
        ArtifactInfo("reliability.png", "image", "confidence against accuracy, tickets, ensemble"),
        ArtifactInfo("tickets.png", "image", "densities of layers, overlap and disagreement"),
        ArtifactInfo("view.npz", "samples", "test images on which tickets differ most, uint8"),
        ArtifactInfo("view.json", "view", "what the page's viewer of members shows"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "freetickets.train",
        "model": {"name": "resnet8"},
        "data": {"dataset": "digits"},
        "images": {"image_size": 16, "augment": {"crop_padding": 1}},
        "epochs": 9,
        "batch_size": 64,
        "update_interval": 20,
    }

    kind: Literal["freetickets.train"] = Field(init=False)
    model: Annotated[
        Annotated[ForeignNet, Tag("library")]
        | Annotated[ProgramNet, Tag("program")]
        | Annotated[ResidualFamily, Tag("own")],
        Discriminator(net_tag),
    ]
    variant: Literal["edst", "dst", "static", "dense", "dense_ensemble", "snapshot"] = Field(
        default="edst",
        description="edst: one run, M tickets; dst: M runs; static: M runs with masks at rest;"
        " dense: one plain run; dense_ensemble: M of them; snapshot: one plain run, M cycles",
    )
    members: Int = Field(default=3, ge=1, le=16, description="Tickets M of the ensemble")
    explore: Int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Exploration of edst in epochs, or in steps where max_steps is given;"
        " what refine leaves, or a third of the run when null",
    )
    refine: Int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Each refinement of edst in the same unit; an equal share when null",
    )
    sparsity: float = Field(default=0.8, ge=0, lt=1, description="Share S of weights that are 0")
    distribution: Literal["erk", "er", "uniform"] = Field(
        default="erk", description="How the active weights are spread over the layers"
    )
    keep_dense: list[str] = Field(
        default=[], max_length=100, description="Names or patterns of layers that stay dense"
    )
    growth: Literal["gradient", "random"] = Field(
        default="gradient", description="Grow the largest gradients (RigL) or at random (SET)"
    )
    prune_rate: PruneRate = PruneRate()
    update_interval: Int = Field(
        default=1000, ge=1, le=10_000_000, description="Steps between updates of the masks"
    )
    freeze_last: float = Field(
        default=0.1, ge=0, lt=1, description="Share of each phase, at its end, without updates"
    )
    regrow_dropped: bool = Field(
        default=True, description="Whether an update may grow again what it has just dropped"
    )
    regrown_value: Literal["zero", "keep"] = Field(
        default="zero", description="Value of a weight dropped and grown at once"
    )
    structure: Literal["none", "cap24"] = Field(
        default="none",
        description="cap24: at most 2 active in 4 neighbouring inputs where the density is at most"
        " 1/2, so that sparse tensor cores can run the layer",
    )
    escape: Escape = Escape()
    rates: Rates = Rates()
    evaluate: EnsembleEvaluation = EnsembleEvaluation()
    export: Export = Export()

    @classmethod
    def upgrade(cls, stored: dict[str, Any]) -> list[str]:
        """Give fields of earlier releases the names of today; see :meth:`Spec.upgrade`."""
        for group in RENAMED.keys() & stored.keys():
            names = RENAMED[group]
            stored[group] = {names.get(name, name): value for name, value in stored[group].items()}
        return super().upgrade(stored)

    @model_validator(mode="after")
    def _works(self) -> "FreeTicketsTrain":
        if self.variant == "dense" and "members" in self.model_fields_set and self.members != 1:
            raise ValueError("variant dense has one member: use dense_ensemble, or members 1")
        if self.prune_rate.final > self.prune_rate.initial:
            raise ValueError("prune_rate: final is above initial; lower final or raise initial")
        if self.loading == "stream" and self.evaluate.corruptions:
            raise ValueError(IN_MEMORY)
        if self.structure != "none" and not self.is_sparse:
            raise ValueError(
                f"structure {self.structure}: the layers of variant {self.variant} are dense, and"
                " nothing can be skipped: choose edst, dst or static, or structure none"
            )
        if not isinstance(self.model, GivenNet):  # of which a worker alone knows the layers
            self.check_layers(layers_of(self.model, 3, 10, 32, 32))
        self._check_other_sets()
        if self.budget.patience is not None:
            raise ValueError(
                "budget.patience: tickets are left at the ends of phases, whose lengths are fixed:"
                " leave it out"
            )
        self.explored_units()
        if self.max_steps is not None:
            self.check_interval(self.phases(1))
        return self

    def check_layers(self, layers: list[MaskableLayer]) -> None:
        """Refuse fields that do not fit the layers of the net.

        Raises:
            SpecError: if a pattern names no layer, too few weights would be active, or a file would
                be too large.
        """
        names = [layer.name for layer in layers]
        for pattern in self.keep_dense:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SpecError(
                    f"keep_dense: {pattern!r} names no layer of {self.model.name};"
                    f" there are {', '.join(names)}"
                )
        self._check_exports(layers)
        self._check_live_weights(layers)

    def _check_live_weights(self, layers: list[MaskableLayer]) -> None:
        live, units = sum(self.active(layers)), sum(layer.c_out for layer in layers)
        if live < units:
            highest = math.floor(1e4 * (1 - units / sum(layer.size for layer in layers))) / 1e4
            raise SpecError(
                f"sparsity {self.sparsity} leaves {live} weights to the {units} units of"
                f" {self.model.name}, so that most have no input: give at most {highest:.4f}"
            )

    def _check_other_sets(self) -> None:
        names = [reference.dataset for reference in self.evaluate.ood]
        if self.data.dataset in names:
            raise ValueError(
                f"evaluate.ood names {self.data.dataset}, the set that is trained on, whose images"
                " do belong to the classes: name other sets, or leave ood out"
            )
        if len(set(names)) < len(names):
            raise ValueError("evaluate.ood names one set twice: give each once")

    def _check_exports(self, layers: list[MaskableLayer]) -> None:
        size = self._bytes(layers)
        if self.export.onnx and size >= ONNX_LIMIT_BYTES:
            raise SpecError(
                f"export.onnx: {self.tickets} members of {self.model.name} take"
                f" {size / 1e9:.1f} GB, a file of ONNX holds 2.1: lower members, or use"
                " export.program"
            )

    def _bytes(self, layers: list[MaskableLayer]) -> int:
        """Of the weights of all members."""
        return 4 * self.tickets * sum(layer.size for layer in layers)

    def wants_onnx(self, layers: list[MaskableLayer]) -> bool:
        """Whether the ensemble of a net with these layers is left as ONNX."""
        fits = self._bytes(layers) < ONNX_LIMIT_BYTES
        return fits if self.export.onnx is None else self.export.onnx

    @property
    def program_asked(self) -> bool | None:
        """Field ``export.program``."""
        return self.export.program

    @property
    def tickets(self) -> int:
        """Members of the ensemble."""
        return 1 if self.variant == "dense" else self.members

    @property
    def tests(self) -> int:
        """Tests after the training: of tickets, corrupted sets, other sets, attacks."""
        asked = self.evaluate
        corrupted = CORRUPTED_SETS if asked.corruptions else 0
        return self.tickets + corrupted + len(asked.ood) + len(asked.fgsm_eps)

    @property
    def is_sparse(self) -> bool:
        """Whether weights are masked at all."""
        return self.variant in ("edst", "dst", "static")

    @property
    def is_dynamic(self) -> bool:
        """Whether masks change."""
        return self.variant in ("edst", "dst")

    @property
    def restarts(self) -> bool:
        """Whether each member starts anew from weights of its own."""
        return self.variant not in ("edst", "snapshot")

    def shares(self, layers: list[MaskableLayer]) -> list[float]:
        """Share of active weights of each layer.

        Raises:
            SpecError: if the layers kept dense or the cap of 2 in 4 leave no way.
        """
        if not self.is_sparse:
            return [1.0] * len(layers)
        try:
            shares = densities(layers, self.sparsity, self.distribution, self.keep_dense)
        except ValueError as error:
            raise SpecError(str(error)) from error
        if self.structure == "cap24" and not any(map(can_cap, layers, shares)):
            raise SpecError(
                f"structure cap24: at sparsity {self.sparsity} no layer of {self.model.name} with a"
                " multiple of 4 inputs has a density of at most 1/2: raise sparsity to 0.6 or more,"
                " or use structure none"
            )
        return shares

    def active(self, layers: list[MaskableLayer]) -> list[int]:
        """Active weights of each layer, in exact numbers."""
        sparsity = self.sparsity if self.is_sparse else 0.0
        return counts(layers, self.shares(layers), sparsity)

    def explored_units(self) -> int:
        """Epochs (or steps) of the exploration; 0 for all variants but edst.

        Raises:
            SpecError: if the phases do not add up.
        """
        total, unit = self.max_steps or self.epochs or 10, "steps" if self.max_steps else "epochs"
        asked = (self.variant, self.tickets, total, self.explore, self.refine, unit)
        return timetable.explored(timetable.Lengths(*asked))

    def phases(self, per_epoch: int) -> list[Phase]:
        """The phases in steps, given the steps of an epoch."""
        scale = 1 if self.max_steps else per_epoch
        total = self.max_steps or self.epochs or 10
        explore = self.explored_units()
        return timetable.phases(self.variant, self.tickets, total, explore, scale)

    def updates(self, plan: list[Phase]) -> dict[int, Update]:
        """The ordinary updates of the masks by steps done."""
        if not self.is_dynamic:
            return {}
        return timetable.updates(
            plan, self.update_interval, self.prune_rate, self.freeze_last, restarts=self.restarts
        )

    def check_interval(self, plan: list[Phase]) -> None:
        """Refuse an interval that leaves a phase without an update.

        Raises:
            SpecError: naming the longest interval that works.
        """
        shortest = min(phase.length for phase in plan)
        longest = max(1, int((1 - self.freeze_last) * shortest))
        if self.is_dynamic and self.update_interval > longest:
            raise SpecError(
                f"update_interval {self.update_interval} is longer than the changing part of a"
                f" phase, {longest} of {shortest} steps: give at most {longest}, or train longer",
                pointer="/update_interval",
            )

    def needs(self) -> Iterator[Need]:
        """Beside the data of every training, labelled images of other classes to test on."""
        yield from super().needs()
        for index, _ in enumerate(self.evaluate.ood):
            yield DatasetNeed(f"/evaluate/ood/{index}", {"labelled images": (Bound("test", 1),)})

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """Steps, active weights, and operations against one dense member, both conventions.

        Raises:
            SpecError: if the phases are too short for the data.
        """
        known = counts.get(self.data.dataset, {})
        check_one_size(self.images.image_size, known)
        self.check_program(counts)
        size = self.images.image_size
        shape = (size or known.get("height", 32), size or known.get("width", 32))
        layers: list[MaskableLayer] = []
        if not isinstance(self.model, GivenNet):
            channels, classes = known.get("channels", 3), known.get("classes", 10)
            layers = layers_of(self.model, channels, classes, *shape)
        details = self._details(layers)
        if "train" not in known:
            return Estimate(details=details)
        images = self.used(known["train"])
        per_epoch, steps = self.steps(images)
        plan = self.phases(per_epoch)
        self.check_interval(plan)
        details["updates"] = len(self.updates(plan))
        total = steps + self.tests
        if not layers:
            return Estimate(total_steps=total, details=details)
        dense = sum(layer.macs for layer in layers)
        work = float(steps * self.batch(images) * dense)  # masks cost nothing less on a device
        return Estimate(total_steps=total, work=work, work_unit=MACS, details=details)

    def _details(self, layers: list[MaskableLayer]) -> dict[str, float | int | str | None]:
        """Weights and operations of a net with these layers; nothing where they are not known."""
        if not layers:
            return {}
        active = self.active(layers)
        shares = [k / layer.size for k, layer in zip(active, layers, strict=True)]
        interval = self.update_interval if self.is_dynamic else None
        costs = cost.costs(layers, shares, interval)
        return {
            "weights": sum(layer.size for layer in layers),
            "active_weights": sum(active),
            "step_ratio_counted": costs.counted_ratio,
            "step_ratio_executed": costs.executed_ratio,
            "inference_ratio": self.tickets * costs.forward_ratio,
        }
