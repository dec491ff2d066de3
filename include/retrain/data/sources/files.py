"""Delivered files: looked up, and staged where they lie far away."""

from __future__ import annotations

import errno
import glob
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import fsspec

from retrain.data.sources.address import download, local_files, masked, one_per_interval, redacted, render, scheme_of
from retrain.data.sources.declared import check_size
from retrain.errors import SourceRefused, SourceUnavailable
from retrain.results import Interval
from retrain.spec import Source


@dataclass(frozen=True)
class DeliveredFiles:
    """The files of an interval, as they were delivered.

    Attributes:
        address: for people, without secrets.
        digest: SHA-256 of the delivered bytes; of the files' digests where there are several.
        selects: the delivery may hold other intervals' rows, which are left out.
        files: where they lie on this machine, in the order in which they are read.
        stamps: size and modification time of the files that are read in place.
    """

    address: str
    digest: str
    selects: bool
    files: tuple[Path, ...]
    stamps: tuple[tuple[int, int], ...]

    def unchanged(self) -> bool:
        """Whether the files that are read in place are still as they were found."""
        return not self.stamps or self.stamps == _stamps(self.files)


def find(source: Source, interval: Interval, root: Path, folder: Path) -> DeliveredFiles | None:
    """Find the delivered files; None while there are none. Files that lie far away are brought into `folder`.

    Raises:
        SourceRefused: the address is not allowed, or cannot be read.
        SourceUnavailable: the file system did not answer.
        BatchTooLarge: more bytes than `source.max_bytes`.
    """
    assert source.path is not None
    address = render(source.path, interval)
    scheme = scheme_of(address)
    local = scheme == "file"
    with while_read(redacted(address)):
        if local:
            files = local_files(root, address)
            check_size(sum(file.stat().st_size for file in files), source, redacted(address))
        else:
            files = _bring(address, scheme, folder, source)
        if not files:
            return None
        stamps = _stamps(files) if local else ()
        try:
            digests = [_sha256(file) for file in files]
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SourceRefused(f"{redacted(address)}: {error.strerror}", do="let this user read the file") from None
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return DeliveredFiles(redacted(address), whole, not one_per_interval(source.path, interval), tuple(files), stamps)


@contextmanager
def while_read(address: str) -> Iterator[None]:
    """Name a file that goes away while the body reads it; nothing of it is taken.

    Raises:
        SourceUnavailable: it is gone, or its server lost it.
    """
    try:
        yield
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        raise SourceUnavailable(
            f"{address} went away while it was read", do="move finished files into place, and leave them there"
        ) from None


def _bring(address: str, scheme: str, folder: Path, source: Source) -> list[Path]:
    suffixes = "".join(PurePosixPath(redacted(address)).suffixes[-2:])
    if scheme in ("http", "https"):
        target = folder / f"delivered{suffixes}"
        exists = download(address, target, max_bytes=source.max_bytes)
        if exists:
            check_size(target.stat().st_size, source, redacted(address))
        return [target] if exists else []
    try:
        files, path = fsspec.core.url_to_fs(address)
        names = sorted(files.glob(path)) if glob.has_magic(path) else [path]
        sizes = {name: files.size(name) for name in names if files.isfile(name)}
        check_size(sum(sizes.values()), source, redacted(address))
        brought = []
        for place, name in enumerate(sizes):
            target = folder / f"{place:06}-{PurePosixPath(name).name}"
            files.get_file(name, str(target))
            brought.append(target)
        return brought
    except FileNotFoundError:
        return []
    except ImportError as error:
        raise SourceRefused(f"{scheme}: {error}", do="install that file system for fsspec") from None
    except OSError as error:
        raise SourceUnavailable(
            f"{redacted(address)}: {masked(str(error))}", do="see that the address is right and may be read"
        ) from None


def _stamps(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    return tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
