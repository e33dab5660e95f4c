"""Low-rank adapters on a text encoder's network: few trained weights beside many frozen ones.

Source: LoRA, Hu et al., arXiv:2106.09685, by the library peft.
"""

from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer
from torch import nn

from recbole_llm.errors import ConfigError


def add_lora(
    model: SentenceTransformer, rank: int, targets: str, dropout: float = 0.0
) -> PeftModel:
    """Freeze the network and put adapters on its linear layers, in place.

    Args:
        model: a sentence encoder; it goes on running the same network.
        rank: of each adapter; its output counts twice.
        targets: names of the layers, joined by '+', as ``query+value``; ``all-linear`` for all.
        dropout: of the adapters' input.
    Returns:
        The network as peft holds it, which can save and merge the adapters.
    Raises:
        ConfigError: no layer has one of the names.
    """
    network: Any = model.transformers_model
    names: str | list[str] = targets if targets == "all-linear" else targets.split("+")
    modules = dict(network.named_modules())
    found = {name.rpartition(".")[2] for name in modules}
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=names,
        lora_dropout=dropout,
        # BERT has one, which nothing reads: token states are pooled here.
        exclude_modules=r".*\bpooler\..*" if "pooler" in modules else None,
    )
    if isinstance(names, list) and (absent := [name for name in names if name not in found]):
        linear = sorted(
            {
                name.rpartition(".")[2]
                for name, module in modules.items()
                if type(module).__name__ in ("Linear", "Conv1D")
            }
        )
        raise ConfigError(
            f"LoRA targets {absent} are no layers of {type(network).__name__}; it has {linear}"
        )
    wrapped: PeftModel = get_peft_model(network, config)
    return wrapped


def take_out_dropout(model: SentenceTransformer) -> None:
    """Let the network read a text in training as it does otherwise, in place."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def load_lora(model: SentenceTransformer, folder: Path) -> None:
    """Put a trained adapter on the network and merge it into the weights, in place.

    Raises:
        ConfigError: ``folder`` holds no adapter, or one of another network.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(f"no LoRA adapter in {folder}: adapter_model.safetensors is absent")
    network: Any = model.transformers_model
    try:
        wrapped = PeftModel.from_pretrained(network, str(folder))
    except (RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"the LoRA adapter in {folder} is not of a {type(network).__name__} "
            f"of this shape: {error}"
        ) from error
    put_network(model, wrapped.merge_and_unload())


def plain_network(model: SentenceTransformer) -> Any:
    """The network itself, with the adapters in it, where peft holds it."""
    network: Any = model.transformers_model
    return network.get_base_model() if isinstance(network, PeftModel) else network


def checkpoint_activations(model: SentenceTransformer) -> None:
    """Let the network keep few activations and work the others out again; frozen weights too."""
    network = plain_network(model)
    network.gradient_checkpointing_enable()
    network.enable_input_require_grads()


def put_network(model: SentenceTransformer, network: Any) -> None:
    """Let a sentence encoder run another network."""
    model[0].model = network
