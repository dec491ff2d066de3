"""What promote reports: whether the champion alias moved."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from retrain.results.base import Decision, StageReport


class PromoteReport(StageReport):
    """What became of the challenger, and which version serves now."""

    decision: Decision = Field(description="promoted, waiting, shadow, canary, rolled back, or kept: why not")
    version: int | None = None
    previous: int | None = None
    sequence: int | None = None

    def facts(self) -> dict[str, Any]:
        """The version, and the one before it."""
        return {"version": self.version, "previous": self.previous}
