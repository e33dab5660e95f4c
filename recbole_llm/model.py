"""LLMSeqRec: RecBole's adapter around the network in ``layers``."""

from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from recbole_llm.catalogue import Catalogue, build_catalogue
from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.errors import ConfigError, TrainingError
from recbole_llm.layers import (
    ItemEncoder,
    Network,
    RepeatBias,
    build_reader,
    last_states,
    score_vectors,
)
from recbole_llm.name_decoder import NameDecoder, name_tree
from recbole_llm.objective import training_loss
from recbole_llm.options import model_options
from recbole_llm.semantic_ids import semantic_ids
from recbole_llm.sequences import IS_TRAINED

if TYPE_CHECKING:
    from recbole_llm.finetune import TunedEncoder


class LLMSeqRec(SequentialRecommender):  # type: ignore[misc]
    """A causal sequence model over items that a pretrained language model describes.

    An item is a trainable ID vector plus an adapted, whitened text vector; a user is the state of a
    causal self-attention network after the last item; a score is their product, and a learned bias
    where the user met the item before. Trained by cross-entropy over the catalogue at every position
    of a sequence; ranked by an exponential average of the weights.

    Source: SASRec (arXiv:1808.09781) with text as in UniSRec (arXiv:2206.05941); unlike SASRec the
    loss is the softmax over the whole catalogue, unlike UniSRec the ID vector stays.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Config, dataset: LLMSeqRecDataset) -> None:
        super().__init__(config, dataset)
        self._item_matrix: Tensor | None = None
        self.names: Tensor | None = None
        self.config = config
        self.register_load_state_dict_post_hook(_forget_item_matrix)
        options = dataset.options
        if model_options(config) != options:
            raise ConfigError(
                "the data set was made by other settings than the model's: make both by one config"
            )
        self.options = options
        self.user_tokens = dataset.field2id_token[dataset.uid_field]
        counts = torch.from_numpy(dataset.item_counts()).to(self.device)
        self.n_events: list[int] = counts.tolist()
        text_vectors = missing = None
        self.widths: dict[str, int] = {}
        if options.uses_text:
            described = dataset.described(str(self.device))
            self.widths = described.widths
            text_vectors = torch.from_numpy(described.vectors).to(self.device)
            if described.missing is not None:
                missing = torch.from_numpy(described.missing).to(self.device)
        self.text_maps = dataset.text_maps
        self.noise = dataset.noise
        catalogue = build_catalogue(
            counts, text_vectors, options.id_neighbors if options.uses_id else 0, options.id_prior,
            options.new_item_bias,
            None if dataset.popularity is None else dataset.popularity.to(self.device), missing,
            # What was transferred says as much of an item as those that are like it.
            text_events=options.id_prior if config["transfer_from"] else 0.0,
        )  # fmt: skip
        for name, value in catalogue._asdict().items():
            # A checkpoint does not carry what the data and the cache hold, but what training changed.
            is_trained = name == "text_vectors" and options.finetune is not None
            self.register_buffer(name, value, persistent=is_trained)
        if options.negatives == "all" and text_vectors is not None:
            self.is_known |= text_vectors.any(1)
        disliked, starts = map(torch.from_numpy, dataset.disliked())
        self.register_buffer("disliked_items", disliked.to(self.device), persistent=False)
        self.register_buffer("disliked_starts", starts.to(self.device), persistent=False)
        self.network = Network(
            ItemEncoder(
                self.n_items, options.sequence.hidden_size, [*self.widths.values()], options.uses_id,
                options.adaptor, options.id_dropout_prob, options.sequence.initializer_range,
                options.modality_fusion,
            ),
            build_reader(options.sequence),
            RepeatBias(options.sequence.repeat_lags) if self._has_repeats else None,
            self._name_items() if options.decoder == "semantic_ids" else None,
        )  # fmt: skip
        self.tuned: TunedEncoder | None = None
        if options.finetune is not None:
            self.tuned = dataset.tuned_encoder(str(self.device))
        self.average: AveragedModel | None = None
        if options.ema_decay:
            rule = get_ema_multi_avg_fn(options.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.network, multi_avg_fn=rule).requires_grad_(False)

    @property
    def scoring_network(self) -> Network:
        """What ranks: the averaged weights, where an average is kept."""
        return self.network if self.average is None else cast(Network, self.average.module)

    @property
    def catalogue(self) -> Catalogue:
        """What is known of the items and not trained."""
        return Catalogue(*(getattr(self, name) for name in Catalogue._fields))

    def train(self, mode: bool = True) -> Self:
        """Switch between training and ranking; item vectors are built anew after each switch."""
        self._item_matrix = None
        super().train(mode)
        return self

    def end_epoch(self, epoch: int) -> None:
        """Let a trained encoder read all texts anew, every ``encoder.refresh_epochs`` epochs.

        Args:
            epoch: from 0.
        """
        if self.tuned is None:
            return
        assert self.options.finetune is not None
        if (epoch + 1) % self.options.finetune.refresh_epochs == 0:
            vectors = self.tuned.encode_all()
            self.text_vectors[:, : vectors.shape[1]] = vectors

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The trained weights, for an optimiser; the encoder's have a learning rate of their own."""
        if self.tuned is None or self.options.finetune is None:
            return [{"params": [*self.parameters()]}]
        tuned = {id(value) for value in self.tuned.parameters()}
        return [
            {"params": [value for value in self.parameters() if id(value) not in tuned]},
            {"params": [*self.tuned.parameters()], "lr": self.options.finetune.learning_rate},
        ]

    @property
    def _has_repeats(self) -> bool:
        return bool(self.options.sequence.repeat_lags) and self.options.decoder == "softmax"

    def _name_items(self) -> NameDecoder:
        """Name the items by their texts, and make the decoder that spells the names."""
        options, vectors = self.options, self.catalogue.text_vectors
        assert vectors is not None, "checked with the options"
        names = semantic_ids(
            vectors[1:].cpu().numpy(), options.name_levels, options.name_codes, self.config["seed"]
        )
        self.names = torch.from_numpy(np.vstack([np.zeros_like(names[:1]), names])).to(self.device)
        items = torch.arange(1, self.n_items, device=self.device)
        self.name_tree = name_tree(self.names[1:], items)
        size, std = options.sequence.hidden_size, options.sequence.initializer_range
        return NameDecoder(names.shape[1], self.name_tree.n_codes, size, std)

    def item_matrix(self) -> Tensor:
        """(V, H) float item vectors by RecBole id, as they rank; row 0 is zero.

        Without gradients they are built once between two switches of mode or loads of weights: RecBole
        trains in the one mode and evaluates in the other.
        """
        if self._item_matrix is not None and not torch.is_grad_enabled():
            return self._item_matrix
        items = torch.arange(self.n_items, device=self.is_known.device)
        vectors: Tensor = self.scoring_network.items(items, self.catalogue)
        self._item_matrix = None if self.training or torch.is_grad_enabled() else vectors
        return vectors

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """(B, H) user states for (B, L) int64 sequences of (B,) int64 lengths."""
        return last_states(
            self.scoring_network.sequences, self.item_matrix(), item_seq, item_seq_len
        )

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The objective on the batch's windows, and a step of the average.

        Raises:
            TrainingError: the loss is not finite; the message names the batch's users.
        """
        self.step_average()
        loss = self.user_loss(interaction)
        if self.tuned is not None:
            loss = loss + self.tuned.text_loss()
        if not torch.isfinite(loss):
            users = [str(self.user_tokens[user]) for user in interaction[self.USER_ID].tolist()]
            raise TrainingError(
                f"the loss is {loss.item()} on the batch of users {users[:8]}"
                f"{' and others' if len(users) > 8 else ''}: look at their events "
                "and their items' texts, or lower learning_rate"
            )
        return loss

    def step_average(self) -> None:
        """Take the weights, as the last step left them, into their average."""
        if self.average is not None:
            self.average.update_parameters(self.network)
        if self.tuned is not None:
            self.tuned.step_average()

    def user_loss(self, interaction: Interaction) -> Tensor:
        """What the batch's users say, and nothing else: a scalar, in nats."""
        item_seq, last = interaction[self.ITEM_SEQ], interaction[self.POS_ITEM_ID]
        catalogue = self.catalogue
        if self.tuned is not None:
            catalogue = catalogue._replace(text_vectors=self.text_vectors.detach().requires_grad_())
        loss = training_loss(
            self.network, catalogue, self.options.objective, self.options.sequence, item_seq,
            interaction[self.ITEM_SEQ_LEN], last, interaction.interaction.get(IS_TRAINED), self.names,
            self._disliked(interaction[self.USER_ID]) if len(self.disliked_items) else None,
        )  # fmt: skip
        if catalogue.text_vectors is not None and self.tuned is not None:
            loss = loss + self.tuned.pass_on(loss, catalogue.text_vectors)
        return loss

    def _disliked(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) places in a batch, and (P,) items that the users there dislike."""
        first, end = self.disliked_starts[users], self.disliked_starts[users + 1]
        counts = end - first
        owners = torch.arange(len(users), device=users.device).repeat_interleave(counts)
        steps = torch.arange(len(owners), device=users.device) - (counts.cumsum(0) - counts)[owners]
        return owners, self.disliked_items[first[owners] + steps]

    def predict(self, interaction: Interaction) -> Tensor:
        """(B,) scores of each row's own target."""
        rows = torch.arange(len(interaction), device=self.is_known.device)
        return self.full_sort_predict(interaction)[rows, interaction[self.ITEM_ID]]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, V) scores of all items; column 0 is padding. A beam leaves most items at -inf."""
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        config = self.options.sequence
        items = self.item_matrix()
        states = last_states(self.scoring_network.sequences, items, item_seq, lengths)
        speller = self.scoring_network.names
        if speller is not None:
            found, log_probs = speller.beam_search(states, self.name_tree, self.options.beam_size)
            nothing = states.new_full((len(states), self.n_items), -torch.inf)
            return nothing.scatter_reduce(
                1, found, log_probs, "amax"
            )  # of places beyond the last name
        scores = torch.addmm(
            self.item_bias, score_vectors(states, config), score_vectors(items, config).T
        )
        if self.scoring_network.repeats is not None:
            rows = torch.arange(len(item_seq), device=item_seq.device)
            adjustments = self.scoring_network.repeats(item_seq, rows, lengths - 1)
            scores.index_put_(adjustments[:2], adjustments.values, accumulate=True)
        return scores


class LinearSeqRec(LLMSeqRec):
    """The source article's linear model: a user's state is a linear map of what they met.

    Items, loss, averaging and export are those of ``LLMSeqRec``; what reads the history is a weighted
    mean and one matrix, see ``linear_reader``. Its defaults are in ``configs/model/LinearSeqRec.yaml``.
    """


def _forget_item_matrix(model: LLMSeqRec, _: object) -> None:
    model._item_matrix = None
