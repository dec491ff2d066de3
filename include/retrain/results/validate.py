"""What validate reports: every expectation and what came of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from retrain.results.base import Decision, Result, StageReport


class Check(Result):
    """One expectation and its outcome."""

    expectation: str
    column: str | None = None
    severity: Literal["stop", "warn"]
    passed: bool
    observed: str = Field(description="what was found, for people, bounded")
    unexpected: int = 0
    rows: int = 0
    crashed: bool = Field(default=False, description="the library could not evaluate it; counts as failed")


class ValidateReport(StageReport):
    """Whether the batch keeps its contract: accepted, or quarantined with the checks that failed."""

    decision: Decision = Field(description="accept or quarantine")
    sha256: str
    checks: tuple[Check, ...]
    released: bool = Field(default=False, description="a person let a quarantined batch through")
    unusual_row_count: str = Field(default="", description="that it has far fewer or more rows than those before it")
    html: str | None = None
    failing_rows: str | None = None
