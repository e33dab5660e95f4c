"""Pre-training from data set to encoder: the loop is that of sentence-transformers.

A run that was killed goes on from its last checkpoint to the same weights. The checkpoints lie beside
the output folder, and go when it is written.
"""

import logging
import math
import shutil
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, set_seed
from transformers.utils import logging as transformers_logging

from recbole_llm.encoder import PRETRAINED, EncoderSpec, find_encoder, fingerprint, locate_weights
from recbole_llm.errors import ArtifactError, ConfigError, TrainingError
from recbole_llm.json_files import check_record, differences, read_json
from recbole_llm.lora import add_lora, checkpoint_activations, put_network
from recbole_llm.pretrain.corpus import Corpus, read_corpus
from recbole_llm.pretrain.objectives import PARTS
from recbole_llm.pretrain.options import PretrainOptions
from recbole_llm.pretrain.retrieval import NextItemRetrieval
from recbole_llm.text_encoder import load_sentence_transformer
from recbole_llm.warehouse import replace_json

_log = logging.getLogger(__name__)
_MOST_TOKENS = 1 << 20
_TRAINED = "trained.safetensors"
_SETTINGS = "settings.json"


def pretrain(
    dataset: str, output_dir: Path, options: PretrainOptions, recbole_settings: dict[str, Any]
) -> Path:
    """Teach an encoder one data set and write it.

    Args:
        dataset: a data set in RecBole's atomic files, with item texts.
        output_dir: the folder to write; it must not be there yet.
        options: from ``pretrain_options``.
        recbole_settings: keys for RecBole's config, as ``data_path`` and ``item_text``.
    Returns:
        ``output_dir``: safetensors, tokenizer and pooling, and ``pretrain.json``, which says how it
        came about and what each evaluation gave.
    Raises:
        ConfigError: ``output_dir`` is there, a checkpoint of another run is beside it, or the
            objective does not fit the encoder.
        DataError: no such data set, nothing to read in it, or nobody to hold what is learnt against.
        TrainingError: no evaluation came to a number.
    """
    if output_dir.exists():
        raise ConfigError(f"{output_dir} is already there: name another folder, or remove it")
    corpus = _corpus(dataset, options, recbole_settings)
    spec = replace(find_encoder(options.encoder), dtype="float32", max_tokens=options.max_tokens)
    path = locate_weights(spec)
    about = {
        "dataset": dataset, **asdict(options), "recbole": recbole_settings,
        "weights": fingerprint(path, spec), "data": corpus.digest(),
        "recbole_llm": version("recbole_llm"),
    }  # fmt: skip
    checkpoints = output_dir.with_name(f"{output_dir.name}.checkpoints")
    resume_from = _last_checkpoint(checkpoints, about)
    set_seed(options.seed)
    trainer, valid = _trainer(corpus, spec, path, options, checkpoints)
    replace_json(checkpoints / _SETTINGS, about)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    untaught = checkpoints / "untaught.json"
    if resume_from is None:  # also where a killed run left it: it draws random numbers
        replace_json(untaught, trainer.evaluate())
    # recbole/model/sequential_recommender/sine.py turns anomaly detection on for the whole process.
    with torch.autograd.set_detect_anomaly(False):
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    history = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    evaluations = [read_json(untaught), *history]
    best = trainer.state.best_global_step
    if best is None:
        raise TrainingError(
            f"no evaluation's {trainer.args.metric_for_best_model} is a number: remove {checkpoints}, "
            "and lower learning_rate"
        )
    trainer.take_best(checkpoints)
    model: SentenceTransformer = trainer.model
    if isinstance(model.transformers_model, PeftModel):
        put_network(model, model.transformers_model.merge_and_unload())
    if trainer.longest is not None:
        model.max_seq_length = trainer.longest  # a later training may read more
    kept = next(entry for entry in history if entry["step"] == best)
    _tell_kept(evaluations[0], kept)
    told = {
        **about, "valid_users": len(valid),
        "evaluations": evaluations,
        "kept_step": kept["step"],
        "seconds": round(_seconds(evaluations[:1]) + _seconds(trainer.state.log_history), 1),
    }  # fmt: skip
    _write(model, output_dir, told)
    shutil.rmtree(checkpoints)
    _log.info("encoder written to %s", output_dir)
    return output_dir


def _corpus(dataset: str, options: PretrainOptions, settings: dict[str, Any]) -> Corpus:
    from recbole_llm.train import build_config, build_data

    config = build_config("LLMSeqRec", dataset, None, {"item_repr": "text", **settings})
    data, (train, valid, _) = build_data(config)
    return read_corpus(data, train.dataset, valid.dataset)


def _last_checkpoint(folder: Path, about: dict[str, Any]) -> Path | None:
    """The newest whole checkpoint of this same run; the folder is made for a new one, and is one once
    its settings stand in it."""
    settings = folder / _SETTINGS
    if not settings.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return None
    before = check_record(read_json(settings), {}, settings)
    if differing := differences(before, about):
        raise ConfigError(
            f"{folder} holds checkpoints of another run: {differing}. Remove it to start anew, or name "
            "another output folder"
        )
    found = set(folder.glob("checkpoint-*"))
    whole = {path for path in found if _is_whole(path)}
    for torn in found - whole:
        shutil.rmtree(torn)
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    _log.info("going on from %s", newest.name if newest else "the start")
    return newest


def _is_whole(checkpoint: Path) -> bool:
    """Whether ``trainer_state.json``, which is written last and not in one step, says all."""
    try:
        read_json(checkpoint / "trainer_state.json")
    except (FileNotFoundError, ArtifactError):
        return False
    return (checkpoint / _TRAINED).is_file()  # not so of an older version


