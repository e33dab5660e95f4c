"""A torch module told in ONNX, for what serves without torch."""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recbole_llm.errors import ConfigError

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check_onnx() -> None:
    """Raise ConfigError where a package that ONNX takes is not installed."""
    if absent := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"{', '.join(absent)} not installed: pip install 'recbole-llm[compress]'")


def export_onnx(
    module: nn.Module,
    inputs: dict[str, Tensor],
    dynamic: dict[str, tuple[int, ...]],
    output: str,
    path: Path,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a module's ``forward`` as an ONNX file.

    Args:
        module: in evaluation mode.
        inputs: examples of ``forward``'s arguments, in order.
        dynamic: by input, the dimensions of any size.
        output: the result's name.
        path: the file to write.
        metadata: what the file says of itself.
    Raises:
        ConfigError: it does something that ONNX cannot tell.
    """
    import torch

    shapes = {name: dict.fromkeys(dynamic[name], torch.export.Dim.DYNAMIC) for name in inputs}
    try:
        with warnings.catch_warnings():  # of torch, on its own ways
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                module, tuple(inputs.values()), input_names=list(inputs), output_names=[output],
                dynamic_shapes=shapes, dynamo=True, verbose=False,
            )  # fmt: skip
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{type(module).__name__} cannot be told in ONNX: {type(error).__name__}: {first_line}"
        ) from error
    program.model.metadata_props.update(metadata or {})
    program.save(str(path))
