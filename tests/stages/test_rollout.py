"""What scores beside the champion: a challenger on its way, the predecessor under watch, and what comes of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from retrain.errors import RegistryDown, SmokeTestFailed
from retrain.registry import promotion, rollouts, smoke_test
from retrain.registry.mlflow import Registry
from retrain.registry.promotion import ChampionChange
from retrain.results import Champion, Configuration, Decision, DiagnoseReport, MeasureReport, RolloutReport
from retrain.stages.context import context
from retrain.stages.rollout import rollout
from retrain.stages.score import score
from retrain.state import projections
from retrain.state.ledger import Ledger
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import churn_rows, home_at
from tests.stages.test_score import LINEAR, STEEP, Bench, spec_of, spoil_files

FEBRUARY, MARCH, APRIL, MAY, JUNE = (f"2024-{month:02d}-01" for month in range(2, 7))
GOOD, POOR, BAD, TWIN = 1, 2, 3, 4
"""Versions: fitted well, hardly fitted, on flipped labels, and nearly the first again."""


class Watched(Bench):
    """A bench whose months are taken in, scored and judged, and whose champion changes as in the loop."""

    def month(self, start: str, frame: pd.DataFrame | None = None, *, key: str = "", **trigger: Any) -> RolloutReport:
        """The month comes, is scored by the champion of its time, and is judged."""
        self.take(start, frame)
        return self.judge(start, key=key, **trigger)

    def take(self, start: str, frame: pd.DataFrame | None = None) -> None:
        run = self.begin(start, frame, key=f"score-{start}")
        run.write(score(run), "score")
        accepted = self.accept(run)
        accepted = accepted.model_copy(update={"mature_at": run.interval.end + self.spec.labels.mature_after})
        body = {"interval": start, "accepted": accepted.model_dump(mode="json")}
        run.ledger.append("churn", "snapshot", start, body, effective_at=run.as_of, run=run.key)

    def monitor(self, start: str, *, key: str = "", **trigger: Any) -> Run:
        """A monitor's run with its context."""
        run = dataclasses.replace(self.model.run(start, key=key or f"monitor-{start}", **trigger), loop="monitor")
        run.write(context(run), "context")
        return run

    def judge(self, start: str, *, key: str = "", **trigger: Any) -> RolloutReport:
        report = rollout(self.monitor(start, key=key, **trigger))
        assert RolloutReport.from_json(report.to_json()) == report
        return report

    def serve(self, version: int, as_of: str, kind: str = "new") -> Champion:
        """A version comes to serve from `as_of` on; what served before is returned."""
        run = dataclasses.replace(self.model.run(as_of, key=f"retrain-{as_of}"), known_at=self.spec.at(as_of).start)
        target = self.champion(version, self.digests[version], when=run.as_of)
        promotion.change_champion(run, ChampionChange("promote", target, kind, ("gated",), target, run.as_of))
        return target

    def shadow(
        self,
        purpose: Any,
        version: int,
        champion: int,
        as_of: str,
        share: float = 0.0,
        *,
        becomes_reference: bool = False,
    ) -> None:
        run = dataclasses.replace(self.model.run(as_of, key=f"retrain-{as_of}"), known_at=self.spec.at(as_of).start)
        target = self.champion(version, self.digests[version], when=run.as_of)
        rollouts.begin_rollout(run, purpose, target, champion, "new", share, becomes_reference=becomes_reference)
        self.registry.set_alias("churn", "challenger", version, self.digests[version])

    def verdicts(self) -> list[str]:
        return [record.body["verdict"] for record in Ledger(self.home.ledger).records("churn", "rollout")]

    def serves(self, start: str) -> int:
        """Which version scores the month that begins then; the alias agrees with the newest."""
        changes = Ledger(self.home.ledger).records("churn", "promotion")
        assert self.registry.alias("churn", "champion") == changes[-1].body["version"]
        champion = projections.champion_at(changes, self.spec.at(start).start)
        assert champion
        return champion.version

    def blocklist(self) -> list[str]:
        records = Ledger(self.home.ledger).records("churn")
        return [
            blocked.digest
            for blocked in projections.blocklist(
                record for record in records if record.kind in ("promotion", "rollout")
            )
        ]


