"""Which items wait, for a user, until the user has met what they require."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recbole_llm.pairs import Pairs


def _no_numbers() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


def _no_ids() -> pa.Array:
    return pa.array([], pa.string())


@dataclass(frozen=True)
class Prerequisites:
    """What the items of a catalogue require; P pairs of an item and one that it requires."""

    items: NDArray[np.int64] = field(default_factory=_no_numbers)
    """(P,) positions of items in the catalogue, not falling."""
    wanted: NDArray[np.int64] = field(default_factory=_no_numbers)
    """(P,) numbers of what each requires."""
    ids: pa.Array = field(default_factory=_no_ids)
    """By those numbers, string. An item that is in no catalogue is met by nobody."""

    def waiting(self, met: pa.ListArray) -> Pairs:
        """Users, and the positions of the items that they have not met all that is required for.

        Takes B x P bytes.

        Args:
            met: strings, the items that each of B users has met.
        """
        if not len(self.items):
            return Pairs()
        codes = pc.fill_null(pc.index_in(met.flatten(), value_set=self.ids), -1).to_numpy()
        owners = pc.list_parent_indices(met).to_numpy()
        has_met = np.zeros((len(met), len(self.ids)), dtype=bool)
        has_met[owners[codes >= 0], codes[codes >= 0]] = True
        starts = np.flatnonzero(np.diff(self.items, prepend=-1))
        lacks = np.logical_or.reduceat(~has_met[:, self.wanted], starts, axis=1)
        users, places = np.nonzero(lacks)
        return Pairs(users, self.items[starts][places])


def prerequisites_of(requires: pa.ListArray) -> Prerequisites:
    """What items require.

    Args:
        requires: strings of each item of a catalogue, each once; null and empty for nothing.
    """
    wanted = requires.flatten().dictionary_encode()
    return Prerequisites(
        pc.list_parent_indices(requires).to_numpy().astype(np.int64),
        wanted.indices.to_numpy().astype(np.int64),
        wanted.dictionary,
    )
