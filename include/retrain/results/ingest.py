"""What ingest reports: the batch that it took."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from retrain.results.base import Interval, Result, StageReport


class Batch(Result):
    """The rows of one interval, published under the SHA-256 of their Parquet file."""

    interval: Interval
    sha256: str
    rows: int
    bytes: int
    key: str = Field(description="where the file lies, relative to the store")


class IngestReport(StageReport):
    """The interval's batch, and where its bytes came from."""

    batch: Batch
    source: str = Field(description="the address without its secrets")
    source_digest: str = Field(description="SHA-256 of the delivered bytes, or of the rows for SQL")

    def facts(self) -> dict[str, Any]:
        """Rows and digest of the batch."""
        return {"rows": self.batch.rows, "sha256": self.batch.sha256}
