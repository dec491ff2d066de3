"""What register reports: the run in MLflow, and its version."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from retrain.results.base import Decision, StageReport


class RegisterReport(StageReport):
    """The run in MLflow, and its version where there is one."""

    decision: Decision = Field(description="registered, or recorded: a run without a version")
    run_id: str
    version: int | None = None
    digest: str | None = None
    key: str | None = None
    url: str | None = Field(default=None, description="of the run in the MLflow UI")

    def facts(self) -> dict[str, Any]:
        """The version, and the digest of its files."""
        return {"version": self.version, "digest": self.digest}
