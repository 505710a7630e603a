"""SegmentationTrainer: optimisation, logs and evaluation as segmentation needs them."""

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedModel, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from aucseg_hf.backbones import has_spare_parameters, ignore_index_of
from aucseg_hf.callbacks import EpochCallback, ProgressBar
from aucseg_hf.data.dataset import collate
from aucseg_hf.errors import InputError, did_you_mean
from aucseg_hf.failures import (
    NonFiniteLoss,
    culprit,
    is_out_of_memory,
    non_finite_sentence,
    out_of_memory_sentence,
)
from aucseg_hf.metrics import SegmentationMetrics
from aucseg_hf.optimization import (
    decay_parameter_names,
    scale_head_learning_rate,
    wants_sync_batch_norm,
)
from aucseg_hf.resumable_trainer import ResumableTrainer
from aucseg_hf.semantic_forward import SemanticForward
from aucseg_hf.training_args import AUCSegTrainingArguments

# Of what SegmentationMetrics measures, what is short enough for a log line; groups included.
_LOGGED_MEASURES = ("mean_iou", "mean_accuracy", "overall_accuracy", "pixel_auc")


class SegmentationTrainer(ResumableTrainer):
    """Trains a segmentation model; a subclass says with which loss.

    Evaluation streams: a confusion matrix and score histograms are kept, never logits.

    Args:
        model: A model of any type `SemanticForward` runs.
        args: Arguments.
        groups: Class ids of head, middle and tail, for the report.
        data_collator: By default `aucseg_hf.data.collate`.
        **kwargs: Everything `transformers.Trainer` takes.

    Attributes:
        last_evaluation: What `SegmentationMetrics.compute` returned last, per-class arrays
            included.
        skipped_steps: Optimizer steps left out with `non_finite_loss="skip"`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: AUCSegTrainingArguments,
        groups: dict[str, list[int]],
        data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        self.groups = groups
        self.ignore_index = ignore_index_of(model.config)
        self.semantic_forward = SemanticForward(model)
        if isinstance(kwargs.get("train_dataset"), torch.utils.data.IterableDataset):
            # Else the main process reads for all and hands batches round, names not included.
            args.accelerator_config.dispatch_batches = False
        if has_spare_parameters(model.config):
            args.ddp_find_unused_parameters = True
        num_gpus = args.world_size if args.device.type == "cuda" else 1
        if wants_sync_batch_norm(args.sync_batch_norm, num_gpus, args.per_device_train_batch_size):
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if args.channels_last:
            model = model.to(memory_format=torch.channels_last)
        super().__init__(model=model, args=args, data_collator=data_collator or collate, **kwargs)
        # Segmentation models accept and ignore `num_items_in_batch`; Trainer would then not divide
        # the loss under gradient accumulation and multiply it under data parallelism.
        self.model_accepts_loss_kwargs = False
        self.last_evaluation: dict[str, Any] | None = None
        self._metrics: SegmentationMetrics | None = None
        self._start: dict[str, Any] | None = None
        self._has_scaled_head = False
        self._image_size: tuple[int, int] | None = None
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(EpochCallback(self.train_dataset))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(ProgressBar())

    # Training

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains as `ResumableTrainer.train` does.

        Raises:
            InputError: If memory does not suffice; the sentence says what to lower.
        """
        try:
            return super().train(*args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            sentence = out_of_memory_sentence(self._train_batch_size, self._image_size)
            raise InputError(sentence) from error
        finally:
            self._start = None

    def _inner_training_loop(
        self,
        batch_size: int | None = None,
        args: AUCSegTrainingArguments | None = None,
        resume_from_checkpoint: str | None = None,
        **kwargs: Any,
    ) -> TrainOutput:
        """Starts from the same point at every batch size that auto_find_batch_size tries."""
        if self.args.auto_find_batch_size:
            if self._start is None:
                self._start = self._starting_point()
            else:
                self._return_to(self._start)
                if resume_from_checkpoint is not None:
                    self._load_from_checkpoint(resume_from_checkpoint)
        return super()._inner_training_loop(
            batch_size=batch_size,
            args=args,
            resume_from_checkpoint=resume_from_checkpoint,
            **kwargs,
        )

    def _starting_point(self) -> dict[str, Any]:
        """What steps before memory ran out change, copied to main memory."""
        weights = self._plain_model().state_dict()
        return {
            "weights": {name: value.to("cpu", copy=True) for name, value in weights.items()},
            "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
            "optimizers": (self.optimizer, self.lr_scheduler),
        }

    def _return_to(self, start: dict[str, Any]) -> None:
        self._plain_model().load_state_dict(start["weights"])
        if self.average is not None:
            self.average.reset()
        python, numpy, cpu = start["random"]
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        self.optimizer, self.lr_scheduler = start["optimizers"]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Creates Trainer's optimizer, then gives the head its own learning rate."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new:
            plain = self._plain_model() if model is None else model
            self._has_scaled_head = scale_head_learning_rate(
                optimizer, plain, self.args.head_learning_rate_scale
            )
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that weight decay applies to (`decay_parameter_names`)."""
        return decay_parameter_names(model)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        images = inputs["pixel_values"]
        if self.args.channels_last and isinstance(images, torch.Tensor):
            inputs["pixel_values"] = images.contiguous(memory_format=torch.channels_last)
        return inputs

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Runs one forward and backward pass; a loss that is skipped counts as zero."""
        self._image_size = tuple(inputs["pixel_values"].shape[-2:])
        skip = self.args.non_finite_loss == "skip"
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()] if skip else []
        loss = super().training_step(model, inputs, num_items_in_batch)
        if skip and not loss.isfinite():
            # Running statistics of batch norms would never recover.
            for buffer, before in buffers:
                buffer.copy_(before)
            return torch.zeros_like(loss)
        return loss

    def record_batch(
        self,
        loss: torch.Tensor,
        terms: dict[str, torch.Tensor],
        inputs: dict[str, Any],
        logits: torch.Tensor,
    ) -> torch.Tensor:
        """Puts a training batch into the log.

        Args:
            loss: Of the batch, a scalar.
            terms: Its parts by name, scalars.
            inputs: The batch; `names` are those of its images, where it has them.
            logits: [B, K, h, w], to find what went wrong.

        Returns:
            The loss whose gradient is to be taken.

        Raises:
            NonFiniteLoss: If the loss is not finite and `args.non_finite_loss` is "stop".
        """
        weight = 1 / self.current_gradient_accumulation_steps
        images = len(inputs["labels"])
        if loss.isfinite():
            self.training_log.add({"loss": loss, **terms}, weight, images)
            self.training_log.finish(weight)
            return loss
        if self.args.non_finite_loss == "stop":
            names = inputs.get("names") or []
            what = culprit(inputs["pixel_values"], logits, terms, self._plain_model())
            raise NonFiniteLoss(
                non_finite_sentence(self.state.global_step + 1, what, names, images)
            )
        zero = torch.zeros_like(loss)
        self.training_log.add({name: zero for name in ("loss", *terms)}, 0.0, images)
        # Every gradient becomes NaN, on every rank, and the step is left out everywhere.
        return loss * math.nan

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Trainer's, but a gradient that is not finite does not reach the weights."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        # In half precision the scaler leaves such steps out, and lowers its scale.
        if self.args.fp16 or grad_norm is None or math.isfinite(float(grad_norm)):
            return grad_norm
        if self.args.non_finite_loss == "stop":
            raise NonFiniteLoss(
                f"gradient is not finite at step {self.state.global_step + 1} although the loss "
                "is: lower --learning_rate, or pass --non_finite_loss skip to leave such steps out"
            )
        model.zero_grad()  # An optimizer does not move parameters without a gradient.
        self.skipped_steps += 1
        return grad_norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the training log collected since the last line."""
        if "loss" in logs:
            means = self.training_log.means(self.accelerator.gather, self.args.world_size)
            loss = means.pop("loss", logs["loss"])
            if self.args.non_finite_loss == "skip":
                # Trainer's mean is over all steps, this one over those that were not left out.
                logs["loss"] = loss
                logs["skipped_steps"] = self.skipped_steps
            if self._has_scaled_head:
                scale = self.args.head_learning_rate_scale
                logs["learning_rate_head"] = logs["learning_rate"] * scale
            logs |= means
        super().log(logs, start_time)

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
        with self._averaged_weights(), self.training_log.paused():
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

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        wanted = self.args.metric_for_best_model
        names = [name.removeprefix("eval_") for name in metrics]
        if wanted is not None and wanted.removeprefix("eval_") not in names:
            hint = did_you_mean(wanted, names)
            raise InputError(
                f"no measure {wanted!r} for metric_for_best_model{hint}: expected one of {names}"
            )
        return super()._determine_best_metric(metrics, trial)


def _batches_of_one_size(inputs: dict[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
    if isinstance(inputs["labels"], torch.Tensor):
        yield inputs
        return
    for pixel_values, labels in zip(inputs["pixel_values"], inputs["labels"], strict=True):
        yield {"pixel_values": pixel_values[None], "labels": labels[None]}
