"""`python -m retrain check`: every spec in a few lines, or what is wrong with it, with file and line.

The schema is `spec.parse`'s. Checked here is what needs the libraries: expectations by Great Expectations,
estimators and their parameters by scikit-learn and XGBoost, and whether the first batch is there; and whether anything
could ever be promoted (`promotable`). Libraries are imported only when a spec has passed the schema.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from retrain.authoring.check.description import describe_spec
from retrain.authoring.check.promotable import Problem, never_promoted, too_few
from retrain.errors import InvalidSpec, RetrainError, near
from retrain.results import Batch, Configuration
from retrain.spec import Recency, Spec, line_of, load
from retrain.state.settings import Home

QUICK_BYTES = 64 * 1024 * 1024
"""The rows of larger deliveries are not counted."""


@dataclass(frozen=True)
class SpecCheck:
    """What the check of one spec came to; the spec is right when there are no `problems`.

    Attributes:
        model: name of the spec's file.
        description: the spec in words.
        problems: what must be corrected, each with file and line.
        warnings: what may be meant so, each with file and line.
    """

    model: str
    description: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        marked = [f"wrong: {problem}" for problem in self.problems]
        marked += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([*self.description, *(f"  {line}" for line in marked)])


def check_specs(home: Home, model: str = "") -> tuple[SpecCheck, ...]:
    """Check one spec, or all of them.

    Args:
        home: where the specs are.
        model: the one to check; by default all.

    Raises:
        InvalidSpec: no spec of that name, or none at all.
    """
    files = home.specs
    if model:
        file = home.models / f"{model}.yaml"
        if file not in files:
            home.spec(model)  # it refuses the name and says which there are
        files = (file,)
    if not files:
        raise InvalidSpec(
            f"{home.models.name}/ holds no spec", do="write one: python -m retrain new MODEL DATA --target COLUMN"
        )
    return tuple(_check(home, file) for file in files)


def _check(home: Home, file: Path) -> SpecCheck:
    try:
        spec = load(file)
    except InvalidSpec as error:
        problems = tuple(error.found.split("\n  ")[1:]) or (error.found,)
        return SpecCheck(file.stem, (f"{file.stem} · not a valid spec",), problems)
    text = file.read_text(encoding="utf-8")

    def placed(problems: Iterator[Problem]) -> tuple[str, ...]:
        return tuple(
            f"{file.name}:{line_of(text, path)}: {'.'.join(map(str, path))}: {message}" for path, message in problems
        )

    try:
        problems = placed(chain(_problems(spec), never_promoted(spec)))
        return SpecCheck(spec.model, tuple(describe_spec(spec)), problems, placed(_warnings(spec, home)))
    except Exception as error:  # whatever stands in one spec, the others are checked
        problem = f"{file.name}: cannot be checked: {type(error).__name__}: {error}"
        return SpecCheck(spec.model, (f"{spec.model} · not checked",), (problem,))


# --- what the schema cannot see


def _problems(spec: Spec) -> Iterator[Problem]:
    yield from _expectation_problems(spec)
    yield from _candidate_problems(spec)
    yield from _feature_problems(spec)


def _feature_problems(spec: Spec) -> Iterator[Problem]:
    """The feature function's file is read here, and not run."""
    if not (own := spec.training.features):
        return
    from retrain.modeling import feature_code

    where, wrong = ("training", "features"), list(feature_code.problems(spec.code))
    for line, problem in wrong:
        yield (*where, "file"), f"{own.file}:{line}: {problem}"
    if wrong:
        return
    functions = [node.name for node in ast.parse(spec.code).body if isinstance(node, ast.FunctionDef)]
    if own.function not in functions:
        yield (*where, "function"), f"{own.file} has no function {own.function!r}{near(own.function, functions)}"


