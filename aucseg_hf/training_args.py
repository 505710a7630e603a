"""AUCSegTrainingArguments: TrainingArguments with the loss, the bank and fitting defaults."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from aucseg_hf.configuration_aucseg import BANK_KEYS, LOSS_KEYS
from aucseg_hf.errors import check_choice


@dataclass
class AUCSegTrainingArguments(TrainingArguments):
    """Arguments of `AUCSegTrainer`.

    A field of the method left at None takes what `model.config.aucseg` says, else the method's
    default. These defaults differ from `TrainingArguments`: learning_rate 6e-5, weight_decay 0.01,
    the best checkpoint (where it is loaded at the end) is the one with the best mean_iou, a
    non-finite loss is shown instead of hidden, no columns are removed, unused parameters are not
    searched for.
    """

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
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "mean_iou"
        super().__post_init__()

    def method_settings(self) -> dict[str, Any]:
        """The settings of loss and bank that were given, by their key in `config.aucseg`."""
        given = {key: getattr(self, key) for key in (*LOSS_KEYS, *BANK_KEYS)}
        return {key: value for key, value in given.items() if value is not None}
