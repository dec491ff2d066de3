"""Prediction log: scores as they were written, on record, and joined with labels later.

`table`: the file of a scored batch. `records`: the ledger's records of it. `join`: the scores with rows and labels.
`disagreement`: two versions on the same rows.

One file per scored batch, `<model>/scores/<interval>/<sha256>.parquet`, never written over. Its columns: the spec's
key and time, `score` (binary: probability of the last class; regression: the number) or `score_<place>` of each class
and `predicted`, `version`, `data` (the batch's SHA-256), `reason` (why a row has no score). `score` is the one that
was served and `version` whose it is. Where a shadow model scored too, `shadow_score…` and `shadow_version` are the
other version's score of the same row: the champion's where a canary answered, else the shadow model's. A column of the
spec that is called like one of these gets a `_` appended.
"""

from retrain.monitoring.prediction_log.disagreement import disagreement, scalar_scores
from retrain.monitoring.prediction_log.join import JoinedPredictions, join_answers, join_champion, join_labels
from retrain.monitoring.prediction_log.records import KIND, append, find, read, records
from retrain.monitoring.prediction_log.table import Scores, canary_rows, scores_in, scores_of_version, to_parquet

__all__ = [
    "KIND",
    "JoinedPredictions",
    "Scores",
    "append",
    "canary_rows",
    "disagreement",
    "find",
    "join_answers",
    "join_champion",
    "join_labels",
    "read",
    "records",
    "scalar_scores",
    "scores_in",
    "scores_of_version",
    "to_parquet",
]
