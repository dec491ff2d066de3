"""The changelog of a model: each version that was to serve, what is new in it and what became of it.

A pure function of the ledger's records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retrain.rendering.text import differences, markdown, number, run_key_of, stamp, who
from retrain.results import Champion
from retrain.state.ledger import Record
from retrain.state.projections import known_versions

DONE = {
    "promote": "came to serve",
    "rollback": "was put back",
    "undo": "serves on",
    "adopt": "serves, since the alias was moved to it by hand",
    "restore": "serves, registered again from the run's own files",
}
"""What each action of a promotion record did to its version."""


def changelog(model: str, records: Sequence[Record], coming: Champion | None = None) -> str:
    """The changelog as Markdown, newest version first.

    Args:
        records: of the model, in the order they were written.
        coming: a version that is registered and not yet on record.
    """
    versions = {version: one.champion for version, one in known_versions(records).items()}
    if coming is not None:
        versions.setdefault(coming.version, coming)
    served = [one for one in records if one.kind == "promotion"]
    parts = [f"# {markdown(model)}: changelog", ""]
    for version in sorted(versions, reverse=True):
        champion = versions[version]
        before = _before(served, champion)
        parts += [f"## Version {version} · {stamp(champion.effective_at)[:10]}", ""]
        parts += [f"- {line}" for line in _lines(records, champion, before)]
        parts.append("")
    return "\n".join(parts if versions else [*parts, "No version was to serve yet.", ""])


def _before(served: Sequence[Record], champion: Champion) -> Champion | None:
    """Who served when the version was made."""
    came = [one for one in served if one.body["version"] == champion.version]
    earlier = [one for one in served if one.effective_at <= champion.effective_at and (not came or one.id < came[0].id)]
    return Champion.model_validate(earlier[-1].body["champion"]) if earlier else None


def _lines(records: Sequence[Record], champion: Champion, before: Champion | None) -> Iterator[str]:
    configuration = markdown(champion.configuration.label)
    if before is None:
        yield f"the first model: {configuration}"
    elif new := differences(before.configuration, champion.configuration):
        yield f"{configuration}; against version {before.version}: {markdown('; '.join(new))}"
    else:
        yield f"{configuration}: the configuration of version {before.version} on newer rows"
    was = f", version {before.version} on {before.rows:,}" if before else ""
    yield f"trained on {champion.rows:,} rows until {stamp(champion.trained_until)}{was}"
    if told := _score(records, champion, before):
        yield told
    for record in records:
        if line := _event(record, champion.version):
            yield line


def _score(records: Sequence[Record], champion: Champion, before: Champion | None) -> str:
    gates = [
        one.body["facts"]
        for one in records
        if one.kind == "stage" and one.body["stage"] == "gate" and one.run == run_key_of(champion.reference)
    ]
    if not gates or gates[-1].get("challenger") is None:
        return ""
    said = f"{markdown(gates[-1]['metric'])} {number(gates[-1]['challenger'])} on the holdout rows"
    if before is None or gates[-1].get("champion") is None:
        return said
    return f"{said}, version {before.version} {number(gates[-1]['champion'])} on the same"


def _event(record: Record, version: int) -> str:
    """What a record says became of a version; empty where it says nothing of it."""
    body, when = record.body, stamp(record.effective_at)
    if record.kind == "promotion":
        why = markdown(body["reasons"][0])
        if body["version"] == version:
            return f"{when}: {DONE[body['action']]}, by {markdown(who(record))}: {why}"
        if body["action"] in ("rollback", "undo") and body["previous"] == version:
            return f"{when}: was taken back, version {body['version']} serves again: {why}"
    elif record.kind == "proposal" and body["version"] == version:
        return f"{when}: waits for a person's approval"
    elif record.kind == "approval" and body["version"] == version:
        said = {"approve": "approved", "reject": "rejected"}[body["verdict"]]
        return f"{when}: {said} by {markdown(who(record))}: {markdown(body['reason'] or 'no reason given')}"
    elif record.kind == "rollout" and (rollout := body["rollout"]) and rollout["shadow"]["version"] == version:
        share = f", answers {rollout['share']:.0%} of the rows" if rollout["share"] else ""
        return f"{when}: {rollout['purpose']} beside version {rollout['champion']}{share}"
    return ""
