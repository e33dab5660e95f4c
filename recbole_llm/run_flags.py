"""RecBole's command line, checked: RecBole drops what it does not understand, and trains without it."""

import logging
from collections.abc import Collection, Sequence

from recbole_llm import MODELS
from recbole_llm.errors import ConfigError
from recbole_llm.known_keys import did_you_mean, known_keys

_log = logging.getLogger(__name__)


def check_flags(flags: Sequence[str], model: str, not_here: Collection[str] = ()) -> None:
    """Check that a run reads each of its flags.

    A key that other models of RecBole read alone is a warning, and one that no settings tell of where
    the model is RecBole's.

    Args:
        flags: those of the command line that are not the command's own.
        not_here: keys that the command cannot take.
    Raises:
        ConfigError: one is not of the form ``--key=value``, or our model does not know its key.
    """
    of_model, known = known_keys(model), known_keys().union(*map(known_keys, MODELS))
    for flag in flags:
        key, *values = flag.removeprefix("--").split("=")
        if not flag.startswith("--") or len(values) != 1:
            raise ConfigError(
                f"flags are written --key=value, with one equals sign, got {flag!r}; a value that "
                "holds one goes into a file of --config_files"
            )
        if key in not_here:
            raise ConfigError(f"--{key} cannot be set here, got {flag!r}; leave it out")
        if key not in known and model not in MODELS:  # some read keys that no file of theirs has
            _log.warning("--%s stands in no settings of %s", key, model)
        elif key not in known:
            hint = did_you_mean(key, known)
            raise ConfigError(f"unknown config key {key!r} (value {values[0]!r}){hint}")
        elif key not in of_model:
            _log.warning("--%s is of other models of RecBole: %s does not read it", key, model)
