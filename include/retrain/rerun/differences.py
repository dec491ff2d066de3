"""Compares a run with its repetition: models, metrics, predictions, the gate's verdict and the version's files."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pandas as pd

from retrain.modeling import model_io
from retrain.registry.lineage import Lineage
from retrain.rendering.text import number
from retrain.results import EvaluateReport, FittedModel, GateReport, RefitReport, Result, TrainReport, current_name
from retrain.state.run import Run

LISTED = 5
"""How many figures or checks that differ are named."""


class ComparedPart(Result):
    """One part of a version, before and after: data, spec, a model, the metrics and so on."""

    name: str
    same: bool
    detail: str


def compare_runs(old: Run, new: Run, lineage: Lineage) -> Iterator[ComparedPart]:
    """Models, metrics, predictions, verdict and files of a run and of its repetition.

    Args:
        old: the run that made the version.
        new: the same stages run again; parts of stages that it did not reach are missing.
        lineage: of the version.
    """
    if _has(new, "train"):
        before = {fitted.name: fitted for fitted in old.read(TrainReport, "train").fitted}
        after = {fitted.name: fitted for fitted in new.read(TrainReport, "train").fitted}
        for name in dict.fromkeys([*before, *after]):
            yield _model(f"model {name}", old, before.get(name), new, after.get(name))
    if _has(new, "evaluate"):
        yield _metrics(old.read(EvaluateReport, "evaluate"), new.read(EvaluateReport, "evaluate"))
        yield _predictions(old, new)
    if _has(new, "gate"):
        yield _verdict(old.read(GateReport, "gate"), new.read(GateReport, "gate"))
    if _has(new, "refit"):
        refitted = new.read(RefitReport, "refit").fitted
        kept = old.read(RefitReport, "refit").fitted if _has(old, "refit") else refitted
        version = kept.model_copy(update={"digest": lineage.champion.digest})
        yield _model("the version's files", old, version, new, refitted)


def _has(run: Run, stage: str) -> bool:
    return run.store.exists(f"{run.folder}/{stage}.json")


def _model(name: str, old: Run, before: FittedModel | None, new: Run, after: FittedModel | None) -> ComparedPart:
    was, now = (fitted.digest if fitted else "" for fitted in (before, after))
    if was == now:
        return ComparedPart(name=name, same=True, detail=f"digest {now[:12]}")
    detail = f"digest {now[:12] or 'none'}, was {was[:12] or 'none'}"
    kept, rebuilt = (_files(run, fitted) if fitted else {} for run, fitted in ((old, before), (new, after)))
    if kept and kept.get(model_io.MODEL_FILE) == rebuilt.get(model_io.MODEL_FILE):
        others = sorted(file for file in {*kept, *rebuilt} if kept.get(file) != rebuilt.get(file))
        more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
        detail += f"; fitted the same, beside it differ {', '.join(others[:LISTED])}{more}"
    return ComparedPart(name=name, same=False, detail=detail)


def _files(run: Run, fitted: FittedModel) -> dict[str, bytes]:
    """A model's files, the pipeline in today's words; none where they are not those that its digest was taken of."""
    if not run.store.exists(f"{fitted.key}/{model_io.MODEL_FILE}"):
        return {}
    with run.store.local(fitted.key) as folder:
        files = model_io.read(folder)
    if model_io.files_digest(files) != fitted.digest:
        return {}
    return files | {model_io.MODEL_FILE: model_io.current(files[model_io.MODEL_FILE])}


def _metrics(old: EvaluateReport, new: EvaluateReport) -> ComparedPart:
    """Every metric with its interval, and every paired comparison."""
    before, after = _numbers(old), _numbers(new)
    moved = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    if not moved:
        return ComparedPart(name="metrics", same=True, detail=f"{len(before)} figures, intervals included")
    few = "; ".join(f"{name} {number(after.get(name))}, was {number(before.get(name))}" for name in moved[:LISTED])
    return ComparedPart(name="metrics", same=False, detail=f"{len(moved)} of {len(before)} figures: {few}")


def _numbers(report: EvaluateReport) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {
        "level": report.level,
        "earlier_analyses": report.earlier_analyses,
        "rows": report.rows,
    }
    for model, metrics in report.metrics.items():
        for metric, measured in metrics.items():
            name = f"{model} {metric}"
            numbers |= {name: measured.value, f"{name} low": measured.low, f"{name} high": measured.high}
    for pair in report.paired:
        name = f"{pair.model} against {pair.against}"
        numbers |= {f"{name} gain": pair.gain, f"{name} low": pair.low, f"{name} high": pair.high}
    for finding in report.findings:
        numbers[f"{finding.model} {finding.check} {finding.about}"] = finding.value
    return numbers


def _verdict(old: GateReport, new: GateReport) -> ComparedPart:
    """The gate's verdict and its checks; how they are worded is no part of it."""
    was, now = (f"{gate.decision.verdict} {gate.chosen or ''}".strip() for gate in (old, new))
    before, after = (
        {(check.name, check.model): (check.passed, check.value, check.bound) for check in gate.checks}
        for gate in (old, new)
    )
    differ = [" ".join(name) for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    if was == now and not differ:
        return ComparedPart(name="gate", same=True, detail=f"{now}, {len(before)} checks")
    detail = f"{now}, was {was}; {len(differ)} checks differ: {', '.join(differ[:LISTED])}"
    return ComparedPart(name="gate", same=False, detail=detail)


def _predictions(old: Run, new: Run) -> ComparedPart:
    def part(same: bool, detail: str) -> ComparedPart:
        return ComparedPart(name="predictions", same=same, detail=detail)

    key = old.path("evaluate", "predictions.parquet")
    before, after = old.store.read(key), new.store.read(key)
    was, now = (pd.read_parquet(io.BytesIO(data)) for data in (before, after))
    if before == after:
        return part(True, f"{len(now):,} rows of every model, byte for byte")
    was = was.rename(columns={name: ":".join(map(current_name, name.split(":"))) for name in map(str, was)})
    if was.equals(now):
        return part(True, f"{len(now):,} rows of every model, to the last digit")
    if was.shape != now.shape or list(was) != list(now):
        return part(False, f"{now.shape} rows and columns, were {was.shape}")
    numbers = was.select_dtypes("number").columns
    apart = np.nanmax(np.abs(was[numbers].to_numpy() - now[numbers].to_numpy()))
    return part(False, f"at most {apart:.3g} apart on {len(was):,} rows")
