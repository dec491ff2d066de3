"""Where the holdout is cut, so that its earlier rows teach and its later ones judge: forward chaining.

Every candidate is fitted at each cut on the rows before it, and answers those up to the next: prequential validation
in blocks (Dawid 1984; Tashman 2000, "Out-of-sample tests of forecasting accuracy", calls it a rolling origin). So the
newest interval has its say, and a refresh is not the champion over again.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd

from retrain.modeling import resampling
from retrain.spec import Spec


def cuts(spec: Spec, frame: pd.DataFrame) -> tuple[datetime, ...]:
    """The two moments between blocks at which the rows are cut into thirds, or none where there are fewer than three.

    Where thirds would leave too few rows or blocks to judge, while all together are enough for `gate.min_rows` and
    `gate.min_blocks`, the first cut moves towards the beginning. Rows of one moment stay on one side.

    Args:
        spec: the blocks, and how many rows and blocks the gate asks for.
        frame: (n) labelled holdout rows, oldest first.
    """
    starts = resampling.block_starts(spec, frame)
    first_rows = np.flatnonzero(starts.ne(starts.shift()))
    count, left = len(first_rows), len(frame) - first_rows
    enough_rows = left >= spec.gate.min_rows if len(frame) >= spec.gate.min_rows else left > 0
    # Blocks of a group are no blocks of time.
    by_time = spec.training.group is None and count >= spec.gate.min_blocks
    enough_blocks = count - np.arange(count) >= (spec.gate.min_blocks if by_time else 0)
    usable = [place for place in range(1, count // 3 + 1) if enough_rows[place] and enough_blocks[place]]
    if not usable:
        return ()
    first = usable[-1]
    places = (first, first + (count - first) // 2)
    # A week may begin before the holdout does, but the rows before a cut never do.
    return tuple(starts.iloc[first_rows[place]].to_pydatetime() for place in places)
