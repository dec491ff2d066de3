"""Tells the owner: always in the log, and over the Airflow connections that the spec names under `owner.notify`.

The notices are made in `retrain.reporting.notices`; here each is sent, once. A connection of type smtp mails the
owner's contact; any other is an address that takes a JSON POST: Slack's incoming webhooks, or whatever else speaks
HTTP. Whether it arrives or not, the task ends as it would have ended.
"""

from __future__ import annotations

import html
import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from airflow.sdk import BaseNotifier

from retrain.reporting.notices import Notice
from retrain.spec import Spec
from retrain.state.run import Run

log = logging.getLogger("retrain")

LEVEL = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}
SLACK = "https://hooks.slack.com/services"
SECONDS = 10
"""How long an address may take to answer."""


class OwnerNotifier(BaseNotifier):
    """For callbacks of tasks: tells the owner what `notice` makes of the task's context.

    Args:
        spec: of the model, which names the owner.
        notice: from the context to the notice, and the run that it is about, if there is one.
    """

    def __init__(self, spec: Spec, notice: Callable[[Any], tuple[Notice, Run | None]]) -> None:
        super().__init__()
        self.spec, self.notice = spec, notice

    def notify(self, context: Any) -> None:
        """Tell the owner."""
        notify_owner(self.spec, *self.notice(context))


def notify_owner(spec: Spec, notice: Notice, run: Run | None) -> None:
    """Tell the owner once; whatever goes wrong is logged and never raised.

    A rehearsal stands in the log alone, and leaves no record that would silence the real thing.
    """
    rehearsal = run is not None and run.trigger.dry_run
    if run is not None and not rehearsal and not _is_new(notice, run):
        log.info("said before: %s", notice.key)
        return
    log.log(LEVEL[notice.severity], "%s", notice.text)
    for connection in () if rehearsal else spec.owner.notify:
        try:
            send(notice, connection, spec.owner.contact)
            log.info("the owner was told over %s", connection)
        except Exception as error:
            # Neither the message nor a traceback: they may hold the address, which may be the secret.
            log.error("the owner could not be told over %s: %s", connection, _reason(error))


def _is_new(notice: Notice, run: Run) -> bool:
    """Whether the owner was not told before; where the ledger does not answer, twice is better than never."""
    sender = uuid.uuid4().hex
    body = {**asdict(notice), "by": sender}
    try:
        record = run.ledger.append(run.model, "notice", notice.key, body, effective_at=run.as_of, run=run.key)
    except Exception:
        log.warning("the notice could not be put on record", exc_info=True)
        return True
    return bool(record.body["by"] == sender)


def send(notice: Notice, connection: str, contact: str) -> None:
    """Send a notice over one connection.

    Args:
        notice: what to send.
        connection: id of the Airflow connection.
        contact: of the owner; where a mail goes.

    Raises:
        Exception: whatever went wrong; the caller says so without details.
    """
    from airflow.sdk import Connection
    from airflow.sdk.log import redact

    fields = {name: str(redact(value)) for name, value in notice.fields.items()}
    address = Connection.get(connection)
    if address.conn_type == "smtp":
        _mail(fields["text"], connection, contact)
    else:
        _post(fields, address)


def _mail(text: str, connection: str, contact: str) -> None:
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    if "@" not in contact:
        raise ValueError(f"owner.contact {contact!r} is no mail address")
    with SmtpHook(smtp_conn_id=connection) as hook:
        subject = text.splitlines()[0]
        hook.send_email_smtp(to=contact, subject=subject, html_content=f"<pre>{html.escape(text)}</pre>")


def _post(fields: dict[str, str], connection: Any) -> None:
    import httpx

    slack = connection.conn_type == "slackwebhook"
    extra = connection.extra_dejson
    host = connection.host or (SLACK if slack else "")
    base = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    port = f":{connection.port}" if connection.port and "://" not in host else ""
    # Slack keeps the secret part of its address in the password.
    path = (connection.password if slack else extra.get("endpoint")) or ""
    login = None if slack or not connection.login else (connection.login, connection.password or "")
    httpx.post(
        f"{base}{port}/{path.lstrip('/')}" if path else f"{base}{port}",
        json={"text": fields["text"]} if slack else fields,
        headers=extra.get("headers"),
        auth=login,
        timeout=SECONDS,
    ).raise_for_status()


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status:
        return f"it answered {status}"
    return str(error) if isinstance(error, ValueError) and "owner.contact" in str(error) else type(error).__name__
