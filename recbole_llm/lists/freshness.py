"""How an item's odds fall with its age."""

import datetime
import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class Freshness:
    """Halves the odds of an item each so many days.

    Scores are logits of a softmax over the catalogue, so that what multiplies an item's odds is added
    to its score.
    """

    day: datetime.date
    """On which an item's age is told."""
    half_life_days: float

    def added(self, items: pa.Table) -> NDArray[np.float64]:
        """What age adds to scores, 0 or less: of what is published later than the day, 0.

        Args:
            items: ``published_on`` and ``first_seen``, date32; the second counts where the first is
                null, and an item without either has no age.
        Returns:
            (items,)
        """
        since = pc.coalesce(items["published_on"], items["first_seen"])
        days = pc.days_between(since, pa.scalar(self.day, pa.date32()))
        ages = pc.fill_null(days, 0).to_numpy()
        added: NDArray[np.float64] = np.maximum(ages, 0) * (-math.log(2) / self.half_life_days)
        return added
