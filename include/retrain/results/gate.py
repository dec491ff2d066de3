"""What gate reports: each check, and the verdict on the challenger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from retrain.results.base import CurrentName, Decision, Result, StageReport


class GateCheck(Result):
    """One condition of the gate on one model."""

    FORMER: ClassVar[Mapping[str, str]] = {"blocks": "binding"}

    name: CurrentName
    model: str
    passed: bool | None = Field(description="None: cannot be told from these rows")
    value: float | None = None
    bound: float | None = None
    binding: bool = Field(default=True, description="False: reported only, it says nothing against the model")
    reason: str


class GateReport(StageReport):
    """The verdict on the challenger, with every check that led to it."""

    FORMER: ClassVar[Mapping[str, str]] = {"pins": "becomes_reference"}

    decision: Decision = Field(description="promote, keep or inconclusive")
    chosen: str | None = Field(default=None, description="which fitted model")
    kind: Literal["first", "refresh", "recalibrated", "new", "baseline"] | None = None
    lost_to: str = Field(
        default="", description="the baseline that the champion loses to at face value, which ends its privilege"
    )
    metric: str = ""
    challenger_score: float | None = None
    champion_score: float | None = None
    becomes_reference: bool = Field(
        default=False, description="shown to be better than the reference champion, or the first"
    )
    checks: tuple[GateCheck, ...] = ()

    def facts(self) -> dict[str, Any]:
        """The scores of challenger and champion, and which model was chosen."""
        scores = {"challenger": self.challenger_score, "champion": self.champion_score}
        return {**scores, "metric": self.metric, "chosen": self.chosen, "kind": self.kind}
