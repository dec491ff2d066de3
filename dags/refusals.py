"""Our own refusals, as Airflow takes them: final, and known by their kind to the failure callback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.log import mask_secret

from retrain.errors import RetrainError
from retrain.masking import SHORTEST, secrets
from retrain.state.failures import refusal_of


class Refusal(AirflowFailException):
    """One of our own, for the failure callback to know which."""

    def __init__(self, error: RetrainError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def final_refusals() -> Iterator[None]:
    """Our own refusals fail the task at once; what may pass, as a full disk may, is named and left to the retries.

    Whatever else goes wrong is raised as it is, and Airflow masks what is secret in its traceback.
    """
    try:
        yield
    except Exception as error:
        if (refusal := refusal_of(error)) is None:
            for secret in filter(lambda value: len(value) >= SHORTEST, secrets()):
                mask_secret(secret)
            raise
        if refusal.retryable:
            raise refusal from None
        raise Refusal(refusal) from None
