"""One MLflow run per run of the loop and what it came to, and one version per promoted candidate.

The run holds what a person needs to judge it later: parameters, the gated candidate's metrics on the holdout rows,
plots, reports, and the lineage from data hash to lock digest. A rejected candidate leaves its run and no version. The
metrics stay the gated candidate's; the files of a version are the refit's, and its tags say so.

A version's model card and the model's changelog up to it lie in the run's files under `card/`.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from retrain.gate import table
from retrain.registry.champion import refit_as_champion
from retrain.registry.lineage import lineage_tags
from retrain.registry.mlflow import Registry
from retrain.registry.promotion import CHALLENGER
from retrain.rendering.text import markdown
from retrain.reporting import model_card
from retrain.reporting.changelog import changelog
from retrain.results import (
    Context,
    Decision,
    EvaluateReport,
    FittedModel,
    GateReport,
    RefitReport,
    RegisterReport,
    TrainReport,
)
from retrain.state import evidence
from retrain.state.projections import numbers
from retrain.state.run import Run
from retrain.state.store import json_digest

CARD = "card"
"""Folder of the model card among the files of an MLflow run."""
REPORTS = ("ingest", "validate", "snapshot", "context", "drift", "decide", "train", "evaluate", "gate", "refit")
FOLDERS = ("validate", "drift", "evaluate")


def register(run: Run) -> RegisterReport:
    """Record the run in MLflow; register a version when the gate said promote and this is no dry run.

    Raises:
        MissingInput: an earlier stage has not run.
        NonFiniteMetric, ConfigChanged, OutOfBandChange, DigestMismatch: as `retrain.registry.mlflow.Registry` says.
        EvidenceChanged: an earlier try has put on record what the version rests on, which has changed since.
        RegistryDown: MLflow does not answer.
    """
    context = run.read(Context, "context")
    gate = run.read(GateReport, "gate")
    train = run.read(TrainReport, "train")
    refit = run.read(RefitReport, "refit") if gate.decision.verdict == "promote" else None
    fitted = refit.fitted if refit else _judged(train, gate)
    registry = Registry(run.home.mlflow)
    tags = lineage_tags(run, context, train, fitted) | {
        "verdict": gate.decision.verdict,
        "reasons": "; ".join(gate.decision.reasons),
    }
    if refit is not None and not run.trigger.dry_run:
        evidence.seal(run)
    with tempfile.TemporaryDirectory(prefix="retrain-") as folder, ExitStack() as stack:
        files = {f"reports/{name}.json": _file(run, name, Path(folder)) for name in REPORTS if _has(run, name)}
        for name in FOLDERS:
            if run.store.keys(f"{run.folder}/{name}"):
                files[name] = stack.enter_context(run.store.local(f"{run.folder}/{name}"))
        (Path(folder) / "gate.html").write_bytes(table.page(gate))
        files["gate/gate.html"] = Path(folder) / "gate.html"
        parameters, metrics = _parameters(run, fitted), _metrics(run, fitted, gate)
        # A run that comes to something else, as one may that makes no version, is another run in MLflow.
        outcome = json_digest([run.spec.digest, fitted.digest, gate.decision.verdict, parameters, metrics])
        run_id = registry.record(
            experiment=run.model,
            key=f"{run.key} {outcome[:12]}",
            name=f"{run.interval.name} {gate.decision.verdict}",
            description=f"{run.spec.objective}\n\n{gate.decision.verdict}: {'; '.join(gate.decision.reasons)}",
            params=parameters,
            metrics=metrics,
            tags=tags,
            files=files,
        )
        if refit is None or run.trigger.dry_run:
            why = "dry run: no version" if run.trigger.dry_run else f"the gate said {gate.decision.verdict}: no version"
            return _report(
                run, Decision(verdict="recorded", reasons=(why,)), run_id=run_id, url=registry.run_url(run_id)
            )
        with run.store.local(fitted.key) as files_of_model:
            version = registry.register(
                model=run.model,
                run_id=run_id,
                folder=files_of_model,
                digest=fitted.digest,
                tags=tags | {"configuration": fitted.configuration.label, "weights": refit.decision.verdict},
                description=f"{gate.kind}: {markdown('; '.join(gate.decision.reasons))}\n\n"
                f"Model card: {CARD}/model_card.md among the files of its run; what is new: {CARD}/CHANGELOG.md",
                taken=numbers(record for record in run.ledger.records(run.model) if record.run != run.key),
            )
    _describe(run, registry, run_id, version, tags)
    registry.set_alias(run.model, CHALLENGER, version, fitted.digest)
    return _report(
        run,
        Decision(verdict="registered", reasons=(f"version {version}, {refit.decision.verdict}",)),
        run_id=run_id,
        version=version,
        digest=fitted.digest,
        key=fitted.key,
        url=registry.run_url(run_id),
    )


def _report(run: Run, decision: Decision, **more: Any) -> RegisterReport:
    return RegisterReport(model=run.model, interval=run.interval, effective_at=run.as_of, decision=decision, **more)


def _describe(run: Run, registry: Registry, run_id: str, version: int, lineage: dict[str, str]) -> None:
    """Lay the version's card and the changelog up to it into MLflow, and the card beside the run's other pages."""
    card = model_card.card(run, version, lineage)
    changes = changelog(run.model, run.ledger.records(run.model), refit_as_champion(run, version, run_id))
    run.store.write(run.path("register", "model_card.html"), card.html)
    texts = {"model_card.md": card.markdown, "model_card.html": card.html.decode(), "CHANGELOG.md": changes}
    registry.attach(run_id, {f"{CARD}/{name}": text for name, text in texts.items()})


def _judged(train: TrainReport, gate: GateReport) -> FittedModel:
    """The model that the gate spoke about, else the first candidate."""
    chosen = [fitted for fitted in train.fitted if fitted.name == gate.chosen]
    return (chosen or [fitted for fitted in train.fitted if fitted.kind != "baseline"])[0]


def _has(run: Run, name: str) -> bool:
    return run.store.exists(f"{run.folder}/{name}.json")


def _file(run: Run, name: str, folder: Path) -> Path:
    path = folder / f"{name}.json"
    path.write_bytes(run.store.read(f"{run.folder}/{name}.json"))
    return path


def _parameters(run: Run, fitted: FittedModel) -> dict[str, Any]:
    configuration = fitted.configuration
    return {
        "estimator": configuration.estimator,
        "window": configuration.rows_label if configuration.half_life else configuration.window or "all",
        **({"recalibrated": configuration.recalibrated.model_dump(mode="json")} if configuration.recalibrated else {}),
        "training_rows": fitted.rows,
        "training_from": fitted.intervals[0].start.isoformat(),
        "training_until": fitted.intervals[-1].end.isoformat(),
        "seed": run.spec.training.seed,
        "threads": run.spec.training.threads,
        **{f"model.{name}": value for name, value in configuration.parameters.items()},
    }


def _metrics(run: Run, fitted: FittedModel, gate: GateReport) -> dict[str, float]:
    """The gated candidate's metrics on the holdout rows, then everybody else's with their name in front."""
    evaluation = run.read(EvaluateReport, "evaluate")
    judged = gate.chosen or fitted.name
    values = {
        (name if model == judged else f"{model}.{name}"): measured.value
        for model, metrics in evaluation.metrics.items()
        for name, measured in metrics.items()
    }
    return {name: value for name, value in values.items() if value is not None}
