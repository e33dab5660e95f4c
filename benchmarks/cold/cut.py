"""A data set in RecBole's atomic format, and the cut that turns some of its items cold."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


class Events:
    """The rows of an atomic data set by user, in time order; the last two of each are held out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with (folder / f"{folder.name}.inter").open(encoding="utf-8") as file:
            self.head, *lines = file.read().splitlines()
        columns = [column.split(":")[0] for column in self.head.split("\t")]
        self.user, self.item = columns.index("user_id"), columns.index("item_id")
        time = columns.index("timestamp")
        self.users: dict[str, list[list[str]]] = {}
        for line in lines:
            row = line.split("\t")
            self.users.setdefault(row[self.user], []).append(row)
        for rows in self.users.values():  # RecBole's float32, and its stable sort
            rows.sort(key=lambda row: np.float32(row[time]))

    def trained_items(self) -> list[str]:
        """Items with a training event, in a fixed order."""
        return sorted({row[self.item] for rows in self.users.values() for row in rows[:-2]})

    def cut(self, share: float, seed: int) -> "Cut":
        """Turn a random share of the items that have training events cold."""
        chosen = np.random.default_rng(seed).permutation(self.trained_items())
        return self.without(set(chosen[: round(share * len(chosen))].tolist()))

    def without(self, cold: set[str]) -> "Cut":
        """Take the cold items' training events away.

        RecBole needs two training events of a user to hold two out: users who are left with fewer
        are left out.
        """
        kept = []
        for rows in self.users.values():
            training = [row for row in rows[:-2] if row[self.item] not in cold]
            if len(training) > 1:
                kept.append((training, rows[-2:]))
        return Cut(self, cold, kept)


@dataclass(frozen=True)
class Cut:
    """A data set after the cut: each user's training rows and the two held out."""

    events: Events
    cold: set[str]
    users: list[tuple[list[list[str]], list[list[str]]]]

    def cold_users(self) -> set[str]:
        """Users whose test item is cold."""
        return {rows[1][self.events.user] for _, rows in self.users if self._is_cold(rows[1])}

    def warm_users(self) -> set[str]:
        """Users neither of whose held-out items is cold."""
        return {
            rows[0][self.events.user]
            for _, rows in self.users
            if not any(self._is_cold(row) for row in rows)
        }

    def _is_cold(self, row: list[str]) -> bool:
        return row[self.events.item] in self.cold

    def write(self, parent: Path, forget: bool) -> Path:
        """Write the files under ``parent``; ``forget`` takes the cold items out of all of them."""
        source, item = self.events.folder, self.events.item
        folder = parent / source.name
        folder.mkdir(parents=True)
        lines = [self.events.head]
        for training, held_out in self.users:
            lines += ["\t".join(row) for row in training]
            for row in held_out:
                told = list(row)
                if forget and self._is_cold(row):
                    told[item] = training[-1][item]
                lines.append("\t".join(told))
        (folder / f"{source.name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (source / f"{source.name}.item").open(encoding="utf-8") as file:
            head, *items = file.read().splitlines()
        if forget:
            items = [line for line in items if line.split("\t")[0] not in self.cold]
        text = "\n".join([head, *items]) + "\n"
        (folder / f"{source.name}.item").write_text(text, encoding="utf-8")
        return parent
