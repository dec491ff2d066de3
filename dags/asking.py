"""Asks a person about a version that waits, and puts the answer on record.

The word goes from Airflow's own record of the answer into the ledger within the task that asked: an XCom on the way
could be rewritten by whoever may trigger the DAG. The promote stage reads the ledger, and nothing else.

A file of its own, imported for models with `promotion: approve` alone: the operator brings much of Airflow along.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.configuration import conf
from refusals import final_refusals

from retrain import pipeline
from retrain.rendering.text import markdown as plain
from retrain.results import GateReport, RegisterReport
from retrain.spec import Spec
from retrain.state.ledger import Record
from retrain.state.run import Run
from retrain.state.settings import Home

log = logging.getLogger("retrain")

WORDS: dict[str, Literal["approve", "reject"]] = {"Approve": "approve", "Reject": "reject"}


class AskApproval(HITLOperator):
    """Shows the gate's table of the version in `params`, and waits for Approve or Reject until the proposal expires.

    Not Airflow's ApprovalOperator: that one skips what comes after a no, and a no has to be put into effect as well.
    """

    def __init__(self, *, spec: Spec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def execute(self, context: Any) -> None:
        with final_refusals():
            run, proposal = self.asked(context)
            expires = proposal.recorded_at + self.spec.promotion.approval.expires
            # Set here, after Airflow has rendered its templates: what comes from data is no template.
            self.subject = f"May version {proposal.body['version']} of {run.model} serve?"
            self.body = form(run, proposal, expires)
        self.response_timeout = expires - datetime.now(UTC)
        if self.response_timeout.total_seconds() <= 0:
            log.info("the proposal has expired, nobody is asked any more")
            return
        super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        said = super().execute_complete(context, event)
        user, (option,) = said["responded_by_user"], said["chosen_options"]
        if not user:
            # The default of an expired form, or an answer without a name: the ledger knows by itself what follows.
            log.info("nobody has answered")
            return said
        with final_refusals():
            run, proposal = self.asked(context)
            from retrain.registry.approval import answer

            with pipeline.refusals(self.spec, "approve"):
                answer(run, proposal, WORDS[option], user["name"], said["params_input"].get("reason", ""))
        return said

    def asked(self, context: Any) -> tuple[Run, Record]:
        """The run and the proposal of the version that the DAG run is about."""
        return proposed(self.spec, context["params"])


def approve_task(spec: Spec) -> AskApproval:
    """The task that asks."""
    rules = spec.promotion.approval
    return AskApproval(
        task_id="approve",
        spec=spec,
        subject=f"Which version of {spec.model} may serve?",
        options=list(WORDS),
        defaults=rules.otherwise.capitalize(),
        response_timeout=rules.expires,
        # Airflow 3.3 fails a task whose answer comes within the same turn of its scheduler: then it asks again.
        retries=2,
        retry_delay=timedelta(seconds=10),
        params={"reason": Param("", type="string", maxLength=500, title="Reason", description="for the record")},
        doc="wait for a person's word, and put it on record",
    )


def proposed(spec: Spec, params: Any) -> tuple[Run, Record]:
    """The run and the proposal of a version, by the parameters of the DAG.

    Raises:
        UnknownVersion, NotApproved: it was not proposed, or with other files.
    """
    return pipeline.proposed(Home.from_environment(), spec, params["version"], params["digest"])


def form(run: Run, proposal: Record, expires: datetime) -> str:
    """What the person reads, as Markdown; names from data cannot become markup."""
    from retrain.gate.table import markdown  # imports pandas

    gate, registered = run.read(GateReport, "gate"), run.read(RegisterReport, "register")
    rules, trigger = run.spec.promotion.approval, run.trigger
    asked = " ".join(filter(None, (trigger.kind, trigger.by and f"by {trigger.by}", trigger.reason)))
    scores = {"challenger": gate.challenger_score, "champion": gate.champion_score}
    facts = {
        "Version": f"{proposal.body['version']} ({gate.kind})",
        "Files": f"sha256 {proposal.body['digest']}",
        "Interval": run.interval.name,
        "Triggered": asked,
        gate.metric: ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if value is not None),
        "Without an answer": f"{rules.otherwise} at {expires:%Y-%m-%d %H:%M} UTC",
        "Who may answer": f"anybody but {trigger.by}" if rules.two_people and trigger.by else "",
    }
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    page = f"{base}/retrain/dags/{run.model}_retrain/runs/{run.key}"
    links = [f"[The run]({page})", *([f"[in MLflow]({page}/mlflow)"] if registered.url else [])]
    lines = [f"- **{plain(name)}**: {plain(said)}" for name, said in facts.items() if said]
    return "\n".join([*lines, "", " · ".join(links), "", markdown(gate)])
