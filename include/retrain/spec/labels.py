"""`labels`: where they come from, and when they are mature."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from retrain.spec.base import Duration, Part, Share
from retrain.spec.source import Delivery


class LabelSource(Delivery):
    """Labels that are delivered apart from the rows, one delivery per interval of the rows."""

    path: str | None = Field(default=None, description="file, glob or template with {start} and {end} of the rows")
    contradictory: Share = Field(
        default=0.01, description="share of the keys that may come with different labels; they are left unlabelled"
    )


class Labels(Part):
    """Where labels come from and when they are there, on the data's clock."""

    source: Literal["same"] | LabelSource = Field(
        default="same", description="same: they come with the rows; or another file or table, joined by key"
    )
    mature_after: Duration = Field(default=timedelta(0), description="after the interval's end")
    min_coverage: Share = Field(
        default=0.0, description="labelled share of an interval's rows below which it waits, and then is not judged"
    )
