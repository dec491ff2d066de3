"""What smoke_test reports: what a version answered in a fresh process, and what it took."""

from __future__ import annotations

from pydantic import Field

from retrain.results.base import Decision, StageReport
from retrain.results.gate import GateCheck


class SmokeTestReport(StageReport):
    """A version in a fresh process: what it answered and what it took."""

    decision: Decision = Field(description="serves")
    version: int
    checks: tuple[GateCheck, ...] = ()
    html: str | None = None
