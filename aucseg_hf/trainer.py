"""AUCSegTrainer: transformers' Trainer with pixel AUC, the memory bank and exact evaluation."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from aucseg_hf.accumulation import MicroBatch, first_pass
from aucseg_hf.bank_pictures import BankPictures
from aucseg_hf.colors import color_map
from aucseg_hf.configuration_aucseg import BANK_KEYS, LOSS_KEYS, class_id_of, resolve_settings
from aucseg_hf.data.statistics import ClassStatistics
from aucseg_hf.errors import InputError
from aucseg_hf.losses import SegmentationLoss
from aucseg_hf.memory_bank import TailMemoryBank
from aucseg_hf.segmentation_trainer import SegmentationTrainer
from aucseg_hf.semantic_forward import SemanticOutput, training_loss
from aucseg_hf.training_args import AUCSegTrainingArguments

logger = logging.get_logger(__name__)

_MOST_LOGGED_CLASSES = 20


class AUCSegTrainer(SegmentationTrainer):
    """Trains any transformers semantic segmentation model with ce_weight * CE + auc_weight * AUC.

    In training only, the memory bank pastes stored tail objects into images that lack them. The
    settings in force are written to `model.config.aucseg`, so that every checkpoint records them.

    Args:
        model: A model of any type `SemanticForward` runs.
        args: Arguments; method settings left at None are taken from `model.config.aucseg`.
        class_statistics: Gives head, middle and tail for the report, and the bank's tail classes
            where neither `args` nor the model's configuration names them.
        **kwargs: Everything `transformers.Trainer` takes.

    Attributes:
        bank: The `TailMemoryBank`, or None.

    Raises:
        InputError: If a setting is out of range or a tail class does not exist.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: AUCSegTrainingArguments,
        class_statistics: ClassStatistics | None = None,
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
        groups = (
            class_statistics.groups
            if class_statistics is not None
            else {"head": [], "middle": [], "tail": settings["tail_classes"]}
        )
        super().__init__(model, args, groups, **kwargs)

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
            options["ce_weight"] = 0.0  # The model's own loss takes its place.
        self.training_loss = SegmentationLoss(**options, process_group=ranks)
        self.bank = self._new_bank(settings)
        self._bank_pictures = self._new_bank_pictures(settings)
        # With auc_accumulation="exact": the batches of a step, and those of them still to be run.
        self._step_batches: list[dict[str, Any]] = []
        self._micro_batches: list[MicroBatch] = []

    def _new_bank(self, settings: dict[str, Any]) -> TailMemoryBank | None:
        if not self.args.memory_bank or not settings["tail_classes"]:
            return None
        return TailMemoryBank(
            **{key: settings[key] for key in BANK_KEYS},
            num_labels=self.model.config.num_labels,
            ignore_index=self.ignore_index,
            # Ranks see different images, so they keep different objects.
            seed=self.args.seed + self.args.process_index,
            # Known of SegmentationDataset: entries are then kept as the 8-bit pixels they were.
            image_mean=getattr(self.train_dataset, "image_mean", None),
            image_std=getattr(self.train_dataset, "image_std", None),
        )

    def _new_bank_pictures(self, settings: dict[str, Any]) -> BankPictures | None:
        if self.bank is None or not self.args.bank_picture_steps:
            return None
        config = self.model.config
        return BankPictures(
            Path(self.args.output_dir) / "bank",
            self.args.bank_picture_steps,
            config.id2label,
            color_map(config.num_labels, settings["palette"]),
            # Colours are only for the eye where the normalisation is unknown.
            getattr(self.train_dataset, "image_mean", [0.5] * 3),
            getattr(self.train_dataset, "image_std", [0.25] * 3),
        )

    # The loss

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
            return self._exact_loss(model, inputs, return_outputs)
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
        loss = self._whole_loss(loss, parts, inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def _whole_loss(
        self,
        loss: torch.Tensor,
        parts: dict[str, torch.Tensor],
        inputs: dict[str, Any],
        outputs: SemanticOutput,
    ) -> torch.Tensor:
        """Adds the own loss of a mask classification model, and records the batch."""
        if outputs.model_loss is not None:
            loss = loss + self.model.config.aucseg["ce_weight"] * outputs.model_loss
            parts = {**parts, "loss_model": outputs.model_loss}
            del parts["loss_ce"]
        return self.record_batch(loss, parts, inputs, outputs.logits)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Keeps the micro-batches of a step together where their AUC has to be exact."""
        samples, num_items = super().get_batch_samples(*args, **kwargs)
        exact = self.args.auc_accumulation == "exact" and len(samples) > 1
        self._step_batches = list(samples) if exact else []
        self._micro_batches = []
        return samples, num_items

    def _exact_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The loss of all micro-batches of this step, with the next one's share of its gradient."""
        if not self._micro_batches:
            batches = [self._prepare_inputs(batch) for batch in self._step_batches]
            pasted = [self._paste(batch["pixel_values"], batch["labels"]) for batch in batches]
            self._micro_batches = first_pass(
                self.semantic_forward,
                model,
                self.training_loss,
                pasted,
                self.compute_loss_context_manager,
            )
        micro_batch = self._micro_batches.pop(0)
        loss, outputs = micro_batch.forward(self.semantic_forward, model, len(self._step_batches))
        loss = self._whole_loss(loss, micro_batch.parts, inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def _paste(
        self, pixel_values: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.bank is None:
            return pixel_values, labels
        pasted = self.bank(pixel_values, labels)
        share = (pasted[1] != labels).float().mean()
        self.training_log.add({"pasted_share": share}, 1 / self.current_gradient_accumulation_steps)
        if self._bank_pictures is not None and self.is_world_process_zero():
            self._bank_pictures.draw(
                self.state.global_step, self.bank, (pixel_values, labels), pasted
            )
        return pasted

    # The bank

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the state of the bank to a log line of training."""
        if "loss" in logs and self.bank is not None:
            logs |= self._bank_logs()
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

    def _starting_point(self) -> dict[str, Any]:
        bank = copy.deepcopy(self.bank.state_dict()) if self.bank is not None else None
        return {**super()._starting_point(), "bank": bank}

    def _return_to(self, start: dict[str, Any]) -> None:
        super()._return_to(start)
        if self.bank is not None:
            self.bank.load_state_dict(copy.deepcopy(start["bank"]))

    def _save_rank_state(self, folder: Path) -> None:
        super()._save_rank_state(folder)
        if self.bank is not None:
            torch.save(self.bank.state_dict(), _bank_file(folder, self.args.process_index))

    def _load_rank_state(self, checkpoint: Path) -> None:
        super()._load_rank_state(checkpoint)
        if self.bank is None:
            return
        ranks = len(list(checkpoint.glob("memory_bank_*.pt")))
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


def _bank_file(folder: Path, rank: int) -> Path:
    return folder / f"memory_bank_{rank}.pt"
