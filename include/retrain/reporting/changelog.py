"""The changelog of a model: each version that was to serve, what is new in it and what became of it.

A pure function of the ledger's records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retrain.rendering.text import differences, markdown, number, run_key_of, stamp, who
from retrain.results import Champion
from retrain.state.ledger import Record
from retrain.state.projections import known_versions

OUTCOMES = {
    "promote": "came to serve",
    "rollback": "was put back",
    "undo": "serves on",
    "adopt": "serves, since the alias was moved to it by hand",
    "restore": "serves, registered again from the run's own files",
}
"""Action of a promotion record → what became of its version."""


def changelog(model: str, records: Sequence[Record], coming: Champion | None = None) -> str:
    """The changelog as Markdown, newest version first.

    Args:
        model: its name.
        records: of the model, in the order they were written.
        coming: a version that is registered and not yet on record.
    """
    versions = {version: known.champion for version, known in known_versions(records).items()}
    if coming is not None:
        versions.setdefault(coming.version, coming)
    promotions = [record for record in records if record.kind == "promotion"]
    parts = [f"# {markdown(model)}: changelog", ""]
    for version in sorted(versions, reverse=True):
        champion = versions[version]
        before = _before(promotions, champion)
        parts += [f"## Version {version} · {stamp(champion.effective_at)[:10]}", ""]
        parts += [f"- {line}" for line in _lines(records, champion, before)]
        parts.append("")
    return "\n".join(parts if versions else [*parts, "No version was to serve yet.", ""])


def _before(promotions: Sequence[Record], champion: Champion) -> Champion | None:
    """The champion that served when the version was made."""
    own = [record for record in promotions if record.body["version"] == champion.version]
    earlier = [
        record
        for record in promotions
        if record.effective_at <= champion.effective_at and (not own or record.id < own[0].id)
    ]
    return Champion.model_validate(earlier[-1].body["champion"]) if earlier else None


def _lines(records: Sequence[Record], champion: Champion, before: Champion | None) -> Iterator[str]:
    configuration = markdown(champion.configuration.label)
    if before is None:
        yield f"the first model: {configuration}"
    elif new := differences(before.configuration, champion.configuration):
        yield f"{configuration}; against version {before.version}: {markdown('; '.join(new))}"
    else:
        yield f"{configuration}: the configuration of version {before.version} on newer rows"
    compared = f", version {before.version} on {before.rows:,}" if before else ""
    yield f"trained on {champion.rows:,} rows until {stamp(champion.trained_until)}{compared}"
    if scores := _scores(records, champion, before):
        yield scores
    for record in records:
        if line := _event(record, champion.version):
            yield line


def _scores(records: Sequence[Record], champion: Champion, before: Champion | None) -> str:
    gates = [
        record.body["facts"]
        for record in records
        if record.kind == "stage" and record.body["stage"] == "gate" and record.run == run_key_of(champion.reference)
    ]
    if not gates or gates[-1].get("challenger") is None:
        return ""
    score = f"{markdown(gates[-1]['metric'])} {number(gates[-1]['challenger'])} on the holdout rows"
    if before is None or gates[-1].get("champion") is None:
        return score
    return f"{score}, version {before.version} {number(gates[-1]['champion'])} on the same"


def _event(record: Record, version: int) -> str:
    """What a record says became of a version; empty where it says nothing of it."""
    body, when = record.body, stamp(record.effective_at)
    if record.kind == "promotion":
        why = markdown(body["reasons"][0])
        if body["version"] == version:
            return f"{when}: {OUTCOMES[body['action']]}, by {markdown(who(record))}: {why}"
        if body["action"] in ("rollback", "undo") and body["previous"] == version:
            return f"{when}: was taken back, version {body['version']} serves again: {why}"
    elif record.kind == "proposal" and body["version"] == version:
        return f"{when}: waits for a person's approval"
    elif record.kind == "approval" and body["version"] == version:
        answer = {"approve": "approved", "reject": "rejected"}[body["verdict"]]
        return f"{when}: {answer} by {markdown(who(record))}: {markdown(body['reason'] or 'no reason given')}"
    elif record.kind == "rollout" and (rollout := body["rollout"]) and rollout["shadow"]["version"] == version:
        share = f", answers {rollout['share']:.0%} of the rows" if rollout["share"] else ""
        return f"{when}: {rollout['purpose']} beside version {rollout['champion']}{share}"
    return ""