def worse(start: str) -> pd.DataFrame:
    """A month in which the labels go the other way: whoever learnt the world falls."""
    frame = churn_rows(start)
    return frame.assign(churned=~frame["churned"])


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Bench:
    """A registry with the four versions."""
    home = home_at(tmp_path_factory.mktemp("laid"))
    bench = Bench(home, spec_of(), empty_mlflow)
    assert bench.register(bench.fit(LINEAR)) == GOOD
    assert bench.register(bench.fit(STEEP)) == POOR
    flipped = bench.fit(LINEAR)
    flipped[-1].coef_[:] *= -1
    assert bench.register(flipped) == BAD
    assert bench.register(bench.fit(Configuration(estimator="linear", parameters={"C": 0.9}, pipeline="p"))) == TWIN
    return bench


Lay = Callable[..., Watched]


@pytest.fixture
def lay(home: Home, laid: Bench, monkeypatch: pytest.MonkeyPatch) -> Lay:
    """A fresh bench under a spec's `promotion`; every version answers when it is smoke-tested."""
    monkeypatch.setattr(smoke_test, "run_smoke_test", lambda *_, **__: ())

    def bench(**promotion: Any) -> Watched:
        more = {name: promotion.pop(name) for name in ("labels", "scoring", "gate") if name in promotion}
        return Watched(home, spec_of(promotion=promotion, **more), laid)

    return bench


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A process that dies before it writes a rollout's record of that verdict."""
    write = rollouts.record_rollout

    def dies(verdict: str) -> Any:
        def guarded(run: Run, key: str, current: Any, written: str, *more: Any, **others: Any) -> Any:
            if written == verdict:
                raise KeyboardInterrupt
            return write(run, key, current, written, *more, **others)

        monkeypatch.setattr(rollouts, "record_rollout", guarded)
        return lambda: monkeypatch.setattr(rollouts, "record_rollout", write)

    return dies


def test_without_a_rollout_there_is_nothing_to_do(lay: Lay) -> None:
    bench = lay()
    bench.serve(GOOD, FEBRUARY)
    assert bench.month(FEBRUARY).decision.verdict == "idle"


# --- shadow


def shadowed(lay: Lay, version: int, champion: int, **more: Any) -> Watched:
    bench = lay(mode="shadow", **{"intervals": 2, **more})
    bench.serve(champion, FEBRUARY)
    bench.shadow("shadow", version, champion, FEBRUARY)
    return bench


def test_a_challenger_that_holds_in_shadow_comes_to_serve_under_watch(lay: Lay) -> None:
    bench = shadowed(lay, GOOD, POOR)
    first = bench.month(FEBRUARY)
    assert first.decision.verdict == "held"
    assert first.decision.reasons[0] == "1 of 2 intervals of the shadow have labels"
    assert bench.serves(MARCH) == POOR
    second = bench.month(MARCH)
    assert second.decision.verdict == "promoted"
    assert (second.purpose, second.version, second.champion, second.rows) == ("shadow", GOOD, POOR, 400)
    assert second.gain is not None
    assert second.low is not None
    assert second.high is not None
    assert 0 < second.low < second.gain < second.high
    page = bench.store.read(second.html)
    assert page.count(b"data:image/png;base64,") == 1
    assert b"held in shadow: log_loss of version 1 above that of version 2: -0." in page

    assert (bench.serves(MARCH), bench.serves(APRIL)) == (POOR, GOOD)
    assert bench.registry.alias("churn", "challenger") is None
    change = Ledger(bench.home.ledger).records("churn", "promotion")[-1]
    assert change.body["evidence"] == {"rows": 400, "gain": second.gain, "low": second.low, "high": second.high}
    assert change.body["champion"]["effective_at"] == "2024-04-01T00:00:00Z"
    assert change.body["reference_champion"]["version"] == POOR, (
        "the gate did not show it better than the reference champion"
    )
    assert bench.verdicts() == ["begun", "promoted"]
    watch = bench.monitor(APRIL).ledger.records("churn", "rollout")[-1].body["rollout"]
    assert (watch["purpose"], watch["shadow"]["version"], watch["champion"]) == ("watch", POOR, GOOD)


