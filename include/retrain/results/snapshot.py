"""What snapshot reports: the version that brings the bytes back."""

from __future__ import annotations

from retrain.results.base import StageReport


class SnapshotReport(StageReport):
    """The DVC hash and the git commit that bring back the exact bytes of the accepted batch."""

    sha256: str
    path: str
    md5: str
    bytes: int
    commit: str
    tag: str
