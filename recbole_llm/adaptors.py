"""From what describes an item to hidden space: its texts and, beside them, its picture and sound.

Sizes: C items, E columns of all that describes them, H hidden size, M modalities.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LinearAdaptor(nn.Linear):
    """One linear map from text space to hidden space, without bias: no text is no vector.

    Text entries have unit variance, so an adapted entry starts with the spread of an ID entry and
    neither source drowns the other.
    """

    def __init__(self, text_size: int, hidden_size: int, std: float) -> None:
        super().__init__(text_size, hidden_size, bias=False)
        nn.init.normal_(self.weight, std=std / text_size**0.5)


class MixtureAdaptor(nn.Module):
    """A mixture of linear maps, weighted for each item by a softmax over its own text.

    Source: UniSRec's adaptor, arXiv:2206.05941, without the noise on its gate.
    """

    N_EXPERTS = 8

    def __init__(self, text_size: int, hidden_size: int, std: float) -> None:
        super().__init__()
        self.gate = nn.Linear(text_size, self.N_EXPERTS)
        self.experts = nn.Linear(text_size, self.N_EXPERTS * hidden_size, bias=False)
        nn.init.normal_(self.gate.weight, std=std)
        nn.init.normal_(self.experts.weight, std=std / text_size**0.5)

    def forward(self, text_vectors: Tensor) -> Tensor:
        """(C, E) float text vectors to (C, H)."""
        weights = self.gate(text_vectors).softmax(-1)  # (C, experts)
        experts = self.experts(text_vectors).unflatten(-1, (self.N_EXPERTS, -1))
        return torch.einsum("cx,cxh->ch", weights, experts)


class GateAdaptor(nn.Module):
    """A linear map for each modality, weighed for each item by a gate that reads all of them.

    A gate is twice a sigmoid and starts at 1, where the sum is that of one linear map.

    Source: the gated multimodal unit, arXiv:1702.01992, with linear maps in place of its tanh.

    Args:
        widths: columns of each modality, in their order.
    """

    def __init__(self, widths: Sequence[int], hidden_size: int, std: float) -> None:
        super().__init__()
        self.widths = list(widths)
        size = sum(widths)
        maps = [nn.Linear(width, hidden_size, bias=False) for width in widths]
        for each in maps:
            nn.init.normal_(each.weight, std=std / size**0.5)
        self.maps = nn.ModuleList(maps)
        self.gate = nn.Linear(size, len(widths))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def parts(self, vectors: Tensor) -> list[Tensor]:
        """What each modality adds: M times (C, H) float, of (C, E) float."""
        weights = 2 * torch.sigmoid(self.gate(vectors))  # (C, M)
        columns = torch.split(vectors, self.widths, 1)
        return [
            weight.unsqueeze(1) * each(some)
            for weight, each, some in zip(weights.unbind(1), self.maps, columns, strict=True)
        ]

    def forward(self, vectors: Tensor) -> Tensor:
        """(C, E) float to (C, H)."""
        return torch.stack(self.parts(vectors)).sum(0)


ADAPTORS: dict[str, type[LinearAdaptor] | type[MixtureAdaptor]] = {
    "linear": LinearAdaptor,
    "moe": MixtureAdaptor,
}
"""Maps from text space to hidden space, by the names of the config key ``adaptor``."""
FUSIONS = ("concat", "gate")
"""How modalities come together, by the names of the config key ``modality_fusion``: side by side before
one of ``ADAPTORS``, or each by a map of its own behind a gate."""


def build_adaptor(
    widths: Sequence[int], hidden_size: int, std: float, adaptor: str, fusion: str
) -> LinearAdaptor | MixtureAdaptor | GateAdaptor:
    """The map from (C, E) columns to (C, H), with random weights.

    Args:
        widths: columns of each modality; one modality needs no fusion.
        adaptor, fusion: names of ``ADAPTORS`` and ``FUSIONS``.
    """
    if fusion == "gate" and len(widths) > 1:
        return GateAdaptor(widths, hidden_size, std)
    return ADAPTORS[adaptor](sum(widths), hidden_size, std)
