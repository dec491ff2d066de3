"""A report that was cut off or altered is refused by its place, whoever reads it."""

from __future__ import annotations

import pytest

from retrain.errors import MissingInput, ReportCorrupt
from retrain.results import GateReport
from retrain.state.store import Store
from tests.conftest import Model


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b"null", b"\xff", b'{"model": "churn"}', b"[" * 100_000])
def test_a_torn_report_is_refused_by_its_place(churn: Model, torn: bytes) -> None:
    run = churn.run()
    run.store.write(f"{run.folder}/gate.json", torn)
    with pytest.raises(ReportCorrupt, match=f"{run.folder}/gate.json is no GateReport") as refused:
        run.read(GateReport, "gate")
    assert "run its stage again" in refused.value.do


def test_a_report_that_is_not_there_is_missing(churn: Model) -> None:
    with pytest.raises(MissingInput):
        Store(churn.home.store).read_report(GateReport, "churn/runs/x/gate.json")
