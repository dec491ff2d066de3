"""Does a model answer the spec's edge cases as a person expects? The file's format: `retrain.spec.edge_cases`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.errors import RetrainError
from retrain.gate.checks.holdout import CHAMPION, Holdout, finite, found
from retrain.modeling import estimators
from retrain.modeling.metrics import Array
from retrain.results import EvaluateReport, Finding, Fitted, GateCheck
from retrain.spec import Spec
from retrain.spec.edge_cases import Case


def findings(holdout: Holdout) -> Iterator[Finding]:
    """Of each case 1 where it holds, 0 where it does not; each row is asked alone, as it would be in service."""
    spec, cases = holdout.spec, holdout.spec.edge_cases
    for name in holdout.judged if cases else ():
        answers = {case.name: _answer(spec, holdout.models[name], case) for case in cases}
        for case in cases:
            holds, text = _holds(spec, case, answers)
            yield Finding(check="case", model=name, about=case.name, value=float(holds), rows=1, text=text)


def _answer(spec: Spec, model: Pipeline, case: Case) -> Array | str:
    """What the model says, or why it says nothing."""
    needed = {**dict.fromkeys(model[0].columns), **case.row}
    try:
        said = estimators.predict(model, spec.task, pd.DataFrame({name: [value] for name, value in needed.items()}))
    except RetrainError as error:
        return f"{type(error).__name__}: {error.found}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return np.asarray(said[0])


def _holds(spec: Spec, case: Case, answers: dict[str, Array | str]) -> tuple[bool, str]:
    mine, expect = answers[case.name], case.expect
    if isinstance(mine, str):
        return False, f"fails with {mine}"
    number = _number(mine)
    held, said = [], []
    if expect.min is not None:
        held.append(number >= expect.min)
        said.append(f"at least {expect.min:g}")
    if expect.max is not None:
        held.append(number <= expect.max)
        said.append(f"at most {expect.max:g}")
    answered = f"{number:.4g}"
    if expect.class_ is not None:
        answered = _class(spec.classes, mine)
        held.append(answered == str(expect.class_))
        said.append(str(expect.class_))
    if expect.than is not None:
        other = answers[expect.than]
        if isinstance(other, str):
            return False, f"answers {answered}, to {expect.than!r} it fails with {other}"
        theirs = _number(other)
        held.append(
            {"higher": number > theirs, "lower": number < theirs, "same": abs(number - theirs) <= expect.within}[
                str(expect.is_)
            ]
        )
        said.append(f"{expect.is_} than" if expect.is_ != "same" else "the same as")
        said[-1] += f" the {theirs:.4g} of {expect.than!r}"
    return all(held), f"answers {answered}, expected is {' and '.join(said)}"


def _number(answer: Array) -> float:
    """The number, or the probability of the last class."""
    return float(answer if answer.ndim == 0 else answer[-1])


def _class(classes: Sequence[object], answer: Array) -> str:
    return str(classes[int(answer >= 0.5) if answer.ndim == 0 else int(answer.argmax())])


def checks(spec: Spec, evaluate: EvaluateReport, one: Fitted) -> Iterator[GateCheck]:
    """A broken case fails, also where the champion breaks it as well: the person who wrote it down meant it."""
    mine = {of.about: of for of in found(evaluate, "case", one.name)}
    theirs = {of.about: of.text for of in found(evaluate, "case", CHAMPION)}
    for case in spec.edge_cases:
        answer = mine.get(case.name)
        value = None if answer is None else finite(answer.value)
        reason = answer.text if answer else "was not asked"
        reason += f"; the champion {theirs[case.name]}" if case.name in theirs else ""
        yield GateCheck(
            name=f"case {case.name}",
            model=one.name,
            passed=None if value is None else value >= 1,
            value=value,
            bound=1.0,
            binding=case.severity == "stop",
            reason=reason,
        )
