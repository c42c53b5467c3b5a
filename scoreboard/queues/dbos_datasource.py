"""DBOS Transact with a datasource: "database transactions run inside DBOS workflows are tracked and
replayed with exactly-once guarantees" (https://docs.dbos.dev/python/reference/datasources).

All else is as in `dbos_steps`. The handler is the workflow's own code; its effect is a transaction
of the datasource, in this database.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dbos import SQLAlchemyDatasource

from scoreboard.adapter import main
from scoreboard.queues.dbos_steps import DOCS, INSERT, DbosSteps
from scoreboard.runs import Run, perform


class DbosDatasource(DbosSteps):
    about = replace(
        DbosSteps.about,
        settings={
            name: setting
            for name, setting in DbosSteps.about.settings.items()
            if name != "step retries"
        },
        effect="a transaction of the datasource, with DBOS's record of it",
        sources=(*DbosSteps.about.sources, f"{DOCS}/python/reference/datasources"),
    )

    def install(self) -> None:
        SQLAlchemyDatasource.create(self.url)
        super().install()

    def handler(self) -> Callable[[int], None]:
        source = SQLAlchemyDatasource.create(self.url, {"pool_pre_ping": True})

        @source.transaction
        def write(row: tuple[int, int, str]) -> None:
            values = dict(zip(("job", "run", "worker"), row, strict=True))
            source.sql_session().execute(INSERT, values)

        def apply(run: Run) -> None:
            write(run.row)

        def handle(number: int) -> None:
            perform(self.runs.begin(number), apply)

        return handle


if __name__ == "__main__":
    main(DbosDatasource)
