"""A new version is started while a worker of the older schema still runs: it refuses, then goes."""

import pytest
from alembic import command

from app.db import migrate
from app.db.session import make_engine


@pytest.mark.slow
def test_a_new_version_waits_for_the_workers_of_the_old_one(make_service, sqlite):
    service = make_service(sqlite, behaviour="steps")
    old = service.start_worker()
    engine = make_engine(sqlite)
    # now its schema is older than the code of what starts
    with engine.execution_options(write=True).connect() as connection:
        command.downgrade(migrate.alembic_config(connection), "-1")
        connection.commit()
    older = migrate.current(engine)
    for part in ("app.serve", "workers"):
        process = service._start("refused", part)
        assert process.wait(60) != 0
    assert "stop them first" in service.logs()
    assert migrate.current(engine) == older
    old.terminate()
    assert old.wait(15) == 0
    service.start_api()
    assert migrate.current(engine) == migrate.head()
    engine.dispose()
    service.start_worker()
    job_id = service.submit()
    assert service.wait(job_id)["status"] == "succeeded"
    service.check(job_id)
