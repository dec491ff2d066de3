"""Does a registered version load, answer and fit its budget in a fresh process?"""

from __future__ import annotations

from retrain.results import Champion, GateCheck
from retrain.run import Run


def probe(run: Run, target: Champion) -> tuple[GateCheck, ...]:
    """Load the version in a process of its own and ask it the golden rows of its reference folder.

    Raises:
        ArtifactMissing, DigestMismatch, ModelFormatRefused, EstimatorRefused: nothing was loaded.
        ProbeFailed: it does not load, does not answer as training did, or is over its budget.
    """
    return ()
