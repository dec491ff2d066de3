"""The first steps of every pipeline; this file travels with every model.

Scoring cannot differ from training, because what turns a delivered frame into features is inside the fitted
pipeline: the declared types, the model's own feature function as source text, the date parts, the category codes.
Imports numpy, pandas, scikit-learn and the errors only, so that a model folder needs nothing else of retrain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Self, cast

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from retrain.errors import DtypeChanged, FeatureCodeRefused, RetrainError, SchemaChanged

CHECKED_ROWS = 40
CLOSE = 1e-9
"""How far two answers to one row may lie apart, beyond 1 as a share: a library may add rows up in another order."""
Array = np.ndarray[Any, np.dtype[Any]]

PARTS: dict[str, Callable[[Any], Any]] = {
    "year": lambda when: when.year,
    "month": lambda when: when.month,
    "day": lambda when: when.day,
    "weekday": lambda when: when.weekday,
    "hour": lambda when: when.hour,
    "minute": lambda when: when.minute,
    "dayofyear": lambda when: when.dayofyear,
    "minuteofday": lambda when: when.hour * 60 + when.minute,
}
"""`spec.DatePart` by name, of a datetime accessor; weekday 0 is Monday, all in UTC."""


class Typed(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The door of a model: the declared columns by name, each of its declared kind.

    Other columns are left outside, the target among them. Integers, numbers and booleans become float64,
    categories and strings text, datetimes UTC; what is missing stays missing.

    Args:
        columns: name → kind, in the spec's words.
        outcomes: the names of the classes in code order; empty for regression.

    Raises:
        SchemaChanged: no names, a name that is missing, or one that stands twice.
        DtypeChanged: a value that is not of its column's kind, or is infinite.

    >>> frame = pd.DataFrame({"plan": ["a", None], "visits": [1, 2], "churned": [0, 1]})
    >>> Typed({"visits": "integer", "plan": "category"}).fit_transform(frame).dtypes.astype(str).to_dict()
    {'visits': 'float64', 'plan': 'category'}
    >>> Typed({"visits": "integer"}).transform(frame[["visits"]].to_numpy())
    Traceback (most recent call last):
        ...
    retrain.errors.SchemaChanged: SchemaChanged: the model was given an array without column names
      → pass a data frame: columns are found by name, never by place
    """

    def __init__(self, columns: Mapping[str, str], outcomes: Sequence[str] = ()) -> None:
        self.columns = columns
        self.outcomes = outcomes

    def fit(self, frame: pd.DataFrame, y: Any = None) -> Self:
        """Learn nothing; there is nothing to learn."""
        return self

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The declared columns of a frame, in the spec's order and cast."""
        if not isinstance(frame, pd.DataFrame):
            raise SchemaChanged(
                "the model was given an array without column names",
                do="pass a data frame: columns are found by name, never by place",
            )
        missing = [name for name in self.columns if name not in frame]
        twice = [name for name in self.columns if name in frame and isinstance(frame[name], pd.DataFrame)]
        for what, names in (("is missing", missing), ("stands twice", twice)):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                raise SchemaChanged(
                    f"the model needs a column that {what}: {', '.join(names[:5])}{more}",
                    do="give it the columns that its spec declares",
                )
        return pd.DataFrame({name: _cast(frame[name], kind) for name, kind in self.columns.items()}, index=frame.index)

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """The names of the columns that come out, as scikit-learn asks for them."""
        return np.asarray(list(self.columns), dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def _cast(values: pd.Series[Any], kind: str) -> pd.Series[Any]:
    try:
        if kind in ("integer", "number", "boolean"):
            numbers = pd.to_numeric(values).astype("float64")
            if np.isinf(numbers.to_numpy()).any():
                raise ValueError("infinite values")
            return cast("pd.Series[Any]", numbers)
        if kind == "datetime":
            if isinstance(values.dtype, pd.DatetimeTZDtype):
                return cast("pd.Series[Any]", values.dt.tz_convert("UTC"))
            return pd.to_datetime(values, utc=True, format=None if values.dtype.kind == "M" else "ISO8601")
        text = values if isinstance(values.dtype, pd.CategoricalDtype) else values.astype("category")
        if not all(isinstance(name, str) for name in text.cat.categories):
            text = text.cat.rename_categories([str(name) for name in text.cat.categories])
        return text if kind == "category" else text.astype(object)
    except (ValueError, TypeError) as error:
        raise DtypeChanged(
            f"column {values.name!r} is not of kind {kind}: {str(error)[:200]}",
            do="deliver the type that the spec declares",
        ) from None


class FeatureFunction(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""A model's own features, from source text that travels inside the fitted pipeline.

    The function is given a copy of the inputs, without the target, and returns the frame with the added columns;
    only those are taken. It must work row by row: on fitting, some rows are given to it again, in another order, in
    halves and alone, by a module that was loaded anew, and a function that answers otherwise (a mean of the batch, a
    shift, a rank, a chance, what an earlier call has left behind) is refused.

    Args:
        code: the text of the module.
        function: the name of the function in it.
        adds: name → `number` or `category`.
        digest: SHA-256 of `code`, checked before it is run.

    Raises:
        FeatureCodeRefused: the code was changed, does not run, or gives other rows or columns than it names.

    >>> code = "def build(frame):\n    return frame.assign(double=frame['visits'] * 2)"
    >>> step = FeatureFunction(code, "build", {"double": "number"}, code_digest(code))
    >>> step.fit_transform(pd.DataFrame({"visits": [1.0, 2.0]}))["double"].tolist()
    [2.0, 4.0]
    """

    def __init__(self, code: str, function: str, adds: Mapping[str, str], digest: str) -> None:
        self.code = code
        self.function = function
        self.adds = adds
        self.digest = digest

    def fit(self, frame: pd.DataFrame, y: Any = None) -> Self:
        """Remember the names of the inputs, and refuse a function that does not work row by row."""
        self.fit_transform(frame)
        return self

    def fit_transform(self, frame: pd.DataFrame, y: Any = None) -> pd.DataFrame:
        """What `transform` gives, once some rows have the same answers in other batches too."""
        self.inputs_ = [str(name) for name in frame.columns]
        whole = self.transform(frame)
        again = lru_cache(maxsize=1)(_loaded)
        places = np.arange(len(frame))[:: -max(len(frame) // CHECKED_ROWS, 1)]
        halves = np.array_split(places, 2)
        for batch in (places, *halves, *places[:CHECKED_ROWS, None]):
            if len(batch):
                self._compare(self._answer(frame.iloc[batch], again), whole.iloc[batch], batch, len(frame))
        return whole

    def _compare(self, answered: pd.DataFrame, expected: pd.DataFrame, places: Array, total: int) -> None:
        """Refuse answers to some rows that differ from those among all rows."""
        for name, kind in self.adds.items():
            apart = places[_apart(answered[name], expected[name], kind)]
            if len(apart):
                batch = "alone" if len(places) == 1 else f"in another batch of {len(places):,}"
                raise self.refuse(
                    f"is no function of one row: {name!r} of {len(apart):,} row(s), such as row {apart.min() + 1:,} of"
                    f" {total:,}, is another {batch}",
                    "make it work row by row, without the batch's size and order, chance, or what earlier calls left",
                )

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with the columns that the function adds."""
        return self._answer(frame, _function)

    def _answer(self, frame: pd.DataFrame, load: Callable[[str, str, str], Callable[..., object]]) -> pd.DataFrame:
        """The frame with the columns that the function adds, as `load` brings it."""
        # Numbered anew: where a row lies in its batch is nothing of the row's own.
        given = frame.reset_index(drop=True)
        try:
            returned = load(self.code, self.function, self.digest)(given.copy())
        except RetrainError:
            raise
        except (Exception, SystemExit) as error:  # a function that exits ends no process but its own answer
            raise self.refuse(f"failed: {type(error).__name__}: {str(error)[:300]}", "mend the function") from error
        if not isinstance(returned, pd.DataFrame):
            raise self.refuse(f"returned {type(returned).__name__}", "return the data frame with the added columns")
        if len(returned) != len(given) or not returned.index.equals(given.index):
            raise self.refuse(
                f"was given {len(frame)} rows and returned {len(returned)}, or reordered them",
                "keep every row and the index",
            )
        if absent := [name for name in self.adds if name not in returned]:
            raise self.refuse(f"did not add {', '.join(absent[:5])}", "add every column that `adds` names")
        returned = returned.set_axis(frame.index)
        try:
            return frame.assign(**{name: _cast(returned[name], kind) for name, kind in self.adds.items()})
        except DtypeChanged as error:
            raise self.refuse(f"broke its promise: {error.found}", "add finite values of the kind named") from None

    def refuse(self, what: str, do: str) -> FeatureCodeRefused:
        """The refusal that names the function and the key of the spec."""
        return FeatureCodeRefused(f"{self.function}() {what}", do=f"{do} (training.features)")

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """The names of the columns that come out, as scikit-learn asks for them."""
        check_is_fitted(self, "inputs_")
        return np.asarray([*self.inputs_, *self.adds], dtype=object)


def code_digest(code: str) -> str:
    """The SHA-256 of a feature function's source text."""
    return hashlib.sha256(code.encode()).hexdigest()


def _apart(answered: pd.Series[Any], expected: pd.Series[Any], kind: str) -> Array:
    """Where two columns of one kind differ by more than the last digits, (n,)."""
    missing = answered.isna().to_numpy(), expected.isna().to_numpy()
    if kind == "number":
        left, right = (values.to_numpy(dtype=np.float64, na_value=0.0) for values in (answered, expected))
        differ = np.abs(left - right) > CLOSE * np.maximum(np.abs(right), 1)
    else:
        differ = (answered.astype(object) != expected.astype(object)).to_numpy() & ~(missing[0] & missing[1])
    return cast(Array, differ | (missing[0] != missing[1]))


@lru_cache(maxsize=16)
def _function(code: str, function: str, digest: str) -> Callable[[pd.DataFrame], object]:
    return _loaded(code, function, digest)


def _loaded(code: str, function: str, digest: str) -> Callable[[pd.DataFrame], object]:
    """The function of a module that is run anew."""
    if code_digest(code) != digest:
        raise FeatureCodeRefused(
            f"the feature code does not have the digest {digest[:12]} it was fitted under",
            do="take the model from the registry again",
        )
    namespace: dict[str, Any] = {"__name__": f"feature_code_{digest[:12]}"}
    exec(compile(code, f"<feature code {digest[:12]}>", "exec"), namespace)
    if not callable(build := namespace.get(function)):
        raise FeatureCodeRefused(
            f"the feature code has no function {function!r}", do="name the one it has in training.features.function"
        )
    return cast("Callable[[pd.DataFrame], object]", build)


class DateParts(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Numbers from datetimes, by name, in UTC; the datetime itself is dropped.

    Args:
        parts: datetime column → names of `PARTS`.

    >>> when = pd.DataFrame({"at": pd.to_datetime(["2013-01-01T09:30Z"])})
    >>> DateParts({"at": ("weekday", "minuteofday")}).fit_transform(when).to_dict("records")
    [{'at_weekday': 1.0, 'at_minuteofday': 570.0}]
    """

    def __init__(self, parts: Mapping[str, Sequence[str]]) -> None:
        self.parts = parts

    def fit(self, frame: pd.DataFrame, y: Any = None) -> Self:
        """Remember the names of the inputs."""
        self.inputs_ = [str(name) for name in frame.columns]
        return self

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with the parts of its datetimes instead of these."""
        numbers = {
            f"{column}_{part}": PARTS[part](frame[column].dt).astype("float64")
            for column, parts in self.parts.items()
            for part in parts
        }
        return frame.drop(columns=list(self.parts)).assign(**numbers)

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """The names of the columns that come out, as scikit-learn asks for them."""
        check_is_fitted(self, "inputs_")
        kept = [name for name in self.inputs_ if name not in self.parts]
        return np.asarray([*kept, *(f"{c}_{part}" for c, parts in self.parts.items() for part in parts)], dtype=object)


class Codes(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Categories as whole numbers for trees, the most frequent first.

    0 is the bucket of what is not known: categories never seen, and those that training saw too rarely to learn
    from, so that the model has met that bucket before it scores. -1 is missing.

    Args:
        rare: a category needs so many rows of its own; fewer on small data (2, or one in a thousand rows).

    >>> plans = pd.DataFrame({"plan": pd.Categorical(["a", "b", "b", "c", "a", "b"])})
    >>> step = Codes().fit(plans)
    >>> step.transform(pd.DataFrame({"plan": pd.Categorical(["b", "a", "c", "new", None])})).ravel().tolist()
    [1.0, 2.0, 0.0, 0.0, -1.0]
    """

    def __init__(self, rare: int = 30) -> None:
        self.rare = rare

    def fit(self, frame: pd.DataFrame, y: Any = None) -> Self:
        """Learn which categories each column has, by falling frequency."""
        enough = min(self.rare, max(2, len(frame) // 1000))
        self.inputs_ = [str(name) for name in frame.columns]
        self.known_: dict[str, Array] = {}
        for name in self.inputs_:
            counts = frame[name].astype("category").value_counts()
            counts = counts[counts >= enough]
            # A tie in frequency is broken by name: the order of arrival must not change a model.
            order = sorted(zip(-counts.to_numpy(), counts.index.astype(str), strict=True))
            self.known_[name] = np.asarray([category for _, category in order], dtype=np.str_)
        return self

    def transform(self, frame: pd.DataFrame) -> Array:
        """The code of each category, (n, columns)."""
        check_is_fitted(self, "known_")
        columns = [self._codes(frame[name].astype("category"), self.known_[name]) for name in self.inputs_]
        return np.column_stack(columns) if columns else np.empty((len(frame), 0))

    @staticmethod
    def _codes(values: pd.Series[Any], known: Array) -> Array:
        code = {name: float(place) for place, name in enumerate(known.tolist(), start=1)}
        table = np.asarray([*(code.get(str(name), 0.0) for name in values.cat.categories), -1.0])
        return cast(Array, table[values.cat.codes.to_numpy()])

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """The names of the columns that come out, as scikit-learn asks for them."""
        check_is_fitted(self, "inputs_")
        return np.asarray(self.inputs_, dtype=object)
