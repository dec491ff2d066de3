"""Great Expectations behind one door: `great_expectations` is imported in this package and nowhere else.

GX copies the whole frame for every column check. So each expectation is given a frame of its own columns
only, one group of columns at a time; from a Parquet file no more than one group is ever in memory. The
engine is handed its frame directly: going through a data source would hash every frame on the way.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"age": [31, 47, -2]})
    >>> rule = Expectation("expect_column_values_to_be_between", {"column": "age", "min_value": 0, "max_value": 120})
    >>> result = run(frame, [rule], name="people", title="People")
    >>> result.checks[0].passed, result.checks[0].observed
    (False, '1 of 3 values outside [0, 120], such as -2')
    >>> result.failing.to_dict("records")
    [{'failed_expectation': 'expect_column_values_to_be_between(age)', 'row': 2, 'age': -2}]
"""

from retrain.data.expectations.catalogue import Expectation, check_names
from retrain.data.expectations.suite import SuiteResult, run

__all__ = ["Expectation", "SuiteResult", "check_names", "run"]
