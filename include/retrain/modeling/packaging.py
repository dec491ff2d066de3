"""What travels with a model besides its bytes: the pinned packages and the code that it needs to be loaded."""

from __future__ import annotations

import re
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


def pinned_versions(text: str) -> tuple[dict[str, str], list[str]]:
    r"""Package → version of a requirements file, and the lines that pin nothing.

    MLflow puts itself first in every file that it writes; nothing here loads a model with it.

    >>> pinned_versions("mlflow==3.1\nnumpy==2.4.6\nscipy>=1\n")
    ({'numpy': '2.4.6'}, ['scipy>=1'])
    """
    pins, loose = {}, []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if (match := re.fullmatch(r"([\w.-]+)==([\w.+!-]+)", line)) is None:
            loose.append(line)
        elif match[1] != "mlflow":
            pins[match[1]] = match[2]
    return pins, loose


def mismatches(pins: dict[str, str]) -> list[str]:
    """The packages that are not installed in the version that is pinned, each in words."""
    texts = []
    for name, version in pins.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            texts.append(f"{name} is not installed, {version} is pinned")
            continue
        if installed != version:
            texts.append(f"{name} is {installed}, {version} is pinned")
    return texts
