"""What rollout reports: what came of the version that scores beside the champion."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from retrain.results.base import Decision, StageReport


class RolloutReport(StageReport):
    """What came of the version that scores beside the champion, as of the monitor's run."""

    decision: Decision = Field(
        description="idle, waiting, held, advanced, promoted, stopped, watched, ended, drift or rolled back"
    )
    purpose: Literal["shadow", "canary", "watch"] | None = None
    version: int | None = Field(default=None, description="the challenger; of a watch the predecessor")
    champion: int | None = None
    rows: int = 0
    gain: float | None = Field(default=None, description="mean loss spared by the newer of the two")
    low: float | None = None
    high: float | None = None
    html: str | None = None

    def facts(self) -> dict[str, Any]:
        """The version that scores beside the champion, and its gain."""
        return {"purpose": self.purpose, "version": self.version, "gain": self.gain}
