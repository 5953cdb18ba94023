"""Bodies of pipelines: several jobs that use each other's files, sent at once."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from app.schemas.jobs import MAX_SOURCES, JobOptions, JobRead
from app.schemas.page import Body

LOCAL_NAME = r"^[a-z][a-z0-9_-]{0,29}$"
LocalName = Annotated[str, StringConstraints(pattern=LOCAL_NAME)]
Source = Annotated[
    str,
    Field(
        pattern=r"^([a-z][a-z0-9_-]{0,29}|job_[0-9a-f]{32})$",
        description="`id` of a job in this pipeline, or id of one stored before",
    ),
]
MAX_PIPELINE_JOBS = 64


class PipelineJob(JobOptions):
    """A job of a pipeline, as for `POST /v1/jobs`."""

    id: LocalName = Field(description="What the other jobs of the pipeline call it")
    spec: dict[str, Any] = Field(
        description="As for `POST /v1/jobs`; `job` of a reference may be the `id` of another job "
        "of the pipeline, which this one then waits for"
    )
    depends_on: list[Source] = Field(
        default=[], max_length=MAX_SOURCES, description="Jobs that must succeed before this one"
    )


class PipelineCreate(Body):
    """Jobs that are stored together, or none of them."""

    jobs: list[PipelineJob] = Field(
        min_length=1, max_length=MAX_PIPELINE_JOBS, description="In any order, without a circle"
    )


class PipelineRead(BaseModel):
    """The jobs of a new pipeline; they go their own ways from here on."""

    object: Literal["pipeline"] = "pipeline"
    jobs: dict[str, JobRead] = Field(description="By the ids of the request, in its order")
