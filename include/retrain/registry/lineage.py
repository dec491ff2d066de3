"""Which run made a version."""

from __future__ import annotations

from dataclasses import dataclass

from retrain.errors import UnknownVersion
from retrain.registry import promotion
from retrain.rendering.text import run_key_of
from retrain.results import Champion, Context, RegisterReport
from retrain.spec import Spec
from retrain.state.ledger import Ledger, Record
from retrain.state.projections import known_versions
from retrain.state.run import Run
from retrain.state.settings import Home
from retrain.state.store import Store


@dataclass(frozen=True)
class Lineage:
    """A version with the run that made it.

    Attributes:
        run: reads that run's reports; its spec is today's.
        context: what the run knew.
        champion: what the version is.
        records: of the model, in the order they were written.
    """

    run: Run
    context: Context
    champion: Champion
    records: tuple[Record, ...]


def lineage_of(home: Home, spec: Spec, version: int) -> Lineage:
    """The run that made a version, from the ledger and the run's own folder.

    Raises:
        UnknownVersion: no run on record has registered it.
        MissingInput: the run's folder is gone.
    """
    records = tuple(Ledger(home.ledger).records(spec.model))
    if named := known_versions(records).get(version):
        run, context = run_of(home, spec, run_key_of(named.champion.reference))
        return Lineage(run, context, named.champion, records)
    # Registered, and then refused before anybody was to serve by it.
    for one in reversed(records):
        if one.kind == "stage" and one.body["stage"] == "register" and one.body["facts"].get("version") == version:
            run, context = run_of(home, spec, one.run)
            run_id = run.read(RegisterReport, "register").run_id
            return Lineage(run, context, promotion.facts(run, version, run_id), records)
    raise UnknownVersion(
        f"no run on record has registered version {version} of {spec.model}",
        do=f"see which there are: python -m retrain changelog {spec.model}",
    )


def run_of(home: Home, spec: Spec, key: str) -> tuple[Run, Context]:
    """A run by its key, and what it knew.

    Raises:
        MissingInput: its folder is gone.
    """
    context = Context.from_json(Store(home.store).read(f"{spec.model}/runs/{key}/context.json"))
    return Run(home, spec, context.interval, key, context.trigger, known_at=context.effective_at), context