def test_what_the_gate_showed_better_becomes_the_reference_champion(lay: Lay) -> None:
    bench = lay(mode="shadow", intervals=1)
    bench.serve(POOR, FEBRUARY)
    bench.shadow("shadow", GOOD, POOR, FEBRUARY, becomes_reference=True)
    assert bench.month(FEBRUARY).decision.verdict == "promoted"
    changes = Ledger(bench.home.ledger).records("churn", "promotion")
    assert projections.reference_champion(changes) == Champion.model_validate(changes[-1].body["champion"])
    assert changes[-1].body["version"] == GOOD


def test_a_challenger_shown_worse_is_stopped_at_once_and_blocked(lay: Lay) -> None:
    bench = shadowed(lay, BAD, GOOD)
    report = bench.month(FEBRUARY)
    assert report.decision.verdict == "stopped"
    assert report.decision.reasons[0].startswith("shown to be worse: log_loss of version 3 above that of version 1: ")
    assert bench.blocklist() == [bench.digests[BAD]]
    assert bench.registry.alias("churn", "challenger") is None
    assert bench.serves(MARCH) == GOOD
    assert bench.month(MARCH).decision.verdict == "idle"
    assert bench.records(MARCH)[0].body["shadow"] is None, "and it scores no more"


def test_what_cannot_be_told_is_stopped_after_a_while_and_not_blocked(lay: Lay) -> None:
    bench = shadowed(lay, GOOD, POOR, intervals=1)
    few = [churn_rows(start, 900).query(f"signup < '{start[:7]}-06'") for start in (FEBRUARY, MARCH)]
    assert bench.month(FEBRUARY, few[0]).decision.verdict == "waiting"
    report = bench.month(MARCH, few[1])
    assert report.decision.verdict == "stopped"
    assert report.decision.reasons[0].startswith("inconclusive after 2 intervals with labels, the champion stays")
    assert report.decision.reasons[0].endswith("too few blocks to tell how sure that is: 10")
    assert (report.low, report.high, bench.blocklist()) == (None, None, [])


def test_a_challenger_that_fails_is_stopped_without_labels(lay: Lay) -> None:
    bench = shadowed(lay, TWIN, GOOD, labels={"mature_after": "40d"})
    spoil_files(bench, TWIN)
    report = bench.month(FEBRUARY)
    assert report.decision.verdict == "stopped"
    assert report.decision.reasons[0].startswith("version 4 failed on 2024-02-01: DigestMismatch: ")
    assert bench.blocklist() == [bench.digests[TWIN]]


