"""The policies that a replay offers, by name and as YAML."""

from __future__ import annotations

import pytest

from benchmarks import timelines
from retrain.errors import InvalidSpec
from retrain.policy.presets import FIXED, PRESETS, policies_of, with_policy


def test_policies_by_name_or_in_words() -> None:
    spec = timelines.stream_of(timelines.World("abrupt", "regression", "prompt", 0)).spec
    assert tuple(policies_of(spec, [])) == tuple(PRESETS)
    change = policies_of(spec, ["{schedule: 2}"])["{schedule: 2}"]
    changed = with_policy(spec, "every second interval", change)
    assert (changed.policy.schedule, changed.policy.performance) == (2, False), "what is not named is off"
    assert changed.digest != spec.digest
    windows = {name: with_policy(spec, name, FIXED[name]).training.windows for name in FIXED}
    assert windows == {
        "never": ("all", 4, 2, 1, "change"),
        "every interval, all rows": ("all",),
        "every interval, sliding window": (4,),
    }
    with pytest.raises(InvalidSpec, match="is no policy; did you mean 'never'"):
        policies_of(spec, ["nevr"])
    with pytest.raises(InvalidSpec, match="scedule"):
        with_policy(spec, "misspelt", {"scedule": 2})
    with pytest.raises(InvalidSpec, match="is no policy"):
        policies_of(spec, ["{schedule: [1"])
