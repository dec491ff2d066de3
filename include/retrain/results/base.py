"""What every report is made of: frozen values with a JSON round trip, intervals, decisions and signals."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, time
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None or value.utcoffset():
        raise ValueError("times are UTC with a zone")
    return value


Utc = Annotated[datetime, AfterValidator(_utc)]


FORMER_NAMES: Mapping[str, str] = {"barred": "blocklist", "pinned": "reference_champion"}
"""What an earlier version of this project called a model or a check in a report's values → what it is called now."""


def current_name(name: Any) -> Any:
    """What a model or a check of a report is called today.

    >>> current_name("pinned"), current_name("refresh")
    ('reference_champion', 'refresh')
    """
    return FORMER_NAMES.get(name, name) if isinstance(name, str) else name


CurrentName = Annotated[str, BeforeValidator(current_name)]


class Result(BaseModel):
    """A frozen value; NaN and infinity are refused on the way in and on the way out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    FORMER: ClassVar[Mapping[str, str]] = {}
    """What an earlier version of this project called a field → what it is called now."""

    @model_validator(mode="before")
    @classmethod
    def _rename_former(cls, data: Any) -> Any:
        if not cls.FORMER or not isinstance(data, Mapping):
            return data
        return {cls.FORMER.get(name, name): value for name, value in data.items()}

    def to_json(self) -> str:
        """The report as indented JSON text."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The report that `to_json` wrote, today or under the field names of an earlier version.

        Raises:
            ValidationError: an unknown field, a missing one, or a value of another type.
        """
        return cls.model_validate_json(text)


class Interval(Result):
    """A half-open UTC span `[start, end)`: one batch."""

    start: Utc
    end: Utc

    @property
    def name(self) -> str:
        """A short, sortable name for people and folders, unique within one model.

        >>> Interval(start="2013-04-01T06:00Z", end="2013-04-01T12:00Z").name
        '2013-04-01T06'
        """
        if self.start.time() == time(0):
            return f"{self.start:%Y-%m-%d}"
        whole_hour = not (self.start.minute or self.start.second)
        return f"{self.start:%Y-%m-%dT%H}" if whole_hour else f"{self.start:%Y-%m-%dT%H%M%S}"

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%d %H:%M}, {self.end:%Y-%m-%d %H:%M})"


class Decision(Result):
    """A verdict with its reasons, recorded also when the answer is no."""

    verdict: str
    reasons: tuple[str, ...] = Field(min_length=1)


class WindowRegret(Result):
    """What the champion lost above one regret shadow, on the labelled rows of one interval."""

    window: str = Field(description="training rows of the shadow, like all or last 3")
    loss: float = Field(description="mean loss a row of the champion; of rmse and r2 the squared error")
    gain: float = Field(description="that less the mean loss of the shadow")
    error: float | None = Field(default=None, description="standard error of the gain, over blocks; None: one block")
    aged: float | None = Field(
        default=None, description="mean loss that an interval of age costs the shadow; None where labels are prompt"
    )
    rows: int
    blocks: int
    note: str = Field(default="", description="why nothing was fitted, where nothing was")

    @property
    def relative(self) -> float:
        """The gain as a share of the champion's loss."""
        return self.gain / self.loss if self.loss else 0.0


class Signal(Result):
    """The answer to one question of the monitor about one interval: the facts that policies read."""

    question: Literal["drift", "estimated", "realised", "kind", "regret"]
    interval: Interval
    champion: int = Field(description="the version that it is about")
    verdict: str = Field(
        description="alarm, calm or undetermined; of kind also broken, suspect, changed or sound; of regret: measured"
    )
    reason: str
    effective_at: Utc
    regret: tuple[WindowRegret, ...] = Field(default=(), description="of regret: the figures, one a training window")
    doubt: Literal["", "open", "answered"] = Field(
        default="",
        description="of kind: open is suspect until later intervals show that the world changed, answered is changed,"
        " as they have shown",
    )


class StageReport(Result):
    """The fields that every stage's report begins with."""

    model: str
    interval: Interval
    effective_at: Utc

    def facts(self) -> dict[str, Any]:
        """The few figures that go to the ledger, for tables."""
        return {}

    def answers(self) -> tuple[tuple[str, Interval, str, str], ...]:
        """What policies read of it: question, interval, verdict and reason of each `Signal`."""
        return ()

    def signals_of(self, champion: int) -> tuple[Signal, ...]:
        """The answers as facts about the version `champion`, as of this report."""
        return tuple(
            Signal.model_validate(
                {"question": question, "interval": interval, "champion": champion, "verdict": verdict}
                | {"reason": reason, "effective_at": self.effective_at}
            )
            for question, interval, verdict, reason in self.answers()
        )


def inside(path: str) -> str:
    """The path itself, once it has shown to be a plain relative one: for keys and names that become files.

    Raises:
        InvalidName: it is empty, absolute or too long, or leaves its folder.

    >>> inside("flights/runs/a.json")
    'flights/runs/a.json'
    """
    from retrain.errors import InvalidName

    parts = PurePosixPath(path).parts
    if not path or "\0" in path or "\\" in path or path.startswith("/") or ".." in parts or len(path) > 500:
        raise InvalidName(f"{path!r} is not a plain relative name", do="use letters, digits, dots and dashes")
    return path