def test_a_registry_that_was_down_is_held_against_nobody(lay: Lay, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = shadowed(lay, TWIN, GOOD)
    with monkeypatch.context() as patch:
        fetch = Registry.fetch

        def down(self: Registry, model: str, version: int, *more: Any) -> Path:
            if version == TWIN:
                raise RegistryDown("the server did not answer", do="wait")
            return fetch(self, model, version, *more)

        patch.setattr(Registry, "fetch", down)
        bench.take(FEBRUARY)
    report = bench.judge(FEBRUARY)
    assert report.decision.verdict == "waiting"
    assert report.rows == 0


def test_a_challenger_that_fails_its_smoke_test_is_stopped(lay: Lay, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = shadowed(lay, GOOD, POOR, intervals=1)

    def refuses(*_: Any) -> Any:
        raise SmokeTestFailed("it answers otherwise", do="see why")

    monkeypatch.setattr(smoke_test, "run_smoke_test", refuses)
    report = bench.month(FEBRUARY)
    assert report.decision.verdict == "stopped"
    assert report.decision.reasons[0] == "SmokeTestFailed: it answers otherwise"
    assert bench.blocklist() == [bench.digests[GOOD]]
    assert bench.serves(MARCH) == POOR


def test_a_blocked_challenger_is_stopped(lay: Lay) -> None:
    bench = shadowed(lay, GOOD, POOR, intervals=1)
    ledger = bench.monitor(FEBRUARY, key="before").ledger
    blocked = {"version": 9, "digest": bench.digests[GOOD], "training": "t", "reason": "bad"}
    body = {
        "rollout": None,
        "verdict": "stopped",
        "reasons": [],
        "blocked": {**blocked, "configuration": LINEAR.model_dump()},
    }
    at = bench.spec.at("2024-01-01").start
    ledger.append("churn", "rollout", "block", body, effective_at=at)
    begun = ledger.records("churn", "rollout")[0]
    ledger.append("churn", "rollout", "again", begun.body, effective_at=begun.effective_at)
    report = bench.month(FEBRUARY)
    assert report.decision.verdict == "stopped"
    assert "is blocked: bad" in report.decision.reasons[0]
    assert bench.serves(MARCH) == POOR


def test_a_rehearsal_changes_nothing(lay: Lay) -> None:
    bench = shadowed(lay, GOOD, POOR, intervals=1)
    report = bench.month(FEBRUARY, dry_run=True)
    assert report.decision.verdict == "promoted"
    assert report.decision.reasons[-1] == "a rehearsal: nothing was changed"
    assert bench.serves(MARCH) == POOR
    assert bench.verdicts() == ["begun"]


def test_a_promotion_killed_halfway_is_completed_by_its_retry(lay: Lay, killed: Callable[[str], Any]) -> None:
    bench = shadowed(lay, GOOD, POOR, intervals=1)
    bench.take(FEBRUARY)
    run = bench.monitor(FEBRUARY)
    revived = killed("promoted")
    with pytest.raises(KeyboardInterrupt):
        rollout(run)
    assert bench.verdicts() == ["begun"]
    assert bench.serves(MARCH) == GOOD, "the champion has moved, and nothing is known of it in the rollouts"
    revived()
    first = rollout(run)
    run.write(context(run), "context")  # a retry of the whole run sees what its first attempt saw
    assert rollout(run) == first
    assert first.decision.verdict == "promoted"
    assert bench.verdicts() == ["begun", "promoted"]
    assert len(run.ledger.records("churn", "promotion")) == 2


# --- canary


def test_a_canary_grows_step_by_step_and_serves_after_the_last(lay: Lay) -> None:
    bench = lay(mode="canary", intervals=1, steps=[0.1, 0.4])
    bench.serve(POOR, FEBRUARY)
    bench.shadow("canary", GOOD, POOR, FEBRUARY, share=0.1)
    report = bench.month(FEBRUARY)
    assert report.decision.verdict == "advanced"
    assert report.decision.reasons[0] == "version 1 answers 40% of the rows from now on"
    few = bench.records(FEBRUARY)[0].body["answered"]
    assert bench.serves(MARCH) == POOR, "never straight to all of the rows"
    assert bench.judge(FEBRUARY, key="second time").decision.reasons[0] == (
        "0 of 1 intervals of the canary at 40% have labels"
    )
    assert bench.month(MARCH).decision.verdict == "promoted"
    more = bench.records(MARCH)[0].body["answered"]
    assert 0 < few["1"] < 40 < more["1"] < 120
    assert bench.serves(APRIL) == GOOD
    assert bench.verdicts() == ["begun", "advanced", "promoted"]


def test_a_canary_that_is_worse_answers_no_more(lay: Lay) -> None:
    bench = lay(mode="canary", intervals=3, steps=[0.2, 0.5])
    bench.serve(GOOD, FEBRUARY)
    bench.shadow("canary", BAD, GOOD, FEBRUARY, share=0.2)
    assert bench.month(FEBRUARY).decision.verdict == "stopped"
    bench.take(MARCH)
    assert bench.records(MARCH)[0].body["answered"] == {"1": 200}
    assert bench.blocklist() == [bench.digests[BAD]]


# --- the watch


def watched(lay: Lay, champion: int, before: int, **more: Any) -> Watched:
    """`champion` serves from February on, `before` is its predecessor."""
    rest = {name: more.pop(name) for name in ("labels", "gate") if name in more}
    bench = lay(watch={"intervals": 2, **more}, **rest)
    bench.serve(before, "2024-01-01")
    bench.serve(champion, FEBRUARY)
    return bench


def test_a_good_successor_comes_through_its_watch(lay: Lay) -> None:
    bench = watched(lay, GOOD, POOR)
    assert bench.month(FEBRUARY).decision.verdict == "watched"
    report = bench.month(MARCH)
    assert report.decision.verdict == "ended"
    assert report.gain is not None
    assert report.gain > 0
    assert bench.serves(APRIL) == GOOD
    assert bench.month(APRIL).decision.verdict == "idle"
    assert bench.records(APRIL)[0].body["shadow"] is None, "the predecessor scores no more"


def test_a_bad_successor_is_put_back(lay: Lay) -> None:
    bench = watched(lay, BAD, GOOD)
    report = bench.month(FEBRUARY)
    assert report.decision.verdict == "rolled back"
    assert report.decision.reasons[-1] == "version 1 serves again from 2024-03-01 00:00 on"
    assert report.high is not None
    assert report.high < 0
    assert (bench.serves(FEBRUARY), bench.serves(MARCH)) == (BAD, GOOD)
    assert bench.blocklist() == [bench.digests[BAD]]
    change = Ledger(bench.home.ledger).records("churn", "promotion")[-1]
    assert (change.body["action"], change.body["previous"]) == ("rollback", BAD)
    assert change.body["reasons"] == [report.decision.reasons[0]]
    bench.take(MARCH)
    assert (bench.records(MARCH)[0].body["version"], bench.records(MARCH)[0].body["shadow"]) == (GOOD, None)
    assert bench.verdicts() == ["rolled back"]


def test_what_may_be_chance_puts_nothing_back(lay: Lay) -> None:
    bench = watched(lay, BAD, GOOD)
    report = bench.month(FEBRUARY, churn_rows(FEBRUARY, 900).query("signup < '2024-02-06'"))
    assert report.decision.verdict == "watched"
    assert report.gain is not None
    assert report.gain < 0
    assert bench.serves(MARCH) == BAD


def test_the_margin_is_tolerated(lay: Lay) -> None:
    bench = watched(lay, POOR, GOOD, margin=0.9)
    assert bench.month(FEBRUARY).decision.verdict == "watched"
    assert bench.month(MARCH).decision.verdict == "ended"
    assert bench.serves(APRIL) == POOR


def test_where_both_fall_the_world_has_moved(lay: Lay) -> None:
    bench = watched(lay, TWIN, GOOD)
    bench.take(FEBRUARY, worse(FEBRUARY))
    run = bench.monitor(FEBRUARY)
    fell = Decision(verdict="alarm", reasons=("2024-02-01: log_loss 1.5, 0.5 expected",))
    about = {"model": "churn", "interval": run.interval, "effective_at": run.as_of, "decision": fell}
    run.write(MeasureReport.model_validate(about), "measure")
    report = rollout(run)
    assert report.decision.verdict == "drift"
    assert report.decision.reasons[0].startswith("version 4 fell (2024-02-01: log_loss 1.5, 0.5 expected)")
    assert bench.serves(MARCH) == TWIN
    assert bench.verdicts() == []


def test_labels_in_doubt_are_no_evidence(lay: Lay) -> None:
    bench = watched(lay, BAD, GOOD)
    bench.take(FEBRUARY)
    run = bench.monitor(FEBRUARY)
    doubt = Decision(verdict="suspect", reasons=("outcomes go against the answers",))
    about = {"model": "churn", "interval": run.interval, "effective_at": run.as_of, "decision": doubt}
    run.write(DiagnoseReport.model_validate({**about, "of": ((run.interval, "suspect"),)}), "diagnose")
    assert rollout(run).decision.verdict == "waiting"
    assert bench.serves(MARCH) == BAD


def test_a_technical_breach_puts_the_predecessor_back_without_labels(lay: Lay) -> None:
    bench = watched(lay, POOR, GOOD, labels={"mature_after": "60d"})
    spoil_files(bench, POOR)
    report = bench.month(FEBRUARY)
    assert report.decision.verdict == "rolled back"
    assert report.decision.reasons[0].startswith("version 2 failed on 2024-02-01: DigestMismatch: ")
    assert report.rows == 0
    assert bench.serves(MARCH) == GOOD


def test_the_watch_outlasts_the_labels(lay: Lay) -> None:
    bench = watched(lay, BAD, GOOD, labels={"mature_after": "40d"})
    assert bench.month(FEBRUARY).decision.verdict == "waiting"
    assert bench.month(MARCH).decision.verdict == "waiting"
    assert (bench.serves(MARCH), bench.serves(APRIL)) == (BAD, BAD)
    assert bench.month(APRIL).decision.verdict == "rolled back", "the labels of February are there since 10 April"
    assert bench.serves(MAY) == GOOD


def test_a_watch_without_pairs_ends_too(lay: Lay) -> None:
    bench = watched(lay, GOOD, POOR, intervals=1)
    record = Ledger(bench.home.ledger).records("churn", "promotion")[-1]
    body = {**record.body["rollout"], "shadow": {**record.body["rollout"]["shadow"], "digest": "0" * 64}}
    Ledger(bench.home.ledger).append(
        "churn", "rollout", "spoilt", {"rollout": body, "verdict": "begun"}, effective_at=record.effective_at
    )
    report = bench.month(FEBRUARY)
    assert report.decision.verdict == "ended"
    assert report.decision.reasons[0] == (
        "the watch ends after 1 intervals with labels, 1 of them without a pair: version 1 stays"
    )


def test_a_rollback_killed_halfway_is_completed_by_its_retry(lay: Lay, killed: Callable[[str], Any]) -> None:
    bench = watched(lay, BAD, GOOD)
    bench.take(FEBRUARY)
    run = bench.monitor(FEBRUARY)
    revived = killed("rolled back")
    with pytest.raises(KeyboardInterrupt):
        rollout(run)
    assert (bench.verdicts(), bench.serves(MARCH)) == ([], GOOD)
    revived()
    first = rollout(run)
    assert first.decision.verdict == "rolled back"
    assert rollout(run) == first
    assert bench.verdicts() == ["rolled back"]
    assert len(run.ledger.records("churn", "promotion")) == 3


def test_who_comes_after_somebody_else_does_nothing(lay: Lay) -> None:
    bench = watched(lay, BAD, GOOD)
    bench.take(FEBRUARY)
    run, other = bench.monitor(FEBRUARY), bench.monitor(FEBRUARY, key="other")
    assert rollout(other).decision.verdict == "rolled back"
    report = rollout(run)
    assert report.decision.verdict == "idle"
    assert report.decision.reasons == ("version 1 has come to serve since",)
    assert len(run.ledger.records("churn", "promotion")) == 3


def test_the_same_judgement_again_reads_the_same(lay: Lay) -> None:
    bench = watched(lay, TWIN, GOOD)
    bench.take(FEBRUARY)
    first, second = (bench.judge(FEBRUARY, key=key) for key in ("one", "two"))
    assert first.model_copy(update={"html": ""}) == second.model_copy(update={"html": ""})
