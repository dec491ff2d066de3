"""Retraining policies that a replay compares with the spec's own, and the spec under another policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from retrain.errors import InvalidSpec, near
from retrain.spec import Policy, Spec
from retrain.state.store import json_digest

OFF: Mapping[str, Any] = {
    "combine": "any",
    "schedule": 0,
    "drift": False,
    "regret": None,
    "performance": False,
    "estimated": False,
    "max_age": None,
    "new_rows": None,
    "alarms": (1, 1),
    "cooldown": "0h",
    "budget": None,
}
"""`policy` with every rule off: what a preset does not name, it does not use."""

FIXED: Mapping[str, Mapping[str, Any]] = {
    "never": OFF,
    "every interval, all rows": {**OFF, "schedule": 1},
    "every interval, sliding window": {**OFF, "schedule": 1},
}
"""Policies that go by the calendar alone, as a cron job would: no monitor runs for them."""

TRIGGERED: Mapping[str, Mapping[str, Any]] = {
    "drift only": {**OFF, "drift": True},
    "regret only": {**OFF, "regret": {}},
    "performance only": {**OFF, "performance": True},
    "the spec's": {},
}
"""Policies that ask the monitor first, and heed its diagnosis."""

PRESETS: Mapping[str, Mapping[str, Any]] = {**FIXED, **TRIGGERED}
"""Name → what it changes in the spec's `policy`."""

SLIDING_INTERVALS = 3
"""Length of the sliding window, where the spec names none; else the longest that it names."""


def policies_of(spec: Spec, texts: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The policies that a person names.

    Args:
        spec: whose model they are for.
        texts: names of `PRESETS`, or YAML of `policy` in braces; empty: every preset.

    Returns:
        Text → what it changes in the spec's `policy`.

    Raises:
        InvalidSpec: neither a name nor a mapping.
    """
    policies = {}
    for text in texts or PRESETS:
        if text in PRESETS:
            policies[text] = PRESETS[text]
            continue
        try:
            change = yaml.safe_load(text)
        except yaml.YAMLError:
            change = None
        if not isinstance(change, Mapping):
            raise InvalidSpec(
                f"{text!r} is no policy{near(text, PRESETS)}", do=f"one of {', '.join(PRESETS)}, or YAML in braces"
            ).at(spec.model, "replay")
        policies[text] = {**OFF, **change}
    return policies


def with_policy(spec: Spec, name: str, change: Mapping[str, Any]) -> Spec:
    """The spec under another policy; the presets that train every interval set the training window too.

    Args:
        spec: the model's own.
        name: of the policy.
        change: what it changes in `spec.policy`.

    Raises:
        InvalidSpec: unknown keys or values.
    """
    try:
        policy = Policy.model_validate({**spec.policy.model_dump(), **change})
    except ValueError as error:
        raise InvalidSpec(f"policy {name!r}: {error}", do="see policy in docs/spec.md").at(
            spec.model, "replay"
        ) from None
    windows = spec.training.windows
    if name == "every interval, all rows":
        windows = ("all",)
    elif name == "every interval, sliding window":
        windows = (max((window for window in windows if isinstance(window, int)), default=SLIDING_INTERVALS),)
    training = spec.training.model_copy(update={"windows": windows})
    digest = json_digest([spec.digest, policy.model_dump(mode="json"), training.model_dump(mode="json")["windows"]])
    return spec.model_copy(update={"policy": policy, "training": training, "digest": digest})