def _trainer(
    corpus: Corpus, spec: EncoderSpec, path: Path, options: PretrainOptions, checkpoints: Path
) -> tuple["_Trainer", Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_sentence_transformer(path, replace(spec, max_tokens=_MOST_TOKENS), device)
    longest = None
    if isinstance(model.tokenizer, PreTrainedTokenizerBase):  # others cut nothing
        longest = model.max_seq_length or options.max_tokens
        model.max_seq_length = min(options.max_tokens, longest)
    if options.lora_r:
        put_network(model, add_lora(model, options.lora_r, "all-linear"))
    if options.gradient_checkpointing:
        checkpoint_activations(model)
    parts = PARTS[options.objective](model, corpus, options, path)
    valid = corpus.valid_pairs()[: options.n_valid_users]
    retrieval = NextItemRetrieval(corpus.texts, valid[:, 0], valid[:, 1], options.train_batch_size)
    steps = math.ceil(-(-len(parts.train) // options.train_batch_size) * options.epochs)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.train_batch_size,
        per_device_eval_batch_size=options.train_batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        warmup_steps=round(options.warmup_ratio * steps),
        batch_sampler=parts.batch_sampler,
        eval_strategy="steps",
        eval_steps=max(round(options.eval_steps * steps), 1),
        save_strategy="steps",
        save_steps=max(round(options.eval_steps * steps), 1),
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{parts.best_by}",
        greater_is_better=parts.best_by != "loss",
        logging_strategy="no",
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        seed=options.seed,
        bf16=options.enable_amp,
        prompts=model.prompts.get(model.default_prompt_name or ""),
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
    )
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=parts.train,
        eval_dataset=parts.held_out,
        loss=parts.loss,
        evaluator=retrieval,
        callbacks=[_Tell()],
    )
    trainer.remove_callback(PrinterCallback)
    _log.info(
        "%s of %s: %d rows, %d held out, %d steps", options.objective, options.encoder,
        len(parts.train), len(parts.held_out), steps,
    )  # fmt: skip
    trainer.longest = longest
    return trainer, valid


class _Trainer(SentenceTransformerTrainer):
    """The library's trainer, with checkpoints of what is trained: of LoRA the adapters alone, and
    what the loss itself trains, as a head; each entry of its history has the ``seconds`` that led to
    it, those of tries that were killed among them."""

    longest: int | None = None
    """Tokens that the network could read, of which training reads ``max_tokens``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._noted = time.monotonic()
        super().__init__(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        now = time.monotonic()
        logs["seconds"] = _seconds(self.state.log_history) + now - self._noted
        self._noted = now
        super().log(logs, start_time)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Write no model card: ``pretrain.json`` says more."""

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> AbstractContextManager[Any]:
        """For heads and decoders too: accelerate wraps the encoder's ``forward`` alone."""
        found: AbstractContextManager[Any] = self.accelerator.autocast()
        return found

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: own.detach().cpu().contiguous() for name, own in self._trained().items()}
        save_file(tensors, folder / _TRAINED)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:  # type: ignore[override]
        tensors = load_file(Path(checkpoint_path) / _TRAINED)
        for name, own in self._trained().items():
            own.data.copy_(tensors[name])

    def _load_best_model(self) -> None:
        """``take_best`` does: where folders have moved, the library goes on with the last weights."""

    def take_best(self, checkpoints: Path) -> None:
        """Take the weights of the best step."""
        best = checkpoints / f"checkpoint-{self.state.best_global_step}"
        if not (best / _TRAINED).is_file():
            raise ArtifactError(
                f"the best weights are gone: {best} holds none; remove {checkpoints}"
            )
        self._load_from_checkpoint(str(best))

    def _trained(self) -> dict[str, Tensor]:
        """By name; what model and loss share goes by the model's."""
        loss: Any = self.loss
        named = [
            *self.model.named_parameters(prefix="model"),
            *loss.named_parameters(prefix="loss"),
        ]
        distinct = {id(own): (name, own) for name, own in reversed(named) if own.requires_grad}
        return dict(distinct.values())


class _Tell(TrainerCallback):
    """One line an evaluation."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        figures = kwargs["metrics"]
        _log.info(
            "step %d of %d: loss %.4f, next item by cosine: NDCG@10 %.4f, Recall@10 %.4f",
            state.global_step, state.max_steps, figures["eval_loss"], figures["eval_ndcg@10"],
            figures["eval_recall@10"],
        )  # fmt: skip


def _seconds(history: list[dict[str, float]]) -> float:
    """How long it took to come to the last entry."""
    return history[-1].get("seconds", 0.0) if history else 0.0  # an older version noted none


def _tell_kept(untaught: dict[str, float], kept: dict[str, float]) -> None:
    """Say which weights are written, and when they find next items worse than those before."""
    figure = "eval_ndcg@10"
    _log.info("keeping the weights of step %d", kept["step"])
    if kept[figure] < untaught[figure]:
        _log.warning(
            "they find next items worse than the untaught encoder: NDCG@10 %.4f, before %.4f. What "
            "reads texts with them will likely rank worse; take the contrastive objective, or a lower "
            "learning_rate",
            kept[figure], untaught[figure],
        )  # fmt: skip


def _write(model: SentenceTransformer, folder: Path, about: dict[str, Any]) -> None:
    staging = folder.with_name(f".{folder.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    model.save_pretrained(str(staging), create_model_card=False)
    replace_json(staging / PRETRAINED, about)
    staging.rename(folder)
