"""How is one table of a trace read? By column, as NumPy arrays, loaded when first asked for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor._optional import optional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray


@final
class Table:
    """A table in memory or in a file: named columns of one length.

    Args:
        name: name of the table, e.g. ``"activations"``.
        length: number of rows.
        columns: how to get each column, called at most once.
    """

    __slots__ = ("_columns", "_loaded", "length", "name")

    def __init__(
        self, name: str, length: int, columns: Mapping[str, Callable[[], NDArray[Any]]]
    ) -> None:
        self.name = name
        self.length = length
        self._columns = dict(columns)
        self._loaded: dict[str, NDArray[Any]] = {}

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, NDArray[Any]]) -> Table:
        """Return a table over arrays that are already there (all of one length)."""
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) > 1:
            raise ValueError(f"columns of {name!r} differ in length: {sorted(lengths)}")
        return cls(
            name,
            lengths.pop() if lengths else 0,
            {key: partial(_itself, array) for key, array in arrays.items()},
        )

    def __len__(self) -> int:
        return self.length

    def __contains__(self, column: object) -> bool:
        return column in self._columns

    def __getitem__(self, column: str) -> NDArray[Any]:
        """Return a column: int64, float64, bool, object (str), or uint32 with the exponent bins."""
        if column not in self._loaded:
            if column not in self._columns:
                known = ", ".join(self._columns)
                raise KeyError(f"table {self.name!r} has no column {column!r}; it has {known}")
            self._loaded[column] = self._columns[column]()
        return self._loaded[column]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in the order of the file."""
        return tuple(self._columns)

    def where(self, mask: NDArray[Any]) -> Table:
        """Return the rows for which ``mask`` (bool, or row numbers) holds, in their order."""
        picked = np.asarray(mask)
        length = int(np.count_nonzero(picked)) if picked.dtype == bool else len(picked)
        return Table(
            self.name,
            length,
            {key: partial(self._picked, key, picked) for key in self._columns},
        )

    def _picked(self, key: str, picked: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self[key][picked])

    def select(self, **equal: Any) -> Table:
        """Return the rows whose columns equal the given values, e.g. ``select(step=0)``."""
        mask = np.ones(self.length, dtype=bool)
        for column, value in equal.items():
            mask &= self[column] == value
        return self.where(mask)

    def row(self, index: int) -> dict[str, Any]:
        """Return one row as plain Python values (histograms stay arrays)."""
        values = {key: self[key][index] for key in self._columns}
        return {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in values.items()
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Iterate over the rows as :meth:`row` gives them."""
        return (self.row(index) for index in range(self.length))

    def to_dataframe(self) -> Any:
        """Return the table as a pandas DataFrame; histograms become one array per row.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        pd = optional("pandas", pip="pandas", to="to show a table as a DataFrame")

        data = {key: list(self[key]) if self[key].ndim > 1 else self[key] for key in self._columns}
        return pd.DataFrame(data)

    def __repr__(self) -> str:
        return f"<Table {self.name!r}: {self.length} rows x {len(self._columns)} columns>"


def _itself(array: NDArray[Any]) -> NDArray[Any]:
    return array
