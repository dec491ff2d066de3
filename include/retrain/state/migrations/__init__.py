"""Migrations of the ledger's tables with alembic, a revision a file.

A fresh database is made at the newest revision by `retrain.state.ledger_tables`, which also finds out whether there is
anything to do here, so that alembic is imported only for that. The version table is `retrain_version`: Airflow and
MLflow have their own `alembic_version`, and the database may be theirs too.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa


def upgrade(connection: sa.Connection, revision: str | None, to: str = "head") -> None:
    """Bring the tables from one revision to another, in the caller's transaction: all of it or nothing.

    Args:
        connection: in a transaction.
        revision: where the database is; None is an empty one.
        to: where to bring it.
    """
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import Script, ScriptDirectory

    revisions = ScriptDirectory(Path(__file__).parent)
    context = MigrationContext.configure(connection, opts={"version_table": "retrain_version"})
    with Operations.context(context):
        for step in reversed(list(revisions.iterate_revisions(to, revision))):
            assert isinstance(step, Script)
            step.module.upgrade()
    context.stamp(revisions, to)
