"""The models that serve, score beside the one that serves, or must not come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from retrain.results.base import Result, Utc

LATER = ("half_life", "recalibrated")
"""Fields of a configuration that came later."""


class Recalibration(Result):
    """How a recalibrated model came from another, whose fitted estimator it keeps."""

    version: int = Field(description="whose fitted estimator it is")
    digest: str = Field(description="of that version's files")
    training: str = Field(description="digest of the rows that it was fitted on")
    trained_until: Utc = Field(description="end of the newest interval that it was fitted on")
    rows: int = Field(description="labelled rows that it was fitted on")
    method: Literal["intercept", "intercept and slope"] = Field(description="what recent rows have taught anew")


class Configuration(Result):
    """Everything that makes a model but the rows: what a refresh repeats."""

    estimator: str
    parameters: dict[str, Any]
    window: int | None = Field(default=None, description="how many of the newest intervals; None is all")
    since: Utc | None = Field(default=None, description="start of the rows, where the world changed then")
    half_life: float | None = Field(
        default=None,
        gt=0,
        description="days in which the weight of a row halves; None weighs all alike",
    )
    recalibrated: Recalibration | None = Field(
        default=None, description="the model of another version, its answers recalibrated; None is fitted as a whole"
    )
    pipeline: str = Field(description="digest of columns, encoders, feature code and library versions")

    @model_serializer(mode="wrap")
    def _leave_out_what_is_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what it does not have, so that it reads, and has the digest, as before there was such a field."""
        written: dict[str, Any] = write(self)
        return {name: value for name, value in written.items() if value is not None or name not in LATER}

    @property
    def fitted_as(self) -> Configuration:
        """What a refresh of the model fits: the configuration without its recalibration."""
        return self.model_copy(update={"recalibrated": None})

    @property
    def rows_label(self) -> str:
        """The training rows, for people and as a name.

        >>> Configuration(estimator="linear", parameters={}, window=3, pipeline="").rows_label
        'last 3'
        """
        rows = "all" if self.window is None else f"last {self.window}"
        if self.since:
            rows = f"since {self.since:%Y-%m-%d}"
        return f"{rows} with half-life {self.half_life:g}d" if self.half_life else rows

    @property
    def label(self) -> str:
        """Estimator and training rows, for people."""
        label = f"{self.estimator}, {self.rows_label}"
        if self.recalibrated:
            label += f", version {self.recalibrated.version} with another {self.recalibrated.method}"
        return label

    def is_refit_of(self, other: Configuration) -> bool:
        """Whether the two differ in their training rows at most: what is known of one is known of the other."""
        return (self.estimator, self.parameters, self.pipeline) == (other.estimator, other.parameters, other.pipeline)


class Champion(Result):
    """A model that serves or is to serve, as the registry and the ledger know it."""

    FORMER: ClassVar[Mapping[str, str]] = {"promised": "expected_score"}

    version: int
    run_id: str
    digest: str = Field(description="of the model's files")
    configuration: Configuration
    training: str = Field(description="digest of the training rows")
    reference: str = Field(description="folder of the reference rows, relative to the store")
    trained_until: Utc = Field(description="end of the newest interval it was fitted on")
    rows: int = Field(default=0, description="labelled rows it was fitted on")
    expected_score: float | None = Field(
        default=None, description="the primary metric on the holdout rows that it was gated on"
    )
    effective_at: Utc = Field(description="the as-of time of the run that promoted it")
    stands_in_for: Configuration | None = Field(
        default=None, description="of a baseline: the configuration that lost to it, and that is asked again"
    )

    @property
    def renewed_as(self) -> Configuration:
        """What a refresh fits on newer rows: its configuration, or the one that a baseline stands in for."""
        return (self.stands_in_for or self.configuration).fitted_as


class BlockedModel(Result):
    """An entry of the blocklist: a model that must not come back, and what makes the same files again."""

    version: int
    digest: str
    training: str
    configuration: Configuration
    reason: str


class Rollout(Result):
    """A version that scores beside the champion: a challenger on its way, or the predecessor under watch."""

    FORMER: ClassVar[Mapping[str, str]] = {"beside": "shadow", "pins": "becomes_reference"}

    purpose: Literal["shadow", "canary", "watch"]
    shadow: Champion = Field(description="the challenger; of a watch the predecessor")
    champion: int = Field(description="the version that serves")
    kind: Literal["refresh", "new"] = Field(default="new", description="what the challenger, or the new champion, is")
    becomes_reference: bool = Field(
        default=False, description="the gate has shown the challenger better than the reference champion"
    )
    step: int = Field(default=0, description="of a canary")
    share: float = Field(default=0.0, description="of the rows that the challenger answers")
    since: Utc = Field(description="from when on, on the data's clock, this step holds")
    began: Utc = Field(description="the same of the first step")
