"""Jobs beside each other: where specs and results differ, and the last value of each metric."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Metric
from app.schemas.state import ComparisonRead, FieldDifference
from app.services import jobs
from app.services.differences import ABSENT, Difference, differences


def compare(session: Session, tenant_id: str, job_ids: Sequence[str]) -> ComparisonRead:
    """Compare jobs of a tenant, in their order.

    Raises:
        NotFoundError: if one is not there.
    """
    rows = [jobs.get(session, tenant_id, each) for each in dict.fromkeys(job_ids)]
    reads = jobs.describe(session, rows)
    by_job = [_last_values(session, read.id) for read in reads]
    names = sorted({name for values in by_job for name in values})
    return ComparisonRead(
        jobs=reads,
        spec=_read(differences([read.resolved_spec for read in reads])),
        result=_read(differences([read.result or {} for read in reads])),
        metrics={name: [values.get(name) for values in by_job] for name in names},
    )


def _read(rows: Sequence[Difference]) -> list[FieldDifference]:
    return [
        FieldDifference(
            field=row.field, values=[None if value is ABSENT else value for value in row.values]
        )
        for row in rows
    ]


def _last_values(session: Session, job_id: str) -> dict[str, float]:
    """The last finite value of each metric of a job; of several runs the latest counts."""
    finite = (Metric.job_id == job_id, Metric.value.is_not(None))
    last = (
        select(Metric.name, func.max(Metric.step).label("step"))
        .where(*finite)
        .group_by(Metric.name)
        .subquery()
    )
    query = (
        select(Metric.name, Metric.value)
        .join(last, (Metric.name == last.c.name) & (Metric.step == last.c.step))
        .where(*finite)
        .order_by(Metric.name, Metric.run_number)
    )
    return {name: value for name, value in session.execute(query) if value is not None}
