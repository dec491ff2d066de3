"""What travels with a model besides its bytes: the pinned packages and the code that it needs to be loaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path


@cache
def requirements() -> tuple[str, ...]:
    """The packages that a model needs, pinned to the installed versions."""
    return tuple(_pins())


def _pins() -> Iterator[str]:
    installed = {name: _version(name) for name in ("xgboost-cpu", "xgboost")}
    boost = next(name for name, version in installed.items() if version)
    for name in ("scikit-learn", boost, "pandas", "numpy", "scipy", "skops", "pyarrow"):
        yield f"{name}=={metadata.version(name)}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def carry(folder: Path, *more: str) -> Path:
    """Copy the code that every model needs into `folder` as a package, and `more` of `modeling`; return the package."""
    package, room = folder / "retrain", Path(__file__).parents[1]
    (package / "modeling").mkdir(parents=True)
    files = ("__init__.py", "features.py", *more)
    for name in ("__init__.py", "errors.py", "masking.py", *(f"modeling/{file}" for file in files)):
        shutil.copyfile(room / name, package / name)
    return package
