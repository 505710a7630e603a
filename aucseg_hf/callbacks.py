"""Callbacks of the Trainer: epoch of the data, progress bar, stopping on a signal."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import ProgressCallback, TrainerCallback

from aucseg_hf.weight_average import WeightAverage

_SAME_PRESS = 3.0  # Seconds within which a launcher passes on the signal its worker already has.


class EpochCallback(TrainerCallback):
    """Tells the training set its epoch, which decides its order and augmentation.

    Args:
        dataset: Has a method `set_epoch`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the epoch, whole also where a resumed epoch begins in its middle."""
        self.dataset.set_epoch(int(state.epoch or 0))


class CallOnTrainBegin(TrainerCallback):
    """Calls a function when training begins, after a checkpoint was loaded.

    Args:
        function: Without arguments.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Calls the function."""
        self.function()


class AverageCallback(TrainerCallback):
    """Keeps a `WeightAverage` up to date; after training the model has the averaged weights.

    Args:
        average: Of the model that is trained.
    """

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes in the weights of this step."""
        self.average.update(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts the averages into the model."""
        self.average.apply()


class ProgressBar(ProgressCallback):
    """The training bar with the latest loss and the mean IoU of the tail beside it."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, str] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Prints the log line and updates the bar."""
        super().on_log(args, state, control, logs, **kwargs)
        measures = {"loss": "loss", "eval_mean_iou": "mIoU", "eval_mean_iou_tail": "tail mIoU"}
        for key, name in measures.items():
            if key in (logs or {}):
                self._shown[name] = f"{logs[key]:.3g}"
        if self.training_bar is not None:
            self.training_bar.set_postfix(self._shown)


class GracefulStop(TrainerCallback):
    """Ends training after the present step, with a checkpoint, on Ctrl-C or a termination signal.

    Entered as a context it takes the signals; a second Ctrl-C stops at once.

    Args:
        signals: The signals to take.
        device: Where ranks agree on stopping.
        num_processes: Number of ranks.

    Attributes:
        requested: Whether a signal came.
    """

    def __init__(
        self, signals: tuple[signal.Signals, ...], device: torch.device, num_processes: int
    ) -> None:
        self.signals = signals
        self.device = device
        self.num_processes = num_processes
        self.requested = False
        self._requested_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "GracefulStop":
        self.requested = False
        # Only the main thread may set handlers; elsewhere signals keep their effect.
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._on_signal) for s in self.signals}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _on_signal(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._requested_at = True, now
            print("stopping after this step: saving a checkpoint", file=sys.stderr)
        elif number == signal.SIGINT and now - self._requested_at > _SAME_PRESS:
            raise KeyboardInterrupt

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks for a checkpoint and the end if any rank got a signal."""
        if self.num_processes > 1:
            flag = torch.tensor(float(self.requested), device=self.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            self.requested = bool(flag)
        if self.requested:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leaves out what the end of an epoch, and of training, would do: both are cut short."""
        if self.requested:
            # Trainer would load the best checkpoint and could delete the one to resume from.
            state.best_model_checkpoint = None
            control.should_log = control.should_evaluate = control.should_save = False
