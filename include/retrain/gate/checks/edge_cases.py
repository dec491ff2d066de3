"""Edge cases: whether a model answers them as a person expects. The file's format: `retrain.spec.edge_cases`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.errors import RetrainError
from retrain.gate.checks.holdout import CHAMPION, Holdout, findings_of, finite
from retrain.modeling import pipelines
from retrain.modeling.metrics import Array
from retrain.results import EvaluateReport, Finding, FittedModel, GateCheck
from retrain.spec import Spec
from retrain.spec.edge_cases import Case


def findings(holdout: Holdout) -> Iterator[Finding]:
    """1 where a case holds, 0 where it does not; each row is predicted alone, as it would be in service."""
    spec, cases = holdout.spec, holdout.spec.edge_cases
    for name in holdout.judged if cases else ():
        answers = {case.name: _answer(spec, holdout.models[name], case) for case in cases}
        for case in cases:
            holds, text = _holds(spec, case, answers)
            yield Finding(check="case", model=name, about=case.name, value=float(holds), rows=1, text=text)


def _answer(spec: Spec, model: Pipeline, case: Case) -> Array | str:
    """The model's answer, or why it has none."""
    row = {**dict.fromkeys(model[0].columns), **case.row}
    try:
        answers = pipelines.predict(model, spec.task, pd.DataFrame({name: [value] for name, value in row.items()}))
    except RetrainError as error:
        return f"{type(error).__name__}: {error.found}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return np.asarray(answers[0])


def _holds(spec: Spec, case: Case, answers: dict[str, Array | str]) -> tuple[bool, str]:
    """Whether the answer is as expected, and both, for people."""
    answer, expect = answers[case.name], case.expect
    if isinstance(answer, str):
        return False, f"fails with {answer}"
    number = _number(answer)
    held, expected = [], []
    if expect.min is not None:
        held.append(number >= expect.min)
        expected.append(f"at least {expect.min:g}")
    if expect.max is not None:
        held.append(number <= expect.max)
        expected.append(f"at most {expect.max:g}")
    given = f"{number:.4g}"
    if expect.class_ is not None:
        given = _class(spec.classes, answer)
        held.append(given == str(expect.class_))
        expected.append(str(expect.class_))
    if expect.than is not None:
        other_answer = answers[expect.than]
        if isinstance(other_answer, str):
            return False, f"answers {given}, to {expect.than!r} it fails with {other_answer}"
        other = _number(other_answer)
        relations = {"higher": number > other, "lower": number < other, "same": abs(number - other) <= expect.within}
        held.append(relations[str(expect.is_)])
        relation = f"{expect.is_} than" if expect.is_ != "same" else "the same as"
        expected.append(f"{relation} the {other:.4g} of {expect.than!r}")
    return all(held), f"answers {given}, expected is {' and '.join(expected)}"


def _number(answer: Array) -> float:
    """The number, or the probability of the last class."""
    return float(answer if answer.ndim == 0 else answer[-1])


def _class(classes: Sequence[object], answer: Array) -> str:
    return str(classes[int(answer >= 0.5) if answer.ndim == 0 else int(answer.argmax())])


def checks(spec: Spec, evaluate: EvaluateReport, candidate: FittedModel) -> Iterator[GateCheck]:
    """A broken case fails, also where the champion breaks it as well: the person who wrote it down meant it."""
    by_case = {finding.about: finding for finding in findings_of(evaluate, "case", candidate.name)}
    champion = {finding.about: finding.text for finding in findings_of(evaluate, "case", CHAMPION)}
    for case in spec.edge_cases:
        finding = by_case.get(case.name)
        value = None if finding is None else finite(finding.value)
        reason = finding.text if finding else "was not asked"
        reason += f"; the champion {champion[case.name]}" if case.name in champion else ""
        yield GateCheck(
            name=f"case {case.name}",
            model=candidate.name,
            passed=None if value is None else value >= 1,
            value=value,
            bound=1.0,
            binding=case.severity == "stop",
            reason=reason,
        )
