"""Who asked, the hash chain over the records that are there, in the order they were written, and the guards."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from retrain.state.ledger_tables import GUARDS, hash_of

revision = "2"
down_revision = "1"

COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "by": sa.String(300),
    "place": sa.Integer(),
    "previous": sa.String(64),
    "hash": sa.String(64),
}


def upgrade() -> None:
    """Add the columns, link every record to the one before, then forbid changes."""
    for name, kind in COLUMNS.items():
        op.add_column("retrain_records", sa.Column(name, kind))
    _link(op.get_bind())
    with op.batch_alter_table("retrain_records") as table:
        for name, kind in COLUMNS.items():
            table.alter_column(name, existing_type=kind, nullable=False)
        table.create_unique_constraint("retrain_records_chain", ["model", "place"])
    for statement in GUARDS[op.get_bind().dialect.name]:
        op.execute(statement)


def _link(connection: sa.Connection) -> None:
    table = sa.Table("retrain_records", sa.MetaData(), autoload_with=connection)
    write = (
        table.update().where(table.c.id == sa.bindparam("at")).values({n: sa.bindparam(f"new_{n}") for n in COLUMNS})
    )
    heads: dict[str, tuple[int, str]] = {}
    links = []
    for row in connection.execute(table.select().order_by(table.c.id)).mappings():
        place, previous = heads.get(row["model"], (0, ""))
        link = {"by": "", "place": place + 1, "previous": previous}
        link["hash"] = hash_of({**row, **link})
        heads[row["model"]] = (place + 1, str(link["hash"]))
        links.append({"at": row["id"], **{f"new_{name}": value for name, value in link.items()}})
    if links:
        connection.execute(write, links)
