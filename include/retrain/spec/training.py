"""`training`: which models compete, on which rows, with which features."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from retrain.spec.base import ColumnName, Duration, Name, Part

DatePart = Literal["year", "month", "day", "weekday", "hour", "minute", "dayofyear", "minuteofday"]


class Candidate(Part):
    """An estimator and what the search may vary."""

    estimator: str = Field(description="linear, random_forest, xgboost, or a dotted path into scikit-learn or xgboost")
    parameters: dict[str, Any] = Field(default={}, description="the estimator's own, but for seed and threads")
    search: dict[str, list[Any]] = Field(default={}, description="parameter → values to try")
    encode: Literal["onehot", "ordinal", "target"] | None = Field(default=None, description="categories; by estimator")


class Search(Part):
    """How parameters are chosen, inside the training rows only."""

    method: Literal["halving", "random"] = Field(
        default="halving", description="halving tries all on few rows and the better half on twice as many"
    )
    trials: int = Field(default=8, ge=1, le=500, description="configurations per candidate")
    folds: int = Field(default=3, ge=2, le=10, description="inner folds")
    split: Literal["time", "group", "stratified"] = Field(
        default="time", description="later rows judge, groups stay whole, or classes keep their shares"
    )
    max_rows: int = Field(default=40_000, ge=100, description="rows that the search may read; the fit reads all")


class CustomFeatures(Part):
    """A function of the model's own, `def build(frame: pd.DataFrame) -> pd.DataFrame`: its answers are of one row."""

    file: str = Field(description="beside the spec")
    function: Name = Field(default="build", description="its name in that file")
    adds: dict[ColumnName, Literal["number", "category"]] = Field(min_length=1, description="what it makes → type")


class Recency(Part):
    """All intervals, older rows with less weight: 2^(-age / half_life), age from the newest training row."""

    half_life: Duration = Field(description="a row so much older than the newest one has half its weight")

    @field_validator("half_life")
    @classmethod
    def _check_it_lasts(cls, value: timedelta) -> timedelta:
        if not value:
            raise ValueError("a half-life is longer than nothing")
        return value


def _kind_of_window(value: object) -> str:
    """Which of the kinds of `Window` a value is to be, so that a wrong one is refused as that kind alone."""
    return "count" if isinstance(value, int) else "name" if isinstance(value, str) else "weights"


Window = Annotated[
    Annotated[Literal["all", "change"], Tag("name")]
    | Annotated[int, Field(ge=1), Tag("count")]
    | Annotated[Recency, Tag("weights")],
    Discriminator(_kind_of_window),
]
"""Which rows a configuration trains on."""


class Training(Part):
    """Which models compete, and on which rows."""

    candidates: tuple[Candidate, ...] = Field(min_length=1, description="they compete, and two baselines")
    windows: tuple[Window, ...] = Field(
        default=("all",),
        min_length=1,
        description="training rows that compete: all intervals, the newest so many, all with weights that fall with"
        " age (`{half_life: 90d}`), or, once labels show that the champion fell, those since the change",
    )
    first_after: int = Field(default=2, ge=2, description="mature intervals that the first model needs")
    min_rows: int = Field(default=1000, ge=20, description="labelled training rows")
    search: Search = Search()
    early_stopping: int = Field(default=20, ge=0, description="rounds, for XGBoost; 0 is off")
    balance: bool = Field(default=False, description="weigh classes by their rarity")
    date_parts: dict[ColumnName, tuple[DatePart, ...]] = Field(default={}, description="datetime → parts, in UTC")
    features: CustomFeatures | None = Field(
        default=None, description="a feature function of the model's own; its contract: docs/extend.md"
    )
    group: ColumnName | None = Field(
        default=None,
        description="column of an entity that comes again, like a customer: its rows are on one side of every split, of"
        " the folds and of the holdout; for a model that is to answer entities that it has never seen",
    )
    refresh: bool = Field(default=True, description="also refit the champion's configuration on newer rows")
    seed: int = Field(default=42, ge=0, lt=2**31, description="the one seed of everything random")
    threads: int = Field(default=2, ge=1, le=64, description="of a fit")
