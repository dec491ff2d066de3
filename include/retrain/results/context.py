"""What context reports: all that a run knows of the world before it decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field

from retrain.results.base import Result, Signal, StageReport, Utc
from retrain.results.champion import BlockedModel, Champion, Rollout
from retrain.results.ingest import Batch
from retrain.results.labels import LabelBatch


class AcceptedBatch(Result):
    """A batch that training may read."""

    batch: Batch
    md5: str
    commit: str
    mature_at: Utc = Field(description="when all of its labels are there, on the data's clock")
    labels: LabelBatch | None = Field(default=None, description="where labels come apart from the rows")


SHORTEST_REASON = 3
"""Characters of a reason that a person must give, on the command line and in Airflow's form."""


class Trigger(Result):
    """Why a run was started, and with which parameters."""

    kind: Literal["schedule", "manual", "alert", "laptop"] = "schedule"
    id: str = ""
    force: bool = False
    dry_run: bool = False
    revise: bool = Field(default=False, description="take other bytes for an accepted interval as a new revision")
    reason: str = ""
    by: str = Field(default="", description="who triggered it: a user of Airflow, or of the machine")


class Alert(Result):
    """A call for a retraining: a decision of the monitor, or one from outside."""

    id: str
    origin: Literal["monitor", "outside"]
    verdict: str = Field(description="what the monitor decided; of an alert from outside: retrain")
    reason: str
    effective_at: Utc


class Context(StageReport):
    """All that a run knows of the world, written down before it decides: one file, `context.json`."""

    FORMER: ClassVar[Mapping[str, str]] = {"pinned": "reference_champion", "barred": "blocklist"}

    spec_digest: str
    trigger: Trigger
    accepted: tuple[AcceptedBatch, ...] = Field(description="every accepted batch up to this interval, oldest first")
    quarantined: tuple[str, ...] = ()
    held: tuple[str, ...] = Field(default=(), description="accepted, then found broken or suspect; until released")
    doubtful: tuple[AcceptedBatch, ...] = Field(
        default=(), description="the held batches of which later intervals may show that the world had changed"
    )
    champion: Champion | None = None
    reference_champion: Champion | None = Field(
        default=None,
        description="the newest champion that was shown to be better; others may not creep away from it",
    )
    blocklist: tuple[BlockedModel, ...] = ()
    rollout: Rollout | None = Field(default=None, description="what scores beside the champion")
    last_training_at: Utc | None = Field(default=None, description="as-of time of the newest training of this model")
    newest_promotion_at: Utc | None = Field(default=None, description="as-of time of the newest promotion")
    trainings: tuple[Utc, ...] = Field(default=(), description="as-of times of all trainings, oldest first")
    lineage: tuple[int, ...] = Field(
        default=(), description="the champion and the versions before it that differ from it in their rows only"
    )
    signals: tuple[Signal, ...] = Field(
        default=(),
        description="what is on record of the champion, oldest first; of realised performance also that of its lineage",
    )
    measured: tuple[str, ...] = Field(
        default=(), description="intervals whose realised performance was on record before this moment"
    )
    alert: Alert | None = Field(default=None, description="what started this run, where it was one")

    @property
    def other_reference_champion(self) -> Champion | None:
        """The reference champion, where it is another than the one that serves."""
        reference, champion = self.reference_champion, self.champion
        return reference if reference and champion and reference.version != champion.version else None

    def with_signals(self, reports: Iterable[StageReport]) -> Self:
        """The context with what these reports say about its champion and the versions of its lineage; all regret."""
        if self.champion is None:
            return self
        counted = {self.champion.version, *self.lineage}
        more = (signal for report in reports for signal in report.signals_of(self.champion.version))
        counting = (signal for signal in more if signal.champion in counted or signal.question == "regret")
        return self.model_copy(update={"signals": (*self.signals, *counting)})
