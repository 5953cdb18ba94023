"""What every spec is made of. Torch-free: the API validates with these classes."""

import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue

from models.core.needs import ArtifactNeed, Need


def _integral(value: Any) -> Any:
    """JSON writes 3 and 3.0 alike; strict mode accepts only the first."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_integral)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in hex")]
MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}"
MODEL_ALIAS = r"[A-Za-z][A-Za-z0-9._-]{0,63}"
REGISTERED = rf"model:{MODEL_NAME}(@{MODEL_ALIAS}|/[1-9][0-9]{{0,8}})"
VERSION_PATTERN = f"^{REGISTERED}$"
# pydantic publishes a bound under its own name where a validator stands before the type, as in Int
KEYWORDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}


class StrictFields(BaseModel):
    """Fields that a user sends: unknown ones refused, frozen, no silent conversion, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """JSON Schema of the class, with the keywords of the standard alone."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        schema.update(_in_keywords(schema))
        return reference


def _in_keywords(schema: Any) -> Any:
    """The same schema with pydantic's own names of bounds replaced; a bound is a number."""
    if isinstance(schema, list):
        return [_in_keywords(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        KEYWORDS.get(name, name) if isinstance(inner, int | float) else name: _in_keywords(inner)
        for name, inner in schema.items()
    }


class SpecGroup(StrictFields):
    """A group of fields inside a spec."""


class ArtifactRef(SpecGroup):
    """A file that a job left, also by its name in the registry of models."""

    job: str = Field(
        pattern=rf"^(job_[0-9a-f]{{32}}|{REGISTERED})$",
        description="Id of the job that made it; or a version of a registered model,"
        " `model:NAME@ALIAS` or `model:NAME/3`, which tells the artifact too",
    )
    artifact: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._/-]{0,200}$",
        validate_default=True,
        description="Name of the artifact in that job; left out of a registered model",
    )
    sha256: Sha256 | None = Field(
        default=None, description="Of its content; the service fills it in at submission"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, sent: Any) -> Any:
        """``model:NAME@ALIAS`` stands for the whole reference."""
        is_name = isinstance(sent, str) and sent.startswith("model:")
        return {"job": sent} if is_name else sent

    @field_validator("artifact")
    @classmethod
    def _goes_with_its_job(cls, artifact: str, info: ValidationInfo) -> str:
        job = str(info.data.get("job", ""))
        if job.startswith("job_") and not artifact:
            raise ValueError("name the artifact of the job")
        if job.startswith("model:") and artifact:
            raise ValueError(f"{job} tells which artifact is meant: leave it out")
        return artifact

    @property
    def registered(self) -> str | None:
        """The version of a registered model that is meant, such as ``model:digits@production``."""
        return self.job if self.job.startswith("model:") else None


class _NameToo:
    """Beside the schema of :class:`ArtifactRef` that of a version's name, where it is sent."""

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        reference = handler(core_schema)
        if handler.mode == "serialization":
            return reference
        return {"anyOf": [reference, {"type": "string", "pattern": VERSION_PATTERN}]}


ArtifactOrVersion = Annotated[ArtifactRef, _NameToo()]


PROJECT = r"^(utm|EPSG:[0-9]{4,6})$"  # a reference system that rasters are brought to


class ReadOptions(SpecGroup):
    """How an uploaded set of images is read, as chosen at its import."""

    label: str | None = Field(
        default=None, min_length=1, max_length=200, description="Column of the labels; parquet only"
    )
    split: Literal["named", "hold_out"] = Field(
        default="named",
        description="named: parts by the names train, validation, test of folders, files or "
        "arrays, a fifth held out where there are none; hold_out: such names mean nothing, a "
        "fifth is always held out",
    )


