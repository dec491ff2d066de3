"""`serving` and `promotion`: what a version must show in a fresh process, and how it comes to serve."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from retrain.spec.base import Duration, Part


class Serving(Part):
    """What a version must show in a fresh process before it may serve."""

    row_ms: Annotated[float, Field(gt=0)] = Field(default=1_000, description="milliseconds for one row, the median")
    memory_mb: Annotated[float, Field(gt=0)] = Field(default=4_096, description="peak memory of the process")
    size_mb: Annotated[float, Field(gt=0)] = Field(default=1_024, description="the model's files")
    tolerance: Annotated[float, Field(ge=0)] = Field(
        default=1e-9, description="how far its answers to the golden rows may lie from those of training"
    )
    timeout: Duration = Field(default=timedelta(minutes=5), description="for the whole of it")
    library_skew: Literal["tell", "refuse"] = Field(
        default="tell",
        description="where a champion, or one that comes back, was fitted under other versions of the libraries that it"
        " pins: it answers and that is told, or it does not answer",
    )


class Approval(Part):
    """A person's word, where `mode` is approve."""

    expires: Duration = Field(default=timedelta(days=7), description="after that `otherwise` is the answer")
    otherwise: Literal["reject", "approve"] = Field(default="reject", description="the answer where nobody answers")
    two_people: bool = Field(default=False, description="who triggered the run may not approve it")


class Watch(Part):
    """The predecessor goes on scoring beside a new champion, and is put back where the new one is shown worse."""

    intervals: int = Field(default=3, ge=0, le=100, description="scored intervals with mature labels; 0 is no watch")
    level: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.01, description="chance that one that is no worse is ever put back"
    )
    margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="loss against the predecessor that is tolerated, as a share of the predecessor's"
    )


class Promotion(Part):
    """How a version that passed the gate comes to serve. `promotion: approve` is short for `{mode: approve}`."""

    mode: Literal["auto", "approve", "shadow", "canary"] = Field(
        default="auto",
        description="at once, after a person's word, after scoring beside the champion, or by growing shares of rows",
    )
    approval: Approval = Approval()
    intervals: int = Field(default=2, ge=1, le=100, description="scored intervals of a shadow, or of a canary's step")
    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.05, 0.25, 0.5), min_length=1, description="shares of the rows that a canary answers, growing"
    )
    watch: Watch = Watch()

    @model_validator(mode="before")
    @classmethod
    def _mode_alone(cls, data: Any) -> Any:
        return {"mode": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _check_steps_grow(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps must grow")
        return self
