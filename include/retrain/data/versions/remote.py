"""The DVC remote of the data registry: files under their MD5.

Of DVC the file systems and remotes are used, and its file format: `dvc.repo` is not imported, because its lock
makes parallel writers fail, its add keeps a second copy of the data, and its push says that all is well when the
cache has gone. DVC itself is imported in the function that needs it, so that this package stays light.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrain.data.versions.git import one_line
from retrain.data.versions.names import is_local
from retrain.errors import InvalidSpec, PushIncomplete, RegistryUnavailable, RetrainError, SnapshotCorrupt
from retrain.state.private import private_folder


@dataclass(frozen=True)
class Remote:
    """A DVC remote.

    Attributes:
        url: a folder or any URL that DVC knows.
        options: its settings, as `dvc remote modify` takes them.
    """

    url: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def send(self, source: Path, path: str, md5: str, size: int) -> None:
        """Send a file, unless the remote holds it, and look that it has arrived.

        Args:
            source: a file on this machine.
            path: its path in the registry, for messages.
            md5: of its bytes.
            size: how many there are.

        Raises:
            PushIncomplete: the remote does not hold what was sent.
            SnapshotCorrupt: the remote holds other bytes.
            RegistryUnavailable: the remote cannot be reached or written.
        """
        with suppress(PushIncomplete, SnapshotCorrupt):
            return self.verify(path, md5, size)
        # Whatever lies under this MD5 is not what the MD5 says, and the right bytes are here.
        with self._reaching(path) as (files, key):
            if is_local(self.url):
                private_folder(Path(self.url))
            files.put_file(str(source), key(md5))
        if md5_of(source) != md5:
            raise PushIncomplete(f"{source} was rewritten while it was sent", do="publish a file that stays as it is")
        return self.verify(path, md5, size)

    def verify(self, path: str, md5: str, size: int, *, whole: bool = False) -> None:
        """Refuse a file that the remote does not hold: presence and size everywhere, the bytes too in a local folder.

        Args:
            path: in the registry, for messages.
            md5: of the bytes.
            size: how many there are.
            whole: read the bytes wherever they lie.

        Raises:
            PushIncomplete: the remote does not hold it.
            SnapshotCorrupt: the remote holds other bytes.
            RegistryUnavailable: the remote cannot be read.
        """
        with self._reaching(path) as (files, key):
            held = files.info(key(md5))["size"]
            if held != size:
                raise _altered(path, md5, f"{held} bytes instead of {size}")
            if whole or files.protocol == "local":
                with files.open(key(md5), "rb") as stream:
                    digest = _md5_of_stream(stream)
                if digest != md5:
                    raise _altered(path, md5, f"bytes with MD5 {digest}")

    def fetch(self, target: Path, path: str, md5: str) -> None:
        """Bring a file to `target`.

        Raises:
            PushIncomplete: the remote does not hold it.
            SnapshotCorrupt: the remote holds other bytes.
            RegistryUnavailable: the remote cannot be read.
        """
        with self._reaching(path) as (files, key):
            files.get_file(key(md5), str(target))
        if (digest := md5_of(target)) != md5:
            raise _altered(path, md5, f"bytes with MD5 {digest}")

    @contextmanager
    def _reaching(self, path: str) -> Iterator[tuple[Any, Any]]:
        """Reach the remote: its file system and the way from an MD5 to a key, with every failure of it named."""
        from dvc.config import ConfigError
        from dvc.data_cloud import Remote
        from dvc.fs import get_cloud_fs

        try:
            settings = {"remote": {"store": {"url": self.url, **self.options}}}
            kind, config, root = get_cloud_fs(settings, name="store")
            odb = Remote("store", root, kind(**config), **config).odb
            yield odb.fs, odb.oid_to_path
        except RetrainError:
            raise
        except ConfigError as error:
            raise InvalidSpec(_described(error), do="see `dvc remote modify` for this kind of remote") from error
        except FileNotFoundError as error:
            raise PushIncomplete(
                f"the DVC remote {self.url} does not hold the bytes of {path}",
                do="publish the same file again, or restore the remote from its backup",
            ) from error
        except Exception as error:  # the libraries of the remotes share no base class
            raise RegistryUnavailable(
                f"the DVC remote {self.url} failed for {path}: {_described(error)}",
                do="see that it is reachable, writable and has room; nothing was committed",
            ) from error


def _altered(path: str, md5: str, content: str) -> SnapshotCorrupt:
    return SnapshotCorrupt(
        f"the DVC remote holds {content} under {md5}, the MD5 of {path}",
        do="publish the same file again, or restore that object from the remote's backup",
    )


def _described(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")


def md5_of(path: Path) -> str:
    """The MD5 of a file, by which DVC names it."""
    with path.open("rb") as stream:
        return _md5_of_stream(stream)


def _md5_of_stream(stream: Any) -> str:
    return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
