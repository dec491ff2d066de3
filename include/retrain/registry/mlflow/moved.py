"""Addresses in MLflow's database that follow a state folder which was moved, copied or restored elsewhere.

MLflow keeps where the files of experiments, runs and versions lie as absolute addresses, and offers nothing to change
them. Ours lie in `mlartifacts` beside the database.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import sqlalchemy as sa

FOLDER = "mlartifacts"
"""Where the files of an installation's MLflow lie, beside its database."""

ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow that hold them."""


def follow_moved(engine: sa.Engine, root: Path) -> set[str]:
    """Let the addresses of files that lie below `root` now point there.

    An address is followed where the folder of its experiment lies below `root`, and only then: the files of a database
    that was copied alone stay where they are.

    Args:
        engine: of MLflow's database, a SQLite file.
        root: the folder `mlartifacts` beside the file.

    Returns:
        The former roots; none where nothing was moved.
    """
    if not root.is_dir():
        return set()
    with engine.connect() as connection:
        known = connection.scalars(sa.text("SELECT artifact_location FROM experiments")).all()
    former = {before for address in known if (before := _former_root(str(address), root))}
    for before in former:
        with engine.begin() as connection:
            tables = {name: sa.Table(name, sa.MetaData(), autoload_with=connection) for name, _ in ADDRESSES}
            for name, column in ADDRESSES:
                address = tables[name].c[column]
                change = tables[name].update().where(address.startswith(f"{before}/", autoescape=True))
                now = root.as_uri() if before.startswith("file:") else str(root)
                rest = sa.func.substr(address, len(before) + 1)
                connection.execute(change.values({column: sa.literal(now).concat(rest)}))
    return former


def _former_root(address: str, root: Path) -> str:
    """The other root that an experiment's address begins with; empty where it lies below this one or elsewhere."""
    before, separator, experiment = address.rpartition(f"/{FOLDER}/")
    before += f"/{FOLDER}"
    path = url2pathname(urlsplit(before).path) if before.startswith("file:") else before
    moved = separator and "/" not in experiment and Path(path) != root and (root / experiment).is_dir()
    return before if moved else ""
