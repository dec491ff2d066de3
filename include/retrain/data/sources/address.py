"""Where a source may lie: templates, allowed schemes and hosts, and addresses without their secrets."""

from __future__ import annotations

import glob
import http.client
import ipaddress
import os
import string
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from retrain import masking
from retrain.errors import InvalidSpec, SourceRefused, SourceUnavailable
from retrain.masking import MASK
from retrain.results import Interval

SCHEMES = frozenset({"file", "s3", "gs", "abfs", "az", "https", "http", "memory"})
TIMEOUT_SECONDS = 60


def render(path: str, interval: Interval) -> str:
    """Fill in a path template for one interval.

    >>> from datetime import UTC, datetime
    >>> january = Interval(start=datetime(2024, 1, 1, tzinfo=UTC), end=datetime(2024, 2, 1, tzinfo=UTC))
    >>> render("data/churn-{start:%Y-%m}.csv", january)
    'data/churn-2024-01.csv'

    Raises:
        InvalidSpec: the template names something else than `start` and `end`.
    """
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(path) if name is not None}
        if fields - {"start", "end"}:
            raise ValueError(f"{{{sorted(fields - {'start', 'end'})[0]}}} is not known")
        return path.format(start=interval.start, end=interval.end)
    except ValueError as error:
        raise InvalidSpec(f"source.path {path!r}: {error}", do="use {start:%Y-%m-%d} and {end:%Y-%m-%d}") from None


def one_per_interval(path: str, interval: Interval) -> bool:
    """Whether the neighbouring intervals have files of their own.

    A template of years over months does not: its file holds twelve intervals, and rows are selected from it.
    """
    span = interval.end - interval.start
    before = Interval(start=interval.start - span, end=interval.start)
    after = Interval(start=interval.end, end=interval.end + span)
    return render(path, interval) not in (render(path, before), render(path, after))


def scheme_of(address: str) -> str:
    """The scheme of an address; a plain path is `file`.

    Raises:
        SourceRefused: it is not on the list, or chains one file system behind another.
    """
    scheme = address.partition("://")[0].lower() if "://" in address else "file"
    if "::" in address or scheme not in SCHEMES:
        raise SourceRefused(
            f"{redacted(address)}: the scheme {scheme!r} is not allowed"
            + (" to be chained" if "::" in address else ""),
            do=f"use a path, or one of {', '.join(sorted(SCHEMES))}",
        )
    if scheme != "file" and _has_login(address):
        raise SourceRefused(f"{redacted(address)} carries a login", do="let the server know this machine another way")
    return scheme


def _has_login(address: str) -> bool:
    """Whether a login stands in an address, also one with a slash in its password, where a client would cut it."""
    rest = address.partition("://")[2]
    host, _, _ = rest.partition("/")
    port = host.rpartition(":")[2] if ":" in host and not host.endswith("]") else ""
    return "@" in host or bool(port and not port.isdecimal() and "@" in rest)


def redacted(address: str) -> str:
    """Strip user, password and query off an address.

    >>> redacted("https://ada:secret@example.org/batch.csv?token=abc")
    'https://example.org/batch.csv'
    >>> redacted("https://ada:s?cr#t@example.org/batch.csv"), redacted("https://example.org/batch.csv?for=a@b")
    ('https://example.org/batch.csv', 'https://***')
    """
    if "://" not in address:
        return address
    scheme, _, rest = address.partition("://")
    if "@" in rest.partition("?")[2] and not _has_login(address):
        return f"{scheme}://{MASK}"  # a password or a token: where it ends cannot be told
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0].partition('#')[0]}"


def masked(text: str, *secrets: str | None) -> str:
    r"""Bring a message on one short line, without these secrets or anything that looks like a login in a URL.

    >>> masked("cannot open https://ada:secret@example.org/a.csv?token=abc\nfor ada", "ada")
    'cannot open https://***@example.org/a.csv for ***'
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    return masking.masked(" ".join(text.split()))[:300]


def _allowed() -> set[str]:
    return {name.strip() for name in os.environ.get("RETRAIN_ALLOWED_HOSTS", "").split(",")} - {""}


def _check_peer(host: str, peer: str) -> None:
    if host in _allowed():
        return
    # An IPv4 address in IPv6 dress is judged as what it is.
    ip = ipaddress.ip_address(peer.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if not ip.is_global or ip.is_multicast:
        raise SourceRefused(
            f"{host} resolves to {ip}, an address inside",
            do="name the host in RETRAIN_ALLOWED_HOSTS if that is meant",
        )


class _Secure(http.client.HTTPSConnection):
    # The address is looked at once connected, before anything is sent: no second lookup can differ from it.
    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        try:
            _check_peer(self.host, self.sock.getpeername()[0])
        except SourceRefused:
            self.sock.close()
            raise
        context: Any = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        if urlsplit(request.full_url).hostname not in _allowed():
            raise SourceRefused(
                f"{redacted(request.full_url)} is not encrypted",
                do="use https, or name the host in RETRAIN_ALLOWED_HOSTS",
            )
        return super().http_open(request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Secure, request)


def download(url: str, target: Path, *, max_bytes: int) -> bool:
    """Fetch a web address into `target`; every host on the way, redirects too, is checked as it is connected.

    Returns:
        Whether there was something: False for 404 and 410.

    Raises:
        SourceRefused: an address inside, or the server refuses.
        SourceUnavailable: no answer.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        _HttpHandler, _HttpsHandler, urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as answer, target.open("wb") as file:
            taken = 0
            while block := answer.read(1 << 20):
                taken += len(block)
                file.write(block)
                if taken > max_bytes:
                    break
        return True
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            return False
        kind = SourceUnavailable if error.code >= 500 or error.code == 429 else SourceRefused
        raise kind(
            f"{redacted(url)} answered {error.code}", do="see that the address is right and may be read"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise SourceUnavailable(
            f"{redacted(url)}: {masked(str(getattr(error, 'reason', error)))}",
            do="see that the server is up; the next try may find it",
        ) from None


def glob_pattern(root: Path, address: str) -> str:
    """The pattern of a local address below a folder whose own name is no pattern.

    >>> glob_pattern(Path("/srv/team [a]"), "data/churn-*.csv")
    '/srv/team [[]a]/data/churn-*.csv'
    >>> glob_pattern(Path("/srv/team [a]"), "/landing/churn-*.csv")
    '/landing/churn-*.csv'
    """
    return address if Path(address).is_absolute() else f"{glob.escape(str(root))}/{address}"


def local_files(root: Path, address: str) -> list[Path]:
    """The files on this machine that a rendered address names, sorted by name."""
    place = address.removeprefix("file://")
    names = [str(root / place)]
    if glob.has_magic(address):
        names = sorted(glob.glob(glob_pattern(root, place), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    return [Path(name) for name in names if Path(name).is_file()]
