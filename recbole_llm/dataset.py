"""Whole-sequence training inside RecBole's own split.

RecBole's ``SequentialDataset`` makes a row of every prefix of every user: L copies of the work and
of the memory. A causal model predicts at all positions of a prefix in one pass, so for training it
needs only the few prefixes that cover each position once. This class keeps RecBole's rows as
(user, target, position) without their sequences, lets RecBole split them by its own code, thins the
training rows to windows, and cuts a batch's sequences out of one flat array when it is asked for.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from recbole.config import Config
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils.enum_type import FeatureSource, FeatureType
from torch import Tensor

from recbole_llm.encoder import find_encoder
from recbole_llm.errors import DataError
from recbole_llm.item_text import read_item_file, render_texts
from recbole_llm.options import ModelOptions, apply_defaults, model_options
from recbole_llm.text_cache import encode_cached
from recbole_llm.whitening import whiten

_POSITION = "target_position"
"""Where a row's target stands in the flat array; a field of ``inter_feat``, so it is split with it."""


class LLMSeqRecDataset(SequentialDataset):  # type: ignore[misc]
    """RecBole's sequential dataset with windows for training, and with item text.

    Rows, split and evaluation sequences equal those of ``SequentialDataset``; ties in time keep the
    file's order, as there. Items that stand only in the ``.item`` file get an id.

    Attributes:
        options: the model's checked settings.
        item_table: text columns of the ``.item`` file by external item id; None without the file.
    """

    inter_feat: Any  # a DataFrame while loading, an Interaction afterwards

    def __init__(self, config: Config) -> None:
        if config["benchmark_filename"] is not None:
            raise DataError(
                "benchmark_filename (pre-split files) is not supported by LLMSeqRec; give one "
                ".inter file and a split in eval_args"
            )
        apply_defaults(config)
        self.options: ModelOptions = model_options(config)
        self.item_table: pd.DataFrame | None = None
        super().__init__(config)
        if self.options.uses_text:
            self._check_has_text()

    # --- items ---------------------------------------------------------------------------------

    def _load_feat(self, filepath: str, source: Any) -> Any:
        """Load the ``.item`` file as text, and from it only the ids into RecBole's features."""
        if source != FeatureSource.ITEM:
            return super()._load_feat(filepath, source)
        config = self.config
        self.item_table = read_item_file(
            Path(filepath), self.iid_field, config["field_separator"], config["encoding"] or "utf-8"
        )
        # An item that people met but the file omits stays: RecBole would drop its interactions.
        met = pd.unique(self.inter_feat[self.iid_field].dropna())
        absent = [item for item in met if item not in self.item_table.index]
        if absent:
            self.logger.warning(
                f"{len(absent)} items of the .inter file have no row in {filepath}, such as "
                f"{absent[:3]}; they are kept without text"
            )
        self.set_field_property(self.iid_field, FeatureType.TOKEN, FeatureSource.ITEM, 1)
        return pd.DataFrame({self.iid_field: [*self.item_table.index, *absent]})

    def _check_has_text(self) -> None:
        if self.item_table is None or self.item_table.empty or not len(self.item_table.columns):
            raise DataError(
                f"no item text: {self.dataset_path}/{self.dataset_name}.item is absent or has no "
                "text field beside the item id. Add one, or train without text by --item_repr=id"
            )
        render_texts(self.item_table, self.options.item_text)

    def item_tokens(self) -> list[str]:
        """External item ids by RecBole id; entry 0 is the padding token."""
        return [str(token) for token in self.field2id_token[self.iid_field]]

    def item_texts(self) -> list[str]:
        """One text an item by RecBole id, from the template; "" for padding and absent text."""
        if self.item_table is None:
            return [""] * self.item_num
        texts = dict(
            zip(
                self.item_table.index,
                render_texts(self.item_table, self.options.item_text),
                strict=True,
            )
        )
        return [""] + [texts.get(token, "") for token in self.item_tokens()[1:]]

    def text_vectors(self, device: str) -> NDArray[np.float32]:
        """Encode and whiten the items' texts.

        Items without text get the mean vector, a row of zeros after centring; they are counted in
        a warning.

        Returns:
            (V, E) float32 by RecBole id; row 0 is padding and zero.
        """
        texts = self.item_texts()
        has_text = np.array([bool(text) for text in texts])
        n_without = int((~has_text).sum()) - 1
        if n_without:
            self.logger.warning(
                f"{n_without} of {self.item_num - 1} items have no text; each gets the mean text "
                "vector (zeros after centring)"
            )
        spec = find_encoder(self.options.encoder)
        encoded = encode_cached(
            [text for text in texts if text], spec, self.options.text_cache, device
        )
        whitened = whiten(encoded, self.options.text_size)
        vectors = np.zeros((len(texts), whitened.shape[1]), dtype=np.float32)
        vectors[has_text] = whitened
        return vectors

    # --- rows ----------------------------------------------------------------------------------

    def data_augmentation(self) -> None:
        """Make RecBole's rows, one a prefix, without the prefixes themselves."""
        self._check_field("uid_field", "time_field")
        if self.time_field not in self.inter_feat:
            raise DataError(
                f"a sequential model needs the time field {self.time_field!r} in "
                f"{self.dataset_path}/{self.dataset_name}.inter (TIME_FIELD, load_col)"
            )
        self.item_id_list_field = self.iid_field + self.config["LIST_SUFFIX"]
        self.set_field_property(
            self.item_id_list_field,
            FeatureType.TOKEN_SEQ,
            FeatureSource.INTERACTION,
            self.max_item_list_len,
        )
        self.set_field_property(
            self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1
        )
        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        users = self.inter_feat[self.uid_field].numpy()
        self._flat_items: Tensor = self.inter_feat[self.iid_field].clone()
        is_first = np.r_[True, users[1:] != users[:-1]]
        starts = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
        targets = np.flatnonzero(~is_first)  # the first item of a user has no prefix
        lengths = np.minimum(targets - starts[targets], self.max_item_list_len)
        rows = self.inter_feat[targets]
        rows.update(
            Interaction(
                {
                    self.item_list_length_field: torch.from_numpy(lengths.astype(np.int64)),
                    _POSITION: torch.from_numpy(targets.astype(np.int64)),
                }
            )
        )
        self.inter_feat = rows

    def build(self) -> list["LLMSeqRecDataset"]:
        """Split as RecBole does, then thin the training rows to windows."""
        train, valid, test = super().build()
        return [train._windows(), valid, test]

    def _windows(self) -> "LLMSeqRecDataset":
        """Keep of each user every L-th row from the last one back.

        A kept row's prefix and target hold the targets of the rows before it, up to L of them, so
        each training row is predicted exactly once an epoch.
        """
        if not len(self.inter_feat):
            return self
        order = np.lexsort((self.inter_feat[_POSITION].numpy(), self.inter_feat[self.uid_field]))
        users = self.inter_feat[self.uid_field].numpy()[order]
        is_last = np.r_[users[1:] != users[:-1], True]
        ends = np.flatnonzero(is_last)[np.cumsum(np.r_[0, is_last[:-1]])]
        steps_back = ends - np.arange(len(users))
        keep = order[steps_back % self.max_item_list_len == 0]
        windows: LLMSeqRecDataset = self.copy(self.inter_feat[np.sort(keep)])
        windows._split_rows = self.inter_feat
        return windows

    def counter(self, field: str) -> Counter[int]:
        """Count a field's values over all rows of the split, not over the windows alone."""
        rows = getattr(self, "_split_rows", self.inter_feat)
        return Counter(rows[field].numpy())

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        rows = super().__getitem__(index, join)
        lengths = rows[self.item_list_length_field]
        starts = rows[_POSITION] - lengths
        steps = torch.arange(self.max_item_list_len)
        is_real_item = steps < lengths.unsqueeze(-1)  # (B, L)
        positions = torch.where(is_real_item, starts.unsqueeze(-1) + steps, 0)
        sequences = torch.where(is_real_item, self._flat_items[positions], 0)
        rows.update(Interaction({self.item_id_list_field: sequences}))
        return rows
