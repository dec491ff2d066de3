"""One run of a loop: what every stage is given, and how stages hand on.

Stages hand on by files in the run's folder of the store: `<model>/runs/<run>/<stage>.json` and
`<model>/runs/<run>/<stage>/…`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal, TypeVar

from retrain.errors import MissingInput
from retrain.results import Interval, Result, Trigger, inside
from retrain.spec import Spec
from retrain.state.former import stage_names
from retrain.state.ledger import Ledger
from retrain.state.settings import Home
from retrain.state.store import Store

R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Run:
    """One run of a model's loop on an interval.

    Attributes:
        key: the run's folder; made of the Airflow run id, or given with `--run`.
        trigger: why it runs, and the parameters of a manual start.
        loop: what the run is for: to retrain, to score the interval, or to monitor the champion.
        known_at: the as-of time where it is not the interval's end: of a monitor run in between.
        pages: whether figures and pages are drawn; a replay of hundreds of runs has no reader for them.
    """

    home: Home
    spec: Spec
    interval: Interval
    key: str
    trigger: Trigger = field(default_factory=Trigger)
    loop: Literal["retrain", "score", "monitor"] = "retrain"
    known_at: datetime | None = None
    pages: bool = True

    @cached_property
    def store(self) -> Store:
        """The installation's store."""
        return Store(self.home.store)

    @cached_property
    def ledger(self) -> Ledger:
        """The installation's ledger."""
        return Ledger(self.home.ledger)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.spec.model

    @property
    def as_of(self) -> datetime:
        """The data's clock: nothing later is known to this run."""
        return self.known_at or self.interval.end

    @property
    def folder(self) -> str:
        """The run's folder, as a key of the store."""
        return f"{self.model}/runs/{inside(self.key)}"

    def path(self, stage: str, name: str = "") -> str:
        """The store's key of a file that a stage wrote."""
        return inside(f"{self.folder}/{stage}/{name}".rstrip("/"))

    def read(self, kind: type[R], stage: str) -> R:
        """The report of an earlier stage of this run.

        Raises:
            MissingInput: that stage has not run.
            ReportCorrupt: its report was cut off or altered.
        """
        keys = (f"{self.folder}/{name}.json" for name in stage_names(stage))
        key = next((key for key in keys if self.store.exists(key)), None)
        if key is None:
            raise MissingInput(
                f"{stage} has not run in {self.key}", do=f"run it first: python -m retrain {stage} {self.model} …"
            ).at(self.model, stage)
        return self.store.read_report(kind, key)

    def write(self, report: Result, stage: str) -> None:
        """Write a stage's report into the run's folder."""
        self.store.write(f"{self.folder}/{stage}.json", report.to_json().encode())


PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,179}")
"""The name of a run's folder: 180 characters, so that with what stands before and after it a name of a file."""
OF_AIRFLOW = re.compile(
    r"[a-z_]+__\d{4}-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d(\.\d+)?[+-]\d\d[:-]\d\d(_[A-Za-z0-9]+)?", re.ASCII
)
"""A run id of Airflow's own, or the folder that it becomes."""
HASHED = re.compile(r".*\.[0-9a-f]{12}", re.DOTALL)
"""A key that ends with a digest of the text that it was made of."""


def run_key(text: str) -> str:
    """The folder name that a run id becomes: of no two ids the same.

    A plain text stays as it is, and an id of Airflow's own becomes what it always became. What is left might become
    one of those, so it gets a digest of its own.

    >>> run_key("alert-42"), run_key("scheduled__2013-02-01T00:00:00+00:00")
    ('alert-42', 'scheduled__2013-02-01T00-00-00-00-00')
    >>> run_key("a:b"), run_key("a+b")
    ('a-b.6783a31eabf6', 'a-b.300273daf0bb')
    """
    plain, ours = former_run_key(text), OF_AIRFLOW.fullmatch(text)
    if ours and plain != text and text.count(":") == 3 and text.count("+") == 1 and PLAIN.fullmatch(plain):
        return plain
    if PLAIN.fullmatch(text) and not ours and not HASHED.fullmatch(text):
        return text
    return f"{plain[:167]}.{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def former_run_key(text: str) -> str:
    """The folder name that earlier versions made of a run id: several ids could become the same.

    >>> former_run_key("a:b"), former_run_key("a+b")
    ('a-b', 'a-b')
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text).lstrip(".") or "run"