class DatasetRef(SpecGroup):
    """A dataset by name or id."""

    dataset: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,120}$", description="Name or id of a built-in or uploaded set"
    )
    sha256: Sha256 | None = Field(
        default=None, description="Of its content; the service fills it in at submission"
    )
    read: ReadOptions | None = Field(
        default=None, description="Options of its import, where there were any"
    )

    def from_upload(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the fields left out here that the options of the upload tell.

        Args:
            options: of the dataset.
        """
        names = type(self).model_fields.keys() & options.keys()
        return {name: options[name] for name in names if getattr(self, name) is None}


class Optimizer(SpecGroup):
    """How weights follow their gradients, and the learning-rate schedule over the run's steps."""

    name: Literal["sgd", "adamw", "lamb"] = Field(
        default="sgd",
        description="Stochastic gradient descent; AdamW (Loshchilov and Hutter, 2019), with a rate"
        " of its own, such as 0.001; or LAMB (You et al., 2020), for large batches, likewise, such"
        " as 0.005",
    )
    lr: float = Field(default=0.1, gt=0, le=100, description="Peak learning rate")
    momentum: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="Of sgd; with adamw and lamb the decay of the first moment",
    )
    beta2: float = Field(
        default=0.999, ge=0, lt=1, description="Decay of the second moment (adamw, lamb)"
    )
    nesterov: bool = Field(default=True, description="Look ahead by the momentum (sgd)")
    weight_decay: float = Field(
        default=5e-4,
        ge=0,
        le=1,
        description="Pull of the weights towards zero: added to gradients with sgd, apart from"
        " them with adamw and lamb",
    )
    decay: Literal["all", "matrices"] | None = Field(
        default=None,
        description="What decays: all parameters, or those of two and more axes, which leaves out"
        " norms and biases; all with sgd and matrices with adamw and lamb when null",
    )
    clip_norm: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Scale gradients down so that their norm over all parameters is at most this",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="Decay of the learning rate after the warm-up, to zero"
    )
    warmup: float = Field(
        default=0.05, ge=0, le=1, description="Share of the steps in which the rate rises from 0"
    )
    warmup_steps: Int | None = Field(
        default=None, ge=0, le=10_000_000, description="The same as a number, in place of warmup"
    )

    @model_validator(mode="after")
    def _fields_fit(self) -> "Optimizer":
        if self.name != "sgd" and "lr" not in self.model_fields_set:
            usual = {"adamw": 0.001, "lamb": 0.005}[self.name]
            raise ValueError(
                f"{self.name} needs a learning rate of its own: give lr, such as {usual}"
            )
        foreign = "beta2" if self.name == "sgd" else "nesterov"
        if self._differs(foreign):
            raise ValueError(f"{foreign} means nothing with {self.name}: leave it out")
        if self.warmup_steps is not None and self._differs("warmup"):
            raise ValueError("give warmup or warmup_steps, not both")
        return self

    def _differs(self, name: str) -> bool:
        """Whether a field has another value than its default, which a stored spec holds too."""
        return getattr(self, name) != type(self).model_fields[name].get_default()

    def warm(self, total: int) -> int:
        """Steps in which the rate rises, of a run of so many."""
        if self.warmup_steps is None:
            return math.ceil(self.warmup * total)
        return min(self.warmup_steps, total)

    def decays(self, axes: int) -> bool:
        """Whether a parameter of so many axes decays."""
        kept = self.decay or ("all" if self.name == "sgd" else "matrices")
        return kept == "all" or axes > 1


class MetricInfo(NamedTuple):
    """A number that a kind reports."""

    name: str
    unit: str
    goal: Literal["min", "max"] | None
    description: str


class ArtifactInfo(NamedTuple):
    """A file that a kind leaves, ``on_request`` only where the spec asks; ``*`` in names.

    Of several that fit a file the most exact one tells of it: :meth:`Spec.artifact_of`.
    """

    name: str
    role: str
    description: str
    on_request: bool = False


VECTOR = ArtifactInfo("*.svg", "figure", "each picture for print")
FIGURE_DATA = ArtifactInfo("*.csv", "figure", "what a picture shows, where no other table does")
MACS = "multiply-adds forward"  # the unit of work of trainings; backward is about twice that


