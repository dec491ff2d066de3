"""Which parameters a run may have: those of its DAG, and no others, wherever it comes from."""

from __future__ import annotations

from typing import Any

import pytest

from retrain.errors import InvalidInterval, InvalidParameter
from retrain.state.parameters import PARAMETERS, check_parameters
from tests.conftest import Model


@pytest.mark.parametrize("kind", PARAMETERS)
def test_an_unknown_parameter_is_refused_with_the_known_ones(churn: Model, kind: str) -> None:
    spec = churn.home.spec("churn")
    check_parameters(spec, kind, None)
    check_parameters(spec, kind, dict.fromkeys(set(PARAMETERS[kind]) - {"interval"}, "x"))
    with pytest.raises(InvalidParameter, match=f"churn_{kind} has no parameter 'sudo'") as refused:
        check_parameters(spec, kind, {"sudo": 1})
    assert all(name in refused.value.do for name in PARAMETERS[kind])


def test_a_near_miss_is_named(churn: Model) -> None:
    with pytest.raises(InvalidParameter, match="'dryrun'; did you mean 'dry_run'"):
        check_parameters(churn.home.spec("churn"), "retrain", {"dryrun": True})


@pytest.mark.parametrize("interval", ["2024-02-30", "2024-02-05", "2023-12-01", "0000-01-01", "9999-12-01", "x"])
def test_an_interval_that_is_none_is_refused(churn: Model, interval: str) -> None:
    with pytest.raises(InvalidInterval):
        check_parameters(churn.home.spec("churn"), "monitor", {"interval": interval})


@pytest.mark.parametrize("given", [{"interval": None}, {"interval": ""}, {"interval": "2024-02-01"}])
def test_an_interval_of_the_model_is_taken(churn: Model, given: dict[str, Any]) -> None:
    check_parameters(churn.home.spec("churn"), "score", given)
