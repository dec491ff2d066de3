"""The operator that asks a person about a version that waits, and puts the answer on record.

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

from retrain import actions
from retrain.rendering.text import markdown as escape
from retrain.results import GateReport, RegisterReport
from retrain.spec import Spec
from retrain.state.ledger import Record
from retrain.state.parameters import check_parameters
from retrain.state.run import Run
from retrain.state.settings import Home

log = logging.getLogger("retrain")

VERDICTS: dict[str, Literal["approve", "reject"]] = {"Approve": "approve", "Reject": "reject"}


class AskApproval(HITLOperator):
    """Shows the gate's table of the version in `params`, and waits for Approve or Reject until the proposal expires.

    Not Airflow's ApprovalOperator: that one skips what comes after a no, and a no has to be put into effect as well.
    """

    def __init__(self, *, spec: Spec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def execute(self, context: Any) -> None:
        """Show the form of the version that the DAG run is about."""
        with final_refusals():
            check_parameters(self.spec, "approve", context["dag_run"].conf)
            run, proposal = proposed(self.spec, context["params"])
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
        """Put the answer on record."""
        answer = super().execute_complete(context, event)
        user, (option,) = answer["responded_by_user"], answer["chosen_options"]
        if not user:
            # The default of an expired form, or an answer without a name: the ledger knows by itself what follows.
            log.info("nobody has answered")
            return answer
        with final_refusals():
            run, proposal = proposed(self.spec, context["params"])
            from retrain.registry import approval

            reason = answer["params_input"].get("reason", "")
            with actions.named_refusals(self.spec, "approve"):
                approval.answer_proposal(run, proposal, VERDICTS[option], user["name"], reason)
        return answer


def approve_task(spec: Spec) -> AskApproval:
    """The task that asks about the version in the parameters of its DAG run."""
    rules = spec.promotion.approval
    return AskApproval(
        task_id="approve",
        spec=spec,
        subject=f"Which version of {spec.model} may serve?",
        options=list(VERDICTS),
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
        UnknownVersion: it was not proposed.
        NotApproved: it was proposed with other files.
    """
    return actions.proposed_run(Home.from_environment(), spec, params["version"], params["digest"])


def form(run: Run, proposal: Record, expires: datetime) -> str:
    """What the person reads, as Markdown; names from data cannot become markup.

    Args:
        run: the one that proposed the version.
        proposal: its record.
        expires: when the form closes.
    """
    from retrain.gate.table import markdown  # imports pandas

    gate, registered = run.read(GateReport, "gate"), run.read(RegisterReport, "register")
    rules, trigger = run.spec.promotion.approval, run.trigger
    triggered = " ".join(filter(None, (trigger.kind, trigger.by and f"by {trigger.by}", trigger.reason)))
    who = [", ".join(run.spec.access.approve), f"anybody but {trigger.by}" if rules.two_people and trigger.by else ""]
    scores = {"challenger": gate.challenger_score, "champion": gate.champion_score}
    facts = {
        "Version": f"{proposal.body['version']} ({gate.kind})",
        "Files": f"sha256 {proposal.body['digest']}",
        "Interval": run.interval.name,
        "Triggered": triggered,
        gate.metric: ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if value is not None),
        "Without an answer": f"{rules.otherwise} at {expires:%Y-%m-%d %H:%M} UTC",
        "Who may answer": "; ".join(filter(None, who)),
    }
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    page = f"{base}/retrain/dags/{run.model}_retrain/runs/{run.key}"
    links = [f"[The run]({page})", *([f"[in MLflow]({page}/mlflow)"] if registered.url else [])]
    lines = [f"- **{escape(name)}**: {escape(value)}" for name, value in facts.items() if value]
    return "\n".join([*lines, "", " · ".join(links), "", markdown(gate)])
