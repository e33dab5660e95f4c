"""What single users of a batch have, as pairs: whose it is, and what. Needs numpy alone."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


def _none() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Pairs:
    """Sequences of a batch, and something of each."""

    owners: NDArray[np.int64] = field(default_factory=_none)
    """(P,) numbers of sequences, not decreasing."""
    values: NDArray[np.int64] = field(default_factory=_none)
    """(P,)"""

    def with_(self, others: "Pairs") -> "Pairs":
        """These and others."""
        if not len(self.owners):
            return others
        owners = np.concatenate([self.owners, others.owners])
        order = np.argsort(owners, kind="stable")
        return Pairs(owners[order], np.concatenate([self.values, others.values])[order])

    def of(self, batch: NDArray[np.int64]) -> "Pairs":
        """Those of some sequences, given in order, by their places among them."""
        if not len(self.owners):
            return self
        first, last = np.searchsorted(self.owners, [batch[0], batch[-1] + 1])
        owners, values = self.owners[first:last], self.values[first:last]
        is_here = np.isin(owners, batch)
        return Pairs(np.searchsorted(batch, owners[is_here]), values[is_here])
