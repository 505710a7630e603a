"""AUCSegTrainingArguments: TrainingArguments with the loss, the bank and fitting defaults."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.utils import logging

from aucseg_hf.configuration_aucseg import BANK_KEYS, LOSS_KEYS
from aucseg_hf.errors import InputError, check_choice

logger = logging.get_logger(__name__)


@dataclass
class AUCSegTrainingArguments(TrainingArguments):
    """Arguments of `AUCSegTrainer`: the loss, the bank, optimisation, failures.

    A field of the method left at None takes what `model.config.aucseg` says, else the method's
    default. These defaults differ from `TrainingArguments`: learning_rate 6e-5, weight_decay 0.01,
    the best checkpoint (where it is loaded at the end) is the one with the best mean_iou, a
    non-finite loss is shown instead of hidden, no columns are removed, unused parameters are not
    searched for.
    """

    help_groups: ClassVar[dict[str, tuple[str, ...]]] = {
        "loss": (*LOSS_KEYS, "auc_accumulation"),
        "memory bank": ("memory_bank", *BANK_KEYS, "bank_picture_steps"),
        "optimisation": (
            "learning_rate",
            "head_learning_rate_scale",
            "weight_decay",
            "ema_decay",
            "early_stopping_patience",
            "sync_batch_norm",
            "channels_last",
        ),
        "interruptions": ("resume", "non_finite_loss"),
    }

    auc_weight: float | None = field(
        default=None,
        metadata={"help": "Weight of the pixel AUC loss; 0 trains with cross-entropy."},
    )
    ce_weight: float | None = field(default=None, metadata={"help": "Weight of cross-entropy."})
    surrogate: str | None = field(
        default=None,
        metadata={"help": "AUC surrogate: square, hinge, squared_hinge, exp, logistic."},
    )
    scheme: str | None = field(
        default=None,
        metadata={"help": "Multi-class AUC: ovo (one versus one) or ova (versus all)."},
    )
    gamma: float | None = field(default=None, metadata={"help": "Margin of the AUC surrogate."})
    score: str | None = field(
        default=None, metadata={"help": "What is ranked: sigmoid or softmax of the logits."}
    )
    memory_bank: bool = field(
        default=True,
        metadata={"help": "Paste stored tail objects into training images lacking them."},
    )
    tail_classes: list[str] | None = field(
        default=None, metadata={"help": "Tail classes, ids or names, for the bank and the report."}
    )
    memory_size: int | None = field(
        default=None, metadata={"help": "Objects the bank keeps of each tail class (S_M)."}
    )
    sample_ratio: float | None = field(
        default=None, metadata={"help": "Share of an image's missing tail classes pasted (R_S)."}
    )
    resize_ratio: float | None = field(
        default=None, metadata={"help": "Size of pasted objects relative to the original (R_R)."}
    )
    replacement: str | None = field(
        default=None,
        metadata={"help": "Which entry a full memory gives up: random, fifo, lifo, ..."},
    )

    scope: str | None = field(
        default=None,
        metadata={"help": "Paste what each image lacks (image) or the whole batch (batch)."},
    )
    bank_picture_steps: int = field(
        default=0, metadata={"help": "Steps between pictures of the bank; 0 for none."}
    )
    auc_accumulation: str = field(
        default="local",
        metadata={
            "help": "AUC under gradient accumulation: local (mean over micro-batches) or exact (of "
            "the whole effective batch, at the price of one more forward pass).",
        },
    )

    head_learning_rate_scale: float = field(
        default=10.0,
        metadata={"help": "Learning rate of the head relative to the pretrained encoder's."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Decay of an average of the weights, which is then evaluated and saved; such "
            "as 0.999."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better metric_for_best_model."
        },
    )
    sync_batch_norm: bool | None = field(
        default=None,
        metadata={
            "help": "Share batch-norm statistics over GPUs; by default with several GPUs of fewer "
            "than 8 images each."
        },
    )
    channels_last: bool = field(
        default=False,
        metadata={"help": "Memory format channels_last, faster for convolutions on recent GPUs."},
    )
    resume: bool = field(
        default=False,
        metadata={
            "help": "Go on from the newest whole checkpoint in output_dir; start where there is "
            "none."
        },
    )
    non_finite_loss: str = field(
        default="stop",
        metadata={"help": "When the loss is NaN or infinite: stop, or skip the step and count."},
    )

    learning_rate: float = field(default=6e-5, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide a non-finite loss from the logs."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Removing columns would drop the images."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search for unused parameters in distributed training."}
    )

    def __post_init__(self) -> None:
        """Chooses the measure of the best checkpoint; pins memory for an accelerator only."""
        check_choice("auc_accumulation", self.auc_accumulation, ("local", "exact"))
        check_choice("non_finite_loss", self.non_finite_loss, ("stop", "skip"))
        if self.head_learning_rate_scale <= 0:
            raise InputError(
                f"expected head_learning_rate_scale > 0, got {self.head_learning_rate_scale}"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise InputError(f"expected ema_decay between 0 and 1, got {self.ema_decay}")
        if self.hub_token is not None:
            raise InputError(
                "expected no hub_token, which would be saved, and pushed, with the arguments: set "
                "the environment variable HF_TOKEN"
            )
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        wants_best = self.load_best_model_at_end or self.early_stopping_patience is not None
        if wants_best and self.metric_for_best_model is None:
            self.metric_for_best_model = "mean_iou"
        super().__post_init__()
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise InputError(
                "early_stopping_patience needs evaluations: set eval_strategy to steps or epoch"
            )
        available = get_available_reporting_integrations()
        for name in self.report_to:
            if name not in available:
                raise InputError(
                    f"cannot report to {name}: it is not installed; installed are {available}"
                )
        if self.ema_decay is not None and (self.fsdp or self.deepspeed):
            raise InputError("ema_decay needs whole weights: leave it out with FSDP or DeepSpeed")
        if self.n_gpu > 1:
            # Trainer would use torch's DataParallel: slow, and no global batch for the loss.
            logger.warning(
                "%d GPUs, of which one is used: start with accelerate launch", self.n_gpu
            )
            self._n_gpu = 1
        on_cpu = self.device.type == "cpu"
        if self.fp16 and on_cpu:
            raise InputError("fp16 needs a GPU, Trainer would ignore it: use bf16 on a CPU")
        if self.sync_batch_norm and on_cpu:
            raise InputError("sync_batch_norm needs GPUs: leave it out on a CPU")

    def method_settings(self) -> dict[str, Any]:
        """The settings of loss and bank that were given, by their key in `config.aucseg`."""
        given = {key: getattr(self, key) for key in (*LOSS_KEYS, *BANK_KEYS)}
        return {key: value for key, value in given.items() if value is not None}
