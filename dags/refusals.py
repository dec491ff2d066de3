"""Our own refusals, as Airflow takes them: final, and known by their kind to the failure callback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowFailException

from retrain.errors import RetrainError


class Refusal(AirflowFailException):
    """One of our own, for the failure callback to know which."""

    def __init__(self, error: RetrainError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def final_refusals() -> Iterator[None]:
    """Our own refusals fail the task at once; what may pass by itself is left to the retries."""
    try:
        yield
    except RetrainError as error:
        if error.retryable:
            raise
        raise Refusal(error) from None
