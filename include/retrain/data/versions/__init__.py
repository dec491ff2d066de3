"""The data registry: accepted data under version control, a git repository beside a DVC remote.

The registry is a bare git repository, named by URL or path, whose branch `main` holds a `.dvc` file per data
file; the bytes lie in the DVC remote under their MD5. Whoever clones it can `dvc pull`.

Every call works in a scratch repository of its own, so that a killed process leaves no lock behind and parallel
publishers share none; one atomic `git push` of branch and tag is the compare-and-swap. The order is what keeps
history true: bytes first, then the look at the remote, and only then the commit that speaks of them.
"""

from retrain.data.versions.git import code_version
from retrain.data.versions.lost import RESTORED, publish_lost, published, version_of
from retrain.data.versions.names import Anchor, DataVersion
from retrain.data.versions.registry import DataRegistry, registry_of

__all__ = [
    "RESTORED",
    "Anchor",
    "DataRegistry",
    "DataVersion",
    "code_version",
    "publish_lost",
    "published",
    "registry_of",
    "version_of",
]
