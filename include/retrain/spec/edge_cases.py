"""`gate.cases`: edge cases, rows that a person wrote down with what a model must answer to them.

They are a YAML file beside the spec (`gate.cases`) and part of its digest, so they are versioned with it:

    - name: new and never came
      row: {plan: basic, visits: 0, spend: 10.0, member: false}
      expect: {min: 0.5}
    - name: the same, but comes daily
      row: {visits: 30}
      expect: {is: lower, than: new and never came}

A case with `than` begins from that case's row and names only what differs: the directional expectations and
invariances of CheckList (Ribeiro et al. 2020, "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList").
Imports pydantic only: the spec reads its cases through this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from retrain.errors import near

MAX_CASES = 1_000
Value = bool | int | float | str | datetime | date | None


class ExpectedAnswer(BaseModel):
    """What must hold of the answer: the number, or the probability of the last class."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    min: float | None = Field(default=None, description="at least so much")
    max: float | None = Field(default=None, description="at most so much")
    class_: bool | int | str | None = Field(default=None, alias="class", description="the predicted class")
    is_: Literal["higher", "lower", "same"] | None = Field(default=None, alias="is", description="than another case's")
    than: str | None = Field(default=None, description="name of an earlier case")
    within: float = Field(default=0.0, ge=0, description="how far two answers that are the same may lie apart")

    @model_validator(mode="after")
    def _check_it_expects_something(self) -> ExpectedAnswer:
        if (self.is_ is None) != (self.than is None):
            raise ValueError("is and than belong together")
        if all(bound is None for bound in (self.min, self.max, self.class_, self.is_)):
            raise ValueError("expects nothing: give min, max, class, or is and than")
        return self


class Case(BaseModel):
    """One row, and what is expected of the answer to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=200)
    row: dict[str, Value]
    expect: ExpectedAnswer
    severity: Literal["stop", "warn"] = Field(default="stop", description="warn: a broken case is only reported")


class Declared(Protocol):
    """What is read of a column of the spec."""

    @property
    def type(self) -> str:
        """Its declared type."""

    @property
    def max_missing(self) -> float:
        """The share of its values that may be missing."""


def parse_cases(data: Any) -> tuple[Case, ...]:
    """The cases of parsed YAML, each row complete but for what may be missing.

    Raises:
        pydantic.ValidationError: not a list of cases.

    >>> first = {"name": "new", "row": {"plan": "basic", "visits": 0}, "expect": {"min": 0.5}}
    >>> second = {"name": "loyal", "row": {"visits": 30}, "expect": {"is": "lower", "than": "new"}}
    >>> parse_cases([first, second])[1].row
    {'plan': 'basic', 'visits': 30}
    """
    cases = TypeAdapter(tuple[Case, ...]).validate_python(data)
    complete: dict[str, Case] = {}
    for case in cases:
        base = complete[case.expect.than].row if case.expect.than in complete else {}
        complete.setdefault(case.name, case.model_copy(update={"row": {**base, **case.row}}))
    return tuple(complete[case.name] for case in cases)


def problems(
    cases: Sequence[Case],
    columns: Mapping[str, Declared],
    inputs: Sequence[str],
    classes: Sequence[bool | int | str],
) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Where and why a case does not fit its spec.

    Args:
        cases: as `parse_cases` gives them.
        columns: every declared column.
        inputs: those that a model reads.
        classes: in code order; empty for regression.

    Yields:
        The path to the key inside the file, and the problem.
    """
    if len(cases) > MAX_CASES:
        yield (), f"{len(cases):,} cases, {MAX_CASES:,} at most"
    names: list[str] = []
    for place, case in enumerate(cases):
        expect = case.expect
        if case.name in names:
            yield (place, "name"), f"{case.name!r} stands twice"
        if expect.than is not None and expect.than not in names:
            yield (place, "expect", "than"), f"no earlier case is called {expect.than!r}{near(expect.than, names)}"
        # As text: true is not 1.
        if expect.class_ is not None and str(expect.class_) not in map(str, classes):
            yield (place, "expect", "class"), f"{expect.class_!r} is no class{near(expect.class_, classes)}"
        for name, value in case.row.items():
            if name not in columns:
                yield (place, "row", name), f"the spec declares no column {name!r}{near(name, inputs)}"
            elif name not in inputs:
                yield (place, "row", name), f"the model does not read {name!r}"
            elif value is not None and not _fits(value, columns[name].type):
                yield (place, "row", name), f"{value!r} is no {columns[name].type}"
        absent = [name for name in inputs if case.row.get(name) is None and not columns[name].max_missing]
        if absent and (expect.than is None or expect.than in names):
            yield (place, "row"), f"{', '.join(absent[:8])} may not be missing"
        names.append(case.name)


def _fits(value: Any, kind: str) -> bool:
    if kind == "datetime":
        try:
            return isinstance(value, date) or bool(datetime.fromisoformat(value))
        except (TypeError, ValueError):
            return False
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool)
    return isinstance(value, bool if kind == "boolean" else str)
