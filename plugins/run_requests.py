"""A door in Airflow's API before the runs of a model's DAGs: who may ask, and for what.

Airflow knows rights per DAG and takes any parameter. Here the spec's `access` is held against the name and the roles
of whoever asks (403, on record), and unknown parameters and dates that are none are refused when the run is asked for
(400). A page elsewhere that posts with somebody's cookie is refused too (403). Whoever comes another way meets the
same checks in the task, where a person's roles are those that were put on record here.

Not DAG(access_control=…): it adds rights and takes none away, and a role that FAB does not know breaks the DAG file,
and with it all models.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from retrain.errors import InvalidInterval, InvalidParameter, NotAllowed, RetrainError
from retrain.spec import Access
from retrain.state.access import admit
from retrain.state.ledger import Ledger
from retrain.state.parameters import check_parameters, dag_of
from retrain.state.settings import Home

log = logging.getLogger("retrain")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

RUNS = re.compile(r"/api/v2/(?:dags/(?P<dag>[^/]+)/(?:dagRuns|clear)|backfills$)")
"""What makes, clears, changes or answers runs."""
LOOKS = re.compile(r".*/(taskInstances|taskGroupInstances|backfills)(/.+)?/dry_run")
"""What only looks, though it is patched or posted."""
SAFE = ("GET", "HEAD", "OPTIONS")
MOST = 1024 * 1024
"""Bytes of a request."""
STATUS = {NotAllowed: 403, InvalidParameter: 400, InvalidInterval: 400}
"""Refusal → the status of its answer; any other is 503: it could not be looked up."""


class RunRequests:
    """The middleware."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request that is refused; hand on every other."""
        if scope["type"] != "http" or scope["method"] in SAFE:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        ours = RUNS.search(scope["path"]) if not LOOKS.fullmatch(scope["path"]) else None
        if (ours or "/retrain/" in scope["path"]) and is_foreign(request):
            await refusal(403, "a page of another origin may change nothing here")(scope, receive, send)
            return
        if ours is None:
            await self.app(scope, receive, send)
            return
        body = await read_body(request)
        answer = await answer_of(request, ours["dag"], body) if body is not None else refusal(413, "too large")
        if answer:
            await answer(scope, receive, send)
            return
        parts = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Message:
            return next(parts, None) or await receive()

        await self.app(scope, again, send)


def is_foreign(request: Request) -> bool:
    """Whether a page of another origin has sent this with the browser's cookie."""
    origin = request.headers.get("origin")
    if origin is None or "authorization" in request.headers:
        return False
    own = (request.headers.get("host"), urlsplit(conf.get("api", "base_url", fallback="")).netloc)
    allowed = conf.get("api", "access_control_allow_origins", fallback="").split()
    return (urlsplit(origin).netloc or origin) not in own and origin not in allowed


async def read_body(request: Request) -> bytes | None:
    """The body of a request; None if it is larger than any of ours."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST:
            return None
    return body


async def answer_of(request: Request, dag_id: str | None, body: bytes) -> Response | None:
    """The answer to a request that is refused; None where Airflow is to answer, as to those who are nobody to it."""
    try:
        given = json.loads(body) if body else {}
    except ValueError:
        return None
    given = given if isinstance(given, dict) else {}
    backfill = dag_id is None
    model, kind = dag_of(str(given.get("dag_id", "")) if backfill else str(dag_id))
    if not model:
        return None
    try:
        user = await get_user(request, None, await bearer_scheme(request))
    except HTTPException:
        return None
    parameters = given.get("dag_run_conf" if backfill else "conf")
    try:
        await run_in_threadpool(check, model, kind, user, parameters if isinstance(parameters, dict) else {})
    except RetrainError as error:
        return refusal(STATUS.get(type(error), 503), str(error))
    except Exception:
        log.exception("%s · %s · who asks could not be looked up", model, kind)
        return refusal(503, "who may ask could not be looked up: see the log of the api-server")
    return None


def check(model: str, kind: str, user: Any, parameters: dict[str, Any]) -> None:
    """Refuse whom the spec does not name, and what its DAG does not know.

    Raises:
        NotAllowed, InvalidParameter, InvalidInterval: what is refused.
        RetrainError: the spec or the ledger cannot be read.
    """
    home, details = Home.from_environment(), DagDetails(id=f"{model}_{kind}")
    may = partial(get_auth_manager().is_authorized_dag, access_entity=DagAccessEntity.RUN, details=details, user=user)
    if f"{model}.yaml" not in {file.name for file in home.specs} or not may(method="GET"):
        return
    spec = home.spec(model)
    if kind in Access.model_fields and spec.access.of(kind):  # type: ignore[arg-type]
        admit(spec, Ledger(home.ledger), kind, user.get_name(), roles_of(user))  # type: ignore[arg-type]
    if may(method="POST"):
        check_parameters(spec, kind, parameters)


def roles_of(user: Any) -> list[str]:
    """The roles of a user: SimpleAuthManager's have one, FAB's several."""
    own = getattr(user, "role", None)
    return [own] if own else [role.name for role in getattr(user, "roles", ())]


def refusal(status: int, detail: str) -> JSONResponse:
    """An answer as Airflow's own are."""
    return JSONResponse({"detail": detail}, status)


class RunRequestsPlugin(AirflowPlugin):
    """Registers the door."""

    name = "retrain_requests"
    fastapi_root_middlewares = [{"middleware": RunRequests, "name": "retrain"}]  # noqa: RUF012 - the interface of Airflow
