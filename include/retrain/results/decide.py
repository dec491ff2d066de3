"""What decide reports: retrain or skip, and by which rule."""

from __future__ import annotations

from pydantic import Field

from retrain.results.base import Decision, StageReport


class DecideReport(StageReport):
    """Whether to retrain, and which rule decided."""

    decision: Decision = Field(description="retrain or skip")
    policy: str = Field(default="", description="the rule that decided")
    evidence: dict[str, str] = Field(default={}, description="each rule that was evaluated, and its reason")
