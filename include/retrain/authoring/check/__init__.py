"""`python -m retrain check`: every spec in a few lines, or what is wrong with it, with file and line.

The schema is `spec.parse`'s. Checked here is what needs the libraries: expectations by Great Expectations,
estimators and their parameters by scikit-learn and XGBoost, and whether the first batch is there. Those are
imported only when a spec has passed the schema.
"""

from __future__ import annotations

import ast
import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain.authoring.check.words import explain
from retrain.errors import InvalidSpec, RetrainError, near
from retrain.results import Batch, Configuration
from retrain.spec import Spec, line_of, load
from retrain.state.settings import Home


@dataclass(frozen=True)
class Checked:
    """What is to be said of one spec; it is right when nothing is `wrong`."""

    model: str
    explained: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        marked = [f"wrong: {one}" for one in self.wrong] + [f"warning: {one}" for one in self.warnings]
        return "\n".join([*self.explained, *(f"  {one}" for one in marked)])


def check(home: Home, model: str = "") -> tuple[Checked, ...]:
    """Look at one spec, or at all of them.

    Raises:
        InvalidSpec: no spec of that name, or none at all.
    """
    if model:
        file = home.models / f"{model}.yaml"
        files: tuple[Path, ...] = (file,) if file in home.specs else (_absent(home, model),)
    else:
        files = home.specs
    if not files:
        raise InvalidSpec(
            f"{home.models.name}/ holds no spec", do="write one: python -m retrain new MODEL DATA --target COLUMN"
        )
    return tuple(_checked(home, file) for file in files)


def _absent(home: Home, model: str) -> Path:
    home.spec(model)  # says which names there are
    raise AssertionError(model)


def _checked(home: Home, file: Path) -> Checked:
    try:
        spec = load(file)
    except InvalidSpec as error:
        return Checked(
            file.stem, (f"{file.stem} · not a valid spec",), tuple(error.found.split("\n  ")[1:]) or (error.found,)
        )
    text = file.read_text(encoding="utf-8")

    def placed(found: Iterator[tuple[tuple[Any, ...], str]]) -> tuple[str, ...]:
        return tuple(f"{file.name}:{line_of(text, path)}: {'.'.join(map(str, path))}: {said}" for path, said in found)

    return Checked(spec.model, tuple(explain(spec)), placed(_wrong(spec)), placed(_warnings(spec, home)))


# --- what the schema cannot see --------------------------------------------------------------------


def _wrong(spec: Spec) -> Iterator[tuple[tuple[Any, ...], str]]:
    yield from _wrong_expectations(spec)
    yield from _wrong_candidates(spec)
    if own := spec.training.features:
        where = ("training", "features")
        try:
            body = ast.parse(spec.code).body
        except SyntaxError as error:
            yield (*where, "file"), f"{own.file}:{error.lineno}: {error.msg}"
        else:
            named = [one.name for one in body if isinstance(one, ast.FunctionDef)]
            if own.function not in named:
                yield (*where, "function"), f"{own.file} has no function {own.function!r}{near(own.function, named)}"


def _wrong_expectations(spec: Spec) -> Iterator[tuple[tuple[Any, ...], str]]:
    from retrain.data.expectations import Expectation, check_names
    from retrain.stages.validate import contract

    first = spec.at(spec.interval.start)
    try:
        list(contract(spec, Batch(interval=first, sha256="", rows=0, bytes=0, key="")))
    except InvalidSpec as error:
        key, _, said = error.found.partition(": ")
        yield tuple(key.split(".", 1)), f"{said}; {error.do}"
    for place, one in enumerate(spec.quality.expectations):
        where = ("quality", "expectations", place)
        for problem in check_names([Expectation(one.expect, one.args, one.severity)]):
            yield where, problem
        listed = one.args.get("column_list") or ()
        for name in [one.args.get(key) for key in ("column", "column_A", "column_B")] + list(listed):
            if name is not None and name not in spec.delivered:
                declared = name in spec.columns
                why = (
                    "comes with a batch: labels come apart" if declared else f"is declared{near(name, spec.delivered)}"
                )
                yield where, f"{one.expect}: no column {name!r} {why}"


def _wrong_candidates(spec: Spec) -> Iterator[tuple[tuple[Any, ...], str]]:
    from retrain.modeling import estimators

    for place, one in enumerate(spec.training.candidates):
        where = ("training", "candidates", place)
        try:
            estimators.resolve(one.estimator, spec.task)
        except RetrainError as error:
            yield (*where, "estimator"), f"{error.found}; {error.do}"
            continue
        tried = [("parameters", name, [value]) for name, value in one.parameters.items()]
        for part, name, values in [*tried, *(("search", name, values) for name, values in one.search.items())]:
            try:
                for value in values or [None]:
                    made = Configuration(estimator=one.estimator, parameters={name: value}, pipeline="")
                    estimators.unfitted(spec, made)
            except RetrainError as error:
                yield (*where, part, name), f"{error.found}; {error.do}"
            if not values:
                yield (*where, part, name), "no value to try"


def _warnings(spec: Spec, home: Home) -> Iterator[tuple[tuple[Any, ...], str]]:
    from retrain.data.sources.address import render, scheme_of

    for key, said in {"name": spec.owner.name, "contact": spec.owner.contact}.items():
        if "change me" in said.lower():
            yield ("owner", key), "still says 'change me'; nobody would be told"
    if "change me" in spec.objective.lower():
        yield ("objective",), "still says 'change me'"
    if spec.source.path is not None:
        where = ("source", "path")
        try:
            address = render(spec.source.path, spec.at(spec.interval.start))
            found = scheme_of(address) != "file" or glob.glob(  # noqa: PTH207 - Path.glob takes no absolute pattern
                str(home.root / address.removeprefix("file://")), recursive=True
            )
        except RetrainError as error:
            yield where, f"{error.found}; {error.do}"
        else:
            if not found:
                yield where, f"nothing lies at {address} yet, where the first interval's batch is looked for"
    if spec.labels.source != "same" and spec.labels.source.path is not None:
        try:
            scheme_of(render(spec.labels.source.path, spec.at(spec.interval.start)))
        except RetrainError as error:
            yield ("labels", "source", "path"), f"{error.found}; {error.do}"
