"""A laptop's run killed while it makes a version, then run again with an edited spec: no version loses its evidence.

The stages are cheap ones with the real reports; `pipeline`, the seal, MLflow and the promotion are the product's own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

from retrain import pipeline
from retrain.errors import RetrainError
from retrain.live import run_to_go_on_with
from retrain.modeling import packaging
from retrain.registry.mlflow import Registry, save_model
from retrain.results import (
    Batch,
    Champion,
    Configuration,
    Context,
    Decision,
    FittedModel,
    GateReport,
    IngestReport,
    RefitReport,
    RegisterReport,
    SmokeTestReport,
    Trigger,
)
from retrain.stages import context, gate, ingest, labels, refit, register, smoke_test  # noqa: F401  before any fork
from retrain.state import evidence
from retrain.state.ledger import Ledger
from retrain.state.run import Run
from tests.chaos.histories import THIRD, Findings, History
from tests.chaos.holds import violations
from tests.chaos.points import kill_at
from tests.chaos.prepared import Worlds
from tests.chaos.world import Body, World, changes

MONTH = 4
"""The month after the last that was promoted in the prepared home."""


def about(run: Run, verdict: str = "promote") -> dict[str, Any]:
    decision = Decision(verdict=verdict, reasons=("better",))
    return {"model": run.model, "interval": run.interval, "effective_at": run.as_of, "decision": decision}


def cheap_ingest(run: Run) -> IngestReport:
    batch = Batch(interval=run.interval, sha256="b" * 64, rows=2, bytes=2, key="batch")
    facts = {name: value for name, value in about(run).items() if name != "decision"}
    return IngestReport(**facts, batch=batch, source="here", source_digest="d")


def cheap_context(run: Run) -> Context:
    others = [record for record in run.ledger.records(run.model, "promotion") if record.run != run.key]
    champion = Champion.model_validate(others[-1].body["champion"])
    facts = {name: value for name, value in about(run).items() if name != "decision"}
    return Context(
        **facts,
        spec_digest=run.spec.digest,
        trigger=run.trigger,
        accepted=(),
        champion=champion,
        reference_champion=champion,
    )


def cheap_gate(run: Run) -> GateReport:
    return GateReport(**about(run), chosen="new", kind="new", becomes_reference=True)


def cheap_refit(run: Run) -> RefitReport:
    folder = Path(run.store.url(run.path("refit", "model")))
    frame, zeros = pd.DataFrame({"x": [0.0, 1.0] * 50}), 1 + int(run.spec.digest[:8], 16) % 98
    pipe = Pipeline([("model", DummyClassifier(strategy="prior"))]).fit(frame, [0] * zeros + [1] * (100 - zeros))
    digest = save_model(pipe, folder, example=frame[:2], requirements=packaging.requirements())
    golden = {"rows": [{"x": 0.0}, {"x": 1.0}], "predictions": [1 - zeros / 100] * 2}
    run.store.write(run.path("refit", "golden.json"), json.dumps(golden).encode())
    fitted = FittedModel(
        name="new", kind="new", training=run.key, intervals=(run.interval,), rows=2, key=run.path("refit", "model"),
        digest=digest, configuration=Configuration(estimator="linear", parameters={}, pipeline="p"),
    )  # fmt: skip
    return RefitReport(**about(run), fitted=fitted, golden="", mean_prediction=(0.5,))


def cheap_register(run: Run) -> RegisterReport:
    evidence.seal(run)
    registry, fitted = Registry(run.home.mlflow), run.read(RefitReport, "refit").fitted
    run_id = registry.record(
        experiment=run.model, key=run.key, name=run.key, description="", params={"spec": run.spec.digest}, metrics={},
        tags={}, files={},
    )  # fmt: skip
    with run.store.local(fitted.key) as folder:
        version = registry.register(
            model=run.model, run_id=run_id, folder=folder, digest=fitted.digest, tags={}, description=""
        )
    registry.set_alias(run.model, "challenger", version, fitted.digest)
    return RegisterReport(**about(run, "registered"), run_id=run_id, version=version, digest=fitted.digest)


def cheap_smoke_test(run: Run) -> SmokeTestReport:
    return SmokeTestReport(**about(run, "serves"), version=run.read(RegisterReport, "register").version or 0)


CHEAP = (cheap_ingest, cheap_context, cheap_gate, cheap_refit, cheap_register, cheap_smoke_test)


def running(world: World) -> str:
    """`retrain run` of the month, by the spec as it is now."""
    names = [stage.__name__.removeprefix("cheap_") for stage in CHEAP]
    for name, stage in zip(names, CHEAP, strict=True):
        setattr(globals()[name], name, stage)
    month = world.run(MONTH)
    run = replace(month, key=f"laptop-{month.interval.name}", trigger=Trigger(kind="laptop"))
    run = run_to_go_on_with(run)
    for name in (*names, "promote"):
        report = pipeline.run_stage(name, run)
    return str(report.decision.verdict)  # type: ignore[attr-defined]


def edited(objective: str) -> Body:
    def edit(world: World) -> None:
        file = world.home.models / f"{world.model}.yaml"
        data = yaml.safe_load(file.read_text()) | {"objective": objective}
        file.write_text(yaml.safe_dump(data, sort_keys=False))

    return edit


def lost_evidence(world: World) -> list[str]:
    """What is not as on record, of every version that was begun; and versions that their runs do not explain."""
    wrong = []
    for record in Ledger(world.home.ledger).records(world.model, evidence.EVIDENCE):
        try:
            evidence.check_files(world.run(MONTH, record.key))
        except RetrainError as error:
            wrong.append(error.found)
    for record in changes(world)[THIRD[1] :]:
        champion = Champion.model_validate(record.body["champion"])
        maker = world.run(MONTH, champion.reference.split("/")[2])
        report, fitted = maker.read(RegisterReport, "register"), maker.read(RefitReport, "refit").fitted
        if (report.version, report.digest, fitted.digest) != (champion.version, champion.digest, champion.digest):
            wrong.append(f"{maker.key} made version {report.version}, and is said to have made {champion.version}")
    return wrong


def killed_and_edited(place: int) -> Callable[[Worlds], Findings]:
    """Killed at a point, run with an edited spec, then with the first one; each twice."""

    def run(worlds: Worlds) -> Findings:
        findings = Findings()
        with worlds.fresh(*THIRD) as world:
            world.result_of(edited("The first wish."))
            outcome = world.apart(running, kill_at(place))
            findings.expect(outcome, "killed")
            findings.kills += outcome.ended == "killed"
            for objective in ("Another wish.", "The first wish."):
                world.result_of(edited(objective))
                findings.expect(world.apart(running), "done")
                findings.wrong += world.result_of(lost_evidence)
                findings.wrong += violations(world, replays=[running])
            findings.wrong += world.result_of(lost_evidence)
        return findings

    return run


def edits(worlds: Worlds, draw: random.Random, quick: bool) -> Iterator[History]:
    """Every point of a run; quick: four, drawn by chance."""
    with worlds.fresh(*THIRD) as world:
        world.result_of(edited("The first wish."))
        names = world.points(running)
    places = range(1, len(names) + 1)
    for place in sorted(draw.sample(places, 4)) if quick else places:
        what = f"a run killed at {place} of {len(names)} ({names[place - 1]}), then an edited spec"
        yield History("edited spec", what, killed_and_edited(place))
