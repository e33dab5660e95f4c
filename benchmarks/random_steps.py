"""Training steps on random full sequences, to measure memory and speed on.

The default network, with one target a position and the repeat bias left out.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """What a step costs depends on these."""

    items: int
    length: int
    """Items of a sequence."""
    users: int
    """Sequences of a step."""
    text_size: int = 512
    """Components of an item's text vector, as two encoders have them."""
    hidden_size: int = 64


def random_step(
    sizes: Sizes, loss_type: str, n_negatives: int, device: str = "cpu", amp: bool = False
) -> Callable[[], None]:
    """Build the network; each call of what is returned trains it on new random sequences.

    Args:
        loss_type: ``CE`` or ``sampled`` with ``n_negatives``.
        amp: mixed precision, as by RecBole's ``enable_amp`` and ``enable_scaler``.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from recbole_llm.catalogue import Catalogue
    from recbole_llm.layers import (
        ItemEncoder,
        Network,
        SequenceConfig,
        SequenceEncoder,
    )
    from recbole_llm.objective import Objective, training_loss

    n_rows, hidden = sizes.items + 1, sizes.hidden_size
    config = SequenceConfig(
        hidden, 2, 2, 4 * hidden, sizes.length, 0.3, 0.3, "gelu", 1e-12, 0.02, "dot", 1.0, 0
    )
    objective = Objective(loss_type, n_negatives, n_targets=1, target_decay=1.0)
    network = Network(
        ItemEncoder(n_rows, hidden, [sizes.text_size], True, "linear", 0.1, 0.02),
        SequenceEncoder(config),
        None,
    ).to(device)
    rule = get_ema_multi_avg_fn(0.99)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=rule).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters())
    scaler = torch.GradScaler(device, enabled=amp and device == "cuda")
    with torch.device(device):
        catalogue = Catalogue(
            is_known=torch.arange(n_rows) > 0,
            item_bias=torch.zeros(n_rows),
            id_shares=torch.full((n_rows, 2), 0.5),
            neighbors=torch.randint(1, n_rows, (n_rows, 10)),
            neighbor_weights=torch.full((n_rows, 10), 0.1),
            text_vectors=torch.randn(n_rows, sizes.text_size),
        )
        lengths = torch.full((sizes.users,), sizes.length)

    def step() -> None:
        item_seq = torch.randint(1, n_rows, (sizes.users, sizes.length), device=device)
        last = torch.randint(1, n_rows, (sizes.users,), device=device)
        with torch.autocast(device) if amp else nullcontext():
            loss = training_loss(network, catalogue, objective, config, item_seq, lengths, last)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        average.update_parameters(network)

    return step
