"""LLMSeqRec's data: whole sequences, and the items' texts as vectors."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from recbole.config import Config
from recbole.utils.enum_type import FeatureSource, FeatureType

from recbole_llm.encoder import encoder_names, find_encoder
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.item_text import check_texts, read_text_columns, render_texts
from recbole_llm.media_vectors import read_media
from recbole_llm.modalities import TEXT, Described, join_modalities
from recbole_llm.options import ModelOptions, apply_defaults, model_options
from recbole_llm.private_training import Noise, noised_popularity, plan_noise
from recbole_llm.sequences import WholeSequenceDataset
from recbole_llm.text_cache import encode_cached
from recbole_llm.text_maps import TextMap
from recbole_llm.text_vectors import read_texts
from recbole_llm.whitening import fit_whitening

if TYPE_CHECKING:
    from recbole_llm.finetune import TunedEncoder


_DISLIKED = "disliked_ids"


class LLMSeqRecDataset(WholeSequenceDataset):
    """Whole sequences with item text; items that stand only in the ``.item`` file get an id.

    Attributes:
        options: the model's checked settings.
        item_table: text columns of the ``.item`` file by external item id; None without the file.
        media_table: its columns that say where pictures and sounds are, which are no text.
        user_table: columns of the ``.user`` file by external user id; None where it is of no use.
        text_maps: one an encoder, what ``text_vectors`` did last; empty before.
        noise: of training rows that a private training learns from; None without one.
        popularity: (V,) float32 in nats, what such a training starts from; None without.
    """

    noise: Noise | None = None
    popularity: torch.Tensor | None = None

    def __init__(self, config: Config) -> None:
        if config["benchmark_filename"] is not None:
            raise DataError(
                "benchmark_filename (pre-split files) is not supported by LLMSeqRec; give one "
                ".inter file and a split in eval_args"
            )
        apply_defaults(config)
        self.options: ModelOptions = model_options(config)
        self.train_since = self.options.train_since
        self.replay_share = self.options.replay_share
        self.newest_window_alone = self.options.privacy is not None
        self.item_table: pd.DataFrame | None = None
        self.media_table = pd.DataFrame()
        self.user_table: pd.DataFrame | None = None
        self.text_maps: list[TextMap] = []
        super().__init__(config)
        if self.options.uses_text:
            self._check_has_text()

    def _load_feat(self, filepath: str, source: Any) -> Any:
        """Load the ``.item`` file as text, and from it only the ids into RecBole's features; and keep
        what the ``.user`` file says of dislikes."""
        config = self.config
        how = config["field_separator"], config["encoding"] or "utf-8"
        if source == FeatureSource.USER and self.options.objective.dislike_loss_weight:
            self.user_table = read_text_columns(Path(filepath), self.uid_field, *how)
        if source == FeatureSource.INTERACTION:
            table = super()._load_feat(filepath, source)
            lists = (FeatureType.TOKEN_SEQ, FeatureType.FLOAT_SEQ)
            for name in (self.uid_field, self.iid_field):
                if name not in table or self.field2type[name] in lists:
                    raise DataError(
                        f"{filepath} has no column '{name}:token', it has {list(table)}; name it so, "
                        "or say by USER_ID_FIELD and ITEM_ID_FIELD how it is named"
                    )
                absent = table[name].isna()
                if absent.any():  # pandas takes an id such as NA or null for none
                    told = _read_ids(Path(filepath), name, *how)
                    table[name] = table[name].mask(absent & (told != ""), told)
            return table
        if source != FeatureSource.ITEM:
            return super()._load_feat(filepath, source)
        loaded = {*self.inter_feat, *(() if self.user_feat is None else self.user_feat)}
        if absent := sorted({*(config["val_interval"] or {})} - loaded):
            raise ConfigError(
                "val_interval filters by fields that load_col loads of the .inter and .user files, "
                f"and {absent[0]!r} is not of them; name it there, or filter the files beforehand"
            )
        table = read_text_columns(Path(filepath), self.iid_field, *how)
        table = self._wanted_columns(table, Path(filepath))
        fields = [modality.field for modality in self.options.media]
        if lacking := [field for field in fields if field not in table.columns]:
            raise DataError(
                f"{filepath} has no column '{lacking[0]}:token', found {list(table.columns)}; name "
                "one of them by image_field or audio_field, or leave it out"
            )
        self.media_table, self.item_table = table[fields], table.drop(columns=fields)
        # An item that people met but the file omits stays: RecBole would drop its interactions.
        met = pd.unique(self.inter_feat[self.iid_field].dropna())
        absent = [item for item in met if item not in self.item_table.index]
        if absent and self.options.privacy is not None:
            raise DataError(
                f"{len(absent)} items of the .inter file have no row in {filepath}, such as "
                f"{absent[:3]}: with privacy.epsilon the .item file has to list the catalogue, or the "
                "model's items would tell who met them"
            )
        if absent:
            self.logger.warning(
                f"{len(absent)} items of the .inter file have no row in {filepath}, such as "
                f"{absent[:3]}; they are kept without text"
            )
        self.set_field_property(self.iid_field, FeatureType.TOKEN, FeatureSource.ITEM, 1)
        return pd.DataFrame({self.iid_field: [*self.item_table.index, *absent]})

    def _wanted_columns(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """The ``.item`` file's texts that ``load_col`` and ``unload_col`` leave; all by default."""
        wanted, unwanted = self._get_load_and_unload_col(FeatureSource.ITEM.value)
        head = pd.read_csv(
            path, sep=self.config["field_separator"], encoding=self.config["encoding"] or "utf-8",
            encoding_errors="replace", nrows=0, index_col=False,
        )  # fmt: skip
        there = {str(column).partition(":")[0] for column in head}
        if unknown := sorted({*(wanted or ()), *(unwanted or ())} - there):
            raise ConfigError(
                f"load_col or unload_col names the item field {unknown[0]!r}, and {path} has the "
                f"fields {sorted(there)}"
            )
        kept = [
            name for name in table if name in (wanted or table) and name not in (unwanted or ())
        ]
        return table[kept]

    def _get_remap_list(self, field_list: Any) -> Any:
        """Give ids in the order of the events, and in a private training, which is not to tell that
        order, of the catalogue."""
        order = super()._get_remap_list(field_list)
        return order if self.options.privacy is None else order[::-1]

    def build(self) -> list[Self]:
        """Split and thin as the parent does; for a private training, count with noise, once."""
        train, valid, test = super().build()
        privacy = self.options.privacy
        if privacy is not None and len(train):
            size, epochs = self.config["train_batch_size"], self.config["epochs"]
            train.noise = plan_noise(privacy, len(train), size, epochs)
            if train.noise.popularity_noise:
                rows = train[torch.arange(len(train))]
                met = torch.cat([rows[self.item_id_list_field], rows[self.iid_field][:, None]], 1)
                train.popularity = noised_popularity(
                    [*met], self.item_num, train.noise.popularity_noise
                )
        return [train, valid, test]

    def item_counts(self) -> NDArray[np.int64]:
        """(V,) events of each item in the training rows; in a private training, which may not know
        them, as many as weigh half in ``id_prior``."""
        if self.options.privacy is None:
            return super().item_counts()
        counts = np.full(self.item_num, max(round(self.options.id_prior), 1))
        counts[0] = 0
        return counts

    def _check_has_text(self) -> None:
        if self.item_table is None or self.item_table.empty or not len(self.item_table.columns):
            raise DataError(
                f"no item text: {self.dataset_path}/{self.dataset_name}.item is absent or has no "
                "text field beside the item id. Add one, or train without text by --item_repr=id"
            )
        check_texts(self.item_table, self.options.item_text)

    def item_tokens(self) -> list[str]:
        """External item ids by RecBole id; entry 0 is the padding token."""
        return [str(token) for token in self.field2id_token[self.iid_field]]

    def disliked(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What users dislike: (P,) items, user by user, and (U + 1,) where each user's begin.

        From the field ``disliked_ids`` of the ``.user`` file, item ids between blanks; ids that nobody
        met and the ``.item`` file lacks are left out.
        """
        counts, items = np.zeros(self.user_num, dtype=np.int64), []
        if self.user_table is not None and _DISLIKED in self.user_table:
            known = self.field2token_id[self.iid_field]
            said = self.user_table[_DISLIKED]
            for user, token in enumerate(self.field2id_token[self.uid_field]):
                ids = said.get(str(token), "").split()
                some = [known[each] for each in ids if each in known]
                counts[user] = len(some)
                items += some
        return np.array(items, dtype=np.int64), np.r_[0, counts.cumsum()]

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
        """Encode and whiten the items' texts, by each encoder, and join the vectors.

        Items without text get the mean vector, a row of zeros after centring; they are counted in
        a warning.

        Returns:
            (V, E) float32 by RecBole id, E at most ``text_size`` times the number of encoders; row 0 is
            padding and zero.
        """
        texts = self.item_texts()
        self._warn_of(TEXT, _present(texts))
        options = self.options
        vectors, self.text_maps = read_texts(
            texts, options.encoder, options.text_size, options.text_whitening, options.text_cache,
            device,
        )  # fmt: skip
        return vectors

    def described(self, device: str) -> Described:
        """The vectors of the items' texts, pictures and sounds, side by side.

        Items that lack one of several, or whose picture or sound cannot be read, are counted in a
        warning.

        Raises:
            DataError: too many pictures or sounds are refused or cannot be read.
        """
        options = self.options
        parts, has = {TEXT: self.text_vectors(device)}, {TEXT: _present(self.item_texts())}
        root = options.media_path or Path(self.dataset_path)
        for modality in options.media:
            column = self.media_table[modality.field]
            values = ["", *(column.get(item, "").strip() for item in self.item_tokens()[1:])]
            parts[modality.kind], has[modality.kind] = read_media(
                modality, self.item_tokens(), values, root, options.text_size,
                options.text_whitening, options.text_cache, device,
            )  # fmt: skip
            self._warn_of(modality.kind, has[modality.kind])
        return join_modalities(parts, has)

    def _warn_of(self, kind: str, has: NDArray[np.bool_]) -> None:
        """Count the items that lack a modality, if some do."""
        if n_without := np.count_nonzero(~has[1:]):
            instead = f"the mean {kind} vector (zeros after centring)"
            if self.options.media:
                instead = "a learned default"
            self.logger.warning(
                f"{n_without} of {self.item_num - 1} items have no {kind}; each gets {instead}"
            )

    def tuned_encoder(self, device: str) -> "TunedEncoder":
        """The encoder as a part of the model, which starts from the vectors of ``text_vectors``."""
        from recbole_llm.finetune import TunedEncoder

        texts, options = self.item_texts(), self.options
        assert options.finetune is not None, "encoder.finetune is not set"
        encoder = find_encoder(encoder_names(options.encoder)[0])
        described = [text for text in texts if text]
        vectors = encode_cached(described, encoder, options.text_cache, device)
        whitening = fit_whitening(vectors, options.text_size, options.text_whitening)
        if self.config["enable_amp"]:
            encoder = replace(encoder, dtype="bfloat16")
        return TunedEncoder(encoder, options.finetune, texts, whitening, options.ema_decay, device)


def _read_ids(path: Path, field: str, separator: str, encoding: str) -> "pd.Series[str]":
    """A column of ids as it stands in an ``.inter`` file, in RecBole's order of rows."""
    ids: pd.Series[str] = pd.read_csv(
        path, sep=separator, encoding=encoding, engine="python", usecols=[f"{field}:token"], dtype=str,
        keep_default_na=False,
    ).iloc[:, 0]  # fmt: skip
    return ids


def _present(values: list[str]) -> NDArray[np.bool_]:
    return np.array([bool(value) for value in values])
