"""AUCSegTrainer: transformers' Trainer with pixel AUC, the memory bank and exact evaluation."""

import math
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.utils import logging

from aucseg_hf.accumulation import MicroBatch, first_pass
from aucseg_hf.backbones import has_spare_parameters, ignore_index_of
from aucseg_hf.bank_pictures import BankPictures
from aucseg_hf.configuration_aucseg import BANK_KEYS, LOSS_KEYS, class_id_of, resolve_settings
from aucseg_hf.data.dataset import collate
from aucseg_hf.data.statistics import ClassStatistics
from aucseg_hf.errors import InputError
from aucseg_hf.losses import SegmentationLoss
from aucseg_hf.memory_bank import TailMemoryBank
from aucseg_hf.metrics import SegmentationMetrics
from aucseg_hf.plotting import color_map
from aucseg_hf.semantic_forward import SemanticForward, SemanticOutput, training_loss
from aucseg_hf.training_args import AUCSegTrainingArguments

logger = logging.get_logger(__name__)

_MOST_LOGGED_CLASSES = 20
# Of what SegmentationMetrics measures, what is short enough for a log line; groups included.
_LOGGED_MEASURES = ("mean_iou", "mean_accuracy", "overall_accuracy", "pixel_auc")


class AUCSegTrainer(Trainer):
    """Trains any transformers semantic segmentation model with ce_weight * CE + auc_weight * AUC.

    In training only, the memory bank pastes stored tail objects into images that lack them.
    Evaluation
    streams: a confusion matrix and score histograms are kept, never logits. The settings in force
        are
    written to `model.config.aucseg`, so that every checkpoint records them.

    Args:
        model: A model of any type `SemanticForward` runs.
        args: Arguments; method settings left at None are taken from `model.config.aucseg`.
        class_statistics: Gives head, middle and tail for the report, and the bank's tail classes
            where neither `args` nor the model's configuration names them.
        data_collator: By default `aucseg_hf.data.collate`.
        **kwargs: Everything `transformers.Trainer` takes.

    Attributes:
        bank: The `TailMemoryBank`, or None.
        last_evaluation: What `SegmentationMetrics.compute` returned last, per-class arrays
            included.

    Raises:
        InputError: If a setting is out of range or a tail class does not exist.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: AUCSegTrainingArguments,
        class_statistics: ClassStatistics | None = None,
        data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, AUCSegTrainingArguments):
            raise InputError(f"expected AUCSegTrainingArguments, got {type(args).__name__}")
        config = model.config
        settings = {**(getattr(config, "aucseg", None) or {}), **args.method_settings()}
        if not settings.get("tail_classes") and class_statistics is not None:
            settings["tail_classes"] = class_statistics.tail_classes
        settings["tail_classes"] = [
            class_id_of(config, name) for name in settings.get("tail_classes") or []
        ]
        config.aucseg = settings = resolve_settings(settings, config.num_labels)

        if has_spare_parameters(config):
            args.ddp_find_unused_parameters = True
        super().__init__(model=model, args=args, data_collator=data_collator or collate, **kwargs)
        # Segmentation models accept and ignore `num_items_in_batch`; Trainer would then not divide
        # the loss under gradient accumulation and multiply it under data parallelism.
        self.model_accepts_loss_kwargs = False

        self.semantic_forward = SemanticForward(self.model)
        self.ignore_index = ignore_index_of(config)
        options = {
            **{key: settings[key] for key in LOSS_KEYS},
            "label_smoothing": args.label_smoothing_factor,
            "ignore_index": self.ignore_index,
        }
        # In training the loss is that of the global batch: AUC compares pixels across ranks. In
        # evaluation ranks may run different numbers of forward passes, so each has its own.
        ranks = torch.distributed.group.WORLD if args.world_size > 1 else None
        self.evaluation_loss = SegmentationLoss(**options)
        if self.semantic_forward.is_mask_classification:
            options["ce_weight"] = 0.0  # the model's own loss takes its place
        self.training_loss = SegmentationLoss(**options, process_group=ranks)
        self.bank: TailMemoryBank | None = None
        if args.memory_bank and settings["tail_classes"]:
            self.bank = TailMemoryBank(
                **{key: settings[key] for key in BANK_KEYS},
                num_labels=config.num_labels,
                ignore_index=self.ignore_index,
                # Ranks see different images, so they keep different objects.
                seed=args.seed + args.process_index,
                # Known of SegmentationDataset: entries are then kept as the 8-bit pixels they were.
                image_mean=getattr(self.train_dataset, "image_mean", None),
                image_std=getattr(self.train_dataset, "image_std", None),
            )
        self._bank_pictures: BankPictures | None = None
        if self.bank is not None and args.bank_picture_steps:
            self._bank_pictures = BankPictures(
                Path(args.output_dir) / "bank",
                args.bank_picture_steps,
                config.id2label,
                color_map(config.num_labels, settings["palette"]),
                # Colours are only for the eye where the normalisation is unknown.
                getattr(self.train_dataset, "image_mean", [0.5] * 3),
                getattr(self.train_dataset, "image_std", [0.25] * 3),
            )
        self.groups = (
            class_statistics.groups
            if class_statistics is not None
            else {"head": [], "middle": [], "tail": settings["tail_classes"]}
        )
        self.last_evaluation: dict[str, Any] | None = None
        self._metrics: SegmentationMetrics | None = None
        self._terms: dict[str, torch.Tensor | float] = defaultdict(float)
        self._terms_weight = 0.0
        # With auc_accumulation="exact": the batches of a step, and those of them still to be run.
        self._step_batches: list[dict[str, Any]] = []
        self._micro_batches: list[MicroBatch] = []
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(_EpochCallback(self.train_dataset))

    # Training

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains as `transformers.Trainer.train` does, also after `evaluate`.

        accelerate marks a model that was only evaluated as prepared and then does not wrap it for
        distributed training: without a word, each rank would train on its own.
        """
        if self.args.world_size > 1 and self.model_wrapped is self.model:
            self.model._is_accelerate_prepared = False
        return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Computes the combined loss of one batch, after the bank's pasting while training.

        Args:
            model: The model, wrapped or not.
            inputs: `pixel_values` [B, 3, H, W] and `labels` [B, H, W].
            return_outputs: Whether to return the model's output beside the loss.
            num_items_in_batch: Unused, the loss is a mean over the batch.

        Returns:
            The loss, a scalar, and with `return_outputs` the model's output.
        """
        if model.training and self._step_batches:
            return self._exact_loss(model, return_outputs)
        pixel_values, labels = inputs["pixel_values"], inputs["labels"]
        if not model.training:
            outputs = self.semantic_forward(model, pixel_values)
            loss = self.evaluation_loss(outputs.logits, labels).loss
            return (loss, outputs) if return_outputs else loss
        pixel_values, labels = self._paste(pixel_values, labels)
        outputs = self.semantic_forward(model, pixel_values, labels)
        loss, parts = training_loss(
            self.training_loss, [outputs], [labels], self.semantic_forward.auxiliary_loss_weight
        )
        loss = self._add_model_loss(loss, parts, outputs)
        return (loss, outputs) if return_outputs else loss

    def _add_model_loss(
        self, loss: torch.Tensor, parts: dict[str, torch.Tensor], outputs: SemanticOutput
    ) -> torch.Tensor:
        """Adds the own loss of a mask classification model, and records all terms."""
        if outputs.model_loss is not None:
            loss = loss + self.model.config.aucseg["ce_weight"] * outputs.model_loss
            parts = {"loss_model": outputs.model_loss, "loss_auc": parts["loss_auc"]}
        self._record(**parts)
        self._terms_weight += 1 / self.current_gradient_accumulation_steps
        return loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Keeps the micro-batches of a step together where their AUC has to be exact."""
        samples, num_items = super().get_batch_samples(*args, **kwargs)
        exact = self.args.auc_accumulation == "exact" and len(samples) > 1
        self._step_batches = list(samples) if exact else []
        self._micro_batches = []
        return samples, num_items

    def _exact_loss(
        self, model: nn.Module, return_outputs: bool
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The loss of all micro-batches of this step, with the next one's share of its gradient."""
        if not self._micro_batches:
            inputs = [self._prepare_inputs(batch) for batch in self._step_batches]
            pasted = [self._paste(batch["pixel_values"], batch["labels"]) for batch in inputs]
            self._micro_batches = first_pass(
                self.semantic_forward,
                model,
                self.training_loss,
                pasted,
                self.compute_loss_context_manager,
            )
        micro_batch = self._micro_batches.pop(0)
        loss, outputs = micro_batch.forward(self.semantic_forward, model, len(self._step_batches))
        loss = self._add_model_loss(loss, micro_batch.parts, outputs)
        return (loss, outputs) if return_outputs else loss

    def _paste(
        self, pixel_values: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.bank is None:
            return pixel_values, labels
        pasted = self.bank(pixel_values, labels)
        self._record(pasted_share=(pasted[1] != labels).float().mean())
        if self._bank_pictures is not None and self.is_world_process_zero():
            self._bank_pictures.draw(
                self.state.global_step, self.bank, (pixel_values, labels), pasted
            )
        return pasted

    def _record(self, **terms: torch.Tensor) -> None:
        for name, value in terms.items():
            self._terms[name] += value.detach() / self.current_gradient_accumulation_steps

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the loss terms since the last log line, averaged over steps and ranks."""
        if "loss" in logs and self._terms_weight:
            for name, total in self._terms.items():
                mean = self.accelerator.gather(total / self._terms_weight).mean().item()
                logs[name] = mean
            if self.bank is not None:
                logs |= self._bank_logs()
            self._terms.clear()
            self._terms_weight = 0.0
        super().log(logs, start_time)

    def _bank_logs(self) -> dict[str, float]:
        """Fill and size of this rank's bank, and of the last batch what was pasted, in pixels."""
        logs = {"bank_entries": len(self.bank), "bank_megabytes": self.bank.nbytes / 1e6}
        if len(self.bank.tail_classes) <= _MOST_LOGGED_CLASSES:
            pasted = self.bank.last_pasted
            for class_id in self.bank.tail_classes:
                name = self.model.config.id2label[class_id]
                logs[f"pasted_{name}"] = pasted.get(class_id, 0)
        return logs

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Runs Trainer's loop with `SegmentationMetrics`, summed over ranks at the end."""
        self._metrics = SegmentationMetrics(
            self.model.config.num_labels, ignore_index=self.ignore_index, groups=self.groups
        )
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        if self.args.world_size > 1:
            self._metrics.all_reduce()
        self.last_evaluation = self._metrics.compute()
        output.metrics.update(
            {
                f"{metric_key_prefix}_{name}": value
                for name, value in self.last_evaluation.items()
                if name.startswith(_LOGGED_MEASURES)
                and not np.ndim(value)
                and not math.isnan(value)
            }
        )
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | list[torch.Tensor]],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Evaluates one batch at its native size and counts it into the running metrics."""
        inputs = self._prepare_inputs(inputs)
        count = self._samples_to_count(len(inputs["labels"]))
        # A rank with nothing but repeats still gives a loss, which Trainer's gathering cuts off.
        kept = {name: inputs[name][: max(1, count)] for name in ("pixel_values", "labels")}
        losses = []
        for part in _batches_of_one_size(kept):
            with torch.no_grad(), self.compute_loss_context_manager():
                loss, outputs = self.compute_loss(model, part, return_outputs=True)
            losses.append(loss.detach())
            if count:
                self._metrics.update(outputs.logits, part["labels"])
        loss = torch.stack(losses).mean()
        if prediction_loss_only:
            return loss, None, None
        return loss, outputs.logits.detach(), part["labels"]

    def _samples_to_count(self, batch_size: int) -> int:
        """How many samples of this rank's batch are no repeats that fill up the last batch."""
        state = self.accelerator.gradient_state
        if not state.end_of_dataloader or state.remainder <= 0:
            return batch_size
        return max(0, min(batch_size, state.remainder - self.args.process_index * batch_size))

    # Checkpoints

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        if not self._load_weights(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_weights(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _load_weights(self, checkpoint: str) -> bool:
        """Loads weights the way `from_pretrained` does, which knows the key names that were saved.

        Trainer's own loading matches raw key names non-strictly: of SegFormer's it finds 8 in 124.

        Returns:
            Whether it did; sharded and foreign models are left to Trainer.
        """
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if (
            self.is_deepspeed_enabled
            or self.is_fsdp_enabled
            or not isinstance(model, PreTrainedModel)
        ):
            return False
        saved = type(model.config).from_pretrained(checkpoint)
        if saved.num_labels != model.config.num_labels:
            raise InputError(
                f"checkpoint {checkpoint} has {saved.num_labels} classes but the model has "
                f"{model.config.num_labels}: choose another output_dir"
            )
        loaded = type(model).from_pretrained(checkpoint, config=model.config)
        model.load_state_dict(loaded.state_dict(), strict=True)
        return True

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.bank is not None:
            # Another rank can arrive before the main one has made the folder.
            os.makedirs(output_dir, exist_ok=True)
            torch.save(self.bank.state_dict(), _bank_file(output_dir, self.args.process_index))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.bank is None:
            return
        ranks = len(list(Path(checkpoint).glob("memory_bank_*.pt")))
        if not ranks:
            logger.warning("%s holds no memory bank: the bank starts empty", checkpoint)
            return
        states = [
            torch.load(_bank_file(checkpoint, rank), weights_only=True) for rank in range(ranks)
        ]
        if ranks != self.args.world_size:
            logger.warning(
                "%s was saved by %d processes and is resumed by %d: bank entries are dealt anew",
                checkpoint,
                ranks,
                self.args.world_size,
            )
            states = TailMemoryBank.redistribute(states, self.args.world_size)
        self.bank.load_state_dict(states[self.args.process_index])


class _EpochCallback(TrainerCallback):
    """Tells the training set its epoch, which decides its augmentation."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))


def _bank_file(folder: str, rank: int) -> str:
    return os.path.join(folder, f"memory_bank_{rank}.pt")


def _batches_of_one_size(inputs: dict[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
    if isinstance(inputs["labels"], torch.Tensor):
        yield inputs
        return
    for pixel_values, labels in zip(inputs["pixel_values"], inputs["labels"], strict=True):
        yield {"pixel_values": pixel_values[None], "labels": labels[None]}