class Estimate(BaseModel):
    """What a job will cost, worked out before it runs.

    Runs of a kind whose ``work`` is in one unit are compared: about twice the work takes twice the
    seconds. Where spec and data do not tell how much there is, all runs count as equal.
    """

    total_steps: int | None = Field(default=None, description="Progress steps of the run")
    work: float = Field(default=1, gt=0, description="How much there is to compute, in work_unit")
    work_unit: str = Field(default="runs", description="What is counted, and through which net")
    details: dict[str, float | int | str | None] = {}


class Spec(SpecGroup):
    """What a job asks for: validated, frozen, and enough to repeat the run.

    A kind declares beside its fields, all torch-free: ``entry`` (module:function that carries it
    out), ``queue``, ``metrics``, ``artifacts``, ``presets``, ``example`` (a spec whose result is
    worth seeing, in about a minute on two cores), ``needs`` and ``estimate``; one that can answer
    at once also ``serving`` (module:function that loads the file of its field ``model`` and gives
    an :data:`models.core.serving.Answerer`).
    """

    entry: ClassVar[str]
    serving: ClassVar[str] = ""
    resumable: ClassVar[bool] = False
    queue: ClassVar[str] = "default"
    metrics: ClassVar[tuple[MetricInfo, ...]] = ()
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    example: ClassVar[Mapping[str, Any]] = {}

    seed: Int = Field(default=0, ge=0, lt=2**32, description="Seed of every random stream")
    deterministic: bool = Field(
        default=False, description="Bit-equal repetition on the same device class; may be slower"
    )
    threads: Int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads; results depend on their number, also with deterministic."
        " null: one for each core that the run may use; the lineage of the job tells how many",
    )
    resume_from: ArtifactOrVersion | None = Field(
        default=None, description="Checkpoint to go on from; refused where not resumable"
    )

    @model_validator(mode="before")
    @classmethod
    def name_kind(cls, fields: Any) -> Any:
        """The class says what kind it is of, so that nobody has to write it a second time."""
        if isinstance(fields, Mapping) and "kind" in cls.model_fields and "kind" not in fields:
            (kind,) = get_args(cls.model_fields["kind"].annotation)
            return {"kind": kind, **fields}
        return fields

    @classmethod
    def artifact_of(cls, name: str) -> ArtifactInfo | None:
        """What the kind says of a file of this name; None where it leaves no such file."""
        fitting = [each for each in cls.artifacts if fnmatchcase(name, each.name)]
        return max(fitting, key=lambda each: len(each.name.replace("*", "")), default=None)

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """Cost of the run.

        Args:
            counts: for each dataset named in the spec, its counts (``train``, ``test``,
                ``classes``, ``height``, ``width``, ``channels``) as far as known.
        """
        return Estimate()

    def needs(self) -> Iterator[Need]:
        """What each dataset and artifact that the spec names must be; a need for every one."""
        if self.resume_from is not None:
            kinds = (str(getattr(self, "kind", "")),)  # of the classes for each kind
            yield ArtifactNeed("/resume_from", ("checkpoint",), kinds)

    @classmethod
    def upgrade(cls, stored: dict[str, Any]) -> list[str]:  # noqa: ARG003  # for kinds that changed
        """Bring a spec that an earlier release accepted to today's fields and bounds, in place.

        Args:
            stored: JSON of the spec; only fields that changed since are touched.

        Returns:
            A sentence for the user about each value that changes what the job computes.
        """
        return []

    def references(self) -> Iterator[tuple[str, ArtifactRef | DatasetRef]]:
        """Every reference in the spec with its JSON pointer, for example ``/data``."""
        yield from _references(self, "")


def _references(value: Any, pointer: str) -> Iterator[tuple[str, ArtifactRef | DatasetRef]]:
    if isinstance(value, ArtifactRef | DatasetRef):
        yield pointer, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _references(getattr(value, name), f"{pointer}/{name}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _references(item, f"{pointer}/{index}")