def _expectation_problems(spec: Spec) -> Iterator[Problem]:
    from retrain.data.expectations import Expectation, check_names
    from retrain.stages.validate import contract

    first = spec.at(spec.interval.start)
    try:
        list(contract(spec, Batch(interval=first, sha256="", rows=0, bytes=0, key="")))
    except InvalidSpec as error:
        key, _, message = error.found.partition(": ")
        yield tuple(key.split(".", 1)), f"{message}; {error.do}"
    for place, named in enumerate(spec.quality.expectations):
        where = ("quality", "expectations", place)
        for problem in check_names([Expectation(named.expect, named.args, named.severity)]):
            yield where, problem
        columns = [named.args.get(key) for key in ("column", "column_A", "column_B")]
        listed = named.args.get("column_list")
        for column in [*columns, *(listed if isinstance(listed, list) else [listed])]:
            if column is not None and (not isinstance(column, str) or column not in spec.delivered):
                declared = column in list(spec.columns)
                why = (
                    "comes with a batch: labels come apart"
                    if declared
                    else f"is declared{near(str(column), spec.delivered)}"
                )
                yield where, f"{named.expect}: no column {column!r} {why}"


def _candidate_problems(spec: Spec) -> Iterator[Problem]:
    from retrain.modeling import estimators, pipelines

    for place, candidate in enumerate(spec.training.candidates):
        where = ("training", "candidates", place)
        try:
            estimators.resolve(candidate.estimator, spec.task)
        except RetrainError as error:
            yield (*where, "estimator"), f"{error.found}; {error.do}"
            continue
        for number, window in enumerate(spec.training.windows):
            if isinstance(window, Recency):
                bare = Configuration(estimator=candidate.estimator, parameters={}, pipeline="")
                try:
                    estimators.unfitted(spec, pipelines.on_window(bare, window))
                except RetrainError as error:
                    yield ("training", "windows", number), f"{error.found}; {error.do}"
        fixed = [("parameters", name, [value]) for name, value in candidate.parameters.items()]
        for key, name, values in [*fixed, *(("search", name, values) for name, values in candidate.search.items())]:
            try:
                for value in values or [None]:
                    configuration = Configuration(estimator=candidate.estimator, parameters={name: value}, pipeline="")
                    estimators.unfitted(spec, configuration)
            except RetrainError as error:
                yield (*where, key, name), f"{error.found}; {error.do}"
            if not values:
                yield (*where, key, name), "no value to try"


def _warnings(spec: Spec, home: Home) -> Iterator[Problem]:
    from retrain.data.sources import local_files, one_per_interval, render, scheme_of

    first = spec.at(spec.interval.start)
    for key, value in {"name": spec.owner.name, "contact": spec.owner.contact}.items():
        if "change me" in value.lower():
            yield ("owner", key), "still says 'change me'; nobody would be told"
    if "change me" in spec.objective.lower():
        yield ("objective",), "still says 'change me'"
    if spec.source.path is not None:
        where = ("source", "path")
        try:
            address = render(spec.source.path, first)
            local = scheme_of(address) == "file"
            files = local_files(home.root, address) if local else []
        except RetrainError as error:
            yield where, f"{error.found}; {error.do}"
        else:
            if local and not files:
                yield where, f"nothing lies at {address} yet, where the first interval's batch is looked for"
            rows = _rows(files) if one_per_interval(spec.source.path, first) else None
            if rows and rows * spec.evaluation.holdout < spec.gate.min_rows:
                yield ("gate", "min_rows"), too_few(f"the first batch has {rows:,} rows", rows, spec)
    if spec.labels.source != "same" and spec.labels.source.path is not None:
        try:
            scheme_of(render(spec.labels.source.path, spec.at(spec.interval.start)))
        except RetrainError as error:
            yield ("labels", "source", "path"), f"{error.found}; {error.do}"


def _rows(files: list[Path]) -> int | None:
    """Rows of a delivery that are quickly counted, at most; None of others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not files or sum(file.stat().st_size for file in files) > QUICK_BYTES:
        return None
    try:
        if all(file.suffix in (".parquet", ".pq") for file in files):
            return sum(int(pq.read_metadata(file).num_rows) for file in files)
        if all(file.suffix in (".csv", ".jsonl", ".ndjson") for file in files):
            return sum(file.read_bytes().count(b"\n") for file in files)
    except (OSError, pa.ArrowException):
        return None  # what is wrong with a file, ingest says
    return None
