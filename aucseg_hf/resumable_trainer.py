"""ResumableTrainer: transformers' Trainer with whole checkpoints from which it resumes exactly."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints
from transformers.utils import logging

from aucseg_hf.callbacks import AverageCallback, CallOnTrainBegin, GracefulStop
from aucseg_hf.checkpoints import (
    check_same_model,
    damage,
    newest_whole_checkpoint,
    set_aside,
    whole_checkpoint,
)
from aucseg_hf.errors import InputError
from aucseg_hf.training_log import TrainingLog
from aucseg_hf.weight_average import WeightAverage

logger = logging.get_logger(__name__)

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TRAINED_WEIGHTS = "trained_weights.pt"


class ResumableTrainer(Trainer):
    """Saves whole checkpoints only, finds the newest of them, and repeats an uninterrupted run.

    With `args.ema_decay`, evaluation and saved models have the averaged weights; the trained ones
    lie beside them in a checkpoint.

    Args:
        *args: As for `transformers.Trainer`.
        **kwargs: As for `transformers.Trainer`; `args` has to be `AUCSegTrainingArguments`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.training_log = TrainingLog(self.args.device)
        self.average: WeightAverage | None = None
        if self.args.ema_decay is not None:
            self.average = WeightAverage(self.model, self.args.ema_decay)
            self.add_callback(AverageCallback(self.average))
        self.skipped_steps = 0
        self._log_state: dict[str, Any] | None = None
        self.add_callback(CallOnTrainBegin(self._go_on))

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """Trains as `transformers.Trainer.train` does, also after `evaluate`.

        On Ctrl-C or a termination signal the present step is finished and a checkpoint written.

        Args:
            resume_from_checkpoint: A checkpoint, or True for the newest whole one in the output
                folder. With `args.resume`, the newest one if there is any.
            *args: As for `transformers.Trainer.train`.
            **kwargs: As for `transformers.Trainer.train`.

        Raises:
            InputError: If the checkpoint is damaged, of another model, or there is none.
            KeyboardInterrupt: After the checkpoint that a signal asked for.
        """
        checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
        # accelerate marks a model that was only evaluated as prepared and then does not wrap it for
        # distributed training: without a word, each rank would train on its own.
        if self.args.world_size > 1 and self.model_wrapped is self.model:
            self.model._is_accelerate_prepared = False
        signals = (signal.SIGINT,) if self.args.enable_jit_checkpoint else _STOP_SIGNALS
        with GracefulStop(signals, self.args.device, self.args.world_size) as stop:
            self.add_callback(stop)
            try:
                output = super().train(checkpoint, *args, **kwargs)
            finally:
                self.remove_callback(stop)
        if stop.requested:
            step = self.state.global_step
            raise KeyboardInterrupt(
                f"stopped after step {step}; {self._checkpoint_folder(None)} is saved: start again "
                "with --resume to go on from there"
            )
        return output

    def _checkpoint_to_resume(self, given: str | bool | None) -> str | None:
        if isinstance(given, (str, os.PathLike)):
            if problem := damage(given):
                raise InputError(f"cannot resume from {given}: {problem}")
            return str(given)
        if given or (given is None and self.args.resume):
            newest = newest_whole_checkpoint(self.args.output_dir)
            if newest is not None:
                return str(newest)
            if given:
                raise InputError(
                    f"cannot resume: expected a whole checkpoint-N in {self.args.output_dir}, "
                    "found none"
                )
        return None

    # Saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model, with its averaged weights where there are any."""
        with self._averaged_weights():
            super().save_model(output_dir, _internal_call)

    def _averaged_weights(self) -> Any:
        return self.average.applied() if self.average is not None else nullcontext()

    def _checkpoint_folder(self, trial: Any, step: int | None = None) -> Path:
        step = self.state.global_step if step is None else step
        return Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{step}")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As Trainer's, but written elsewhere, then renamed; only then older ones are deleted."""
        folder = self._checkpoint_folder(trial)
        if self.hp_search_backend is None and trial is None:
            self.store_flos()
        with (
            self.training_log.paused(),
            whole_checkpoint(
                folder, self.args.should_save, self.accelerator.wait_for_everyone
            ) as part,
        ):
            self.save_model(str(part), _internal_call=True)
            if not self.args.save_only_model:
                self._save_optimizer_and_scheduler(str(part))
                self._save_scaler(str(part))
                self._save_rng_state(str(part))
                self._save_rank_state(part)
            if self.state.best_global_step:
                best = self._checkpoint_folder(trial, self.state.best_global_step)
                if best == folder or best.is_dir():
                    self.state.best_model_checkpoint = str(best)
            if self.args.should_save:
                self._keep_callback_states()
                self.state.save_to_json(str(part / TRAINER_STATE_NAME))
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(folder.parent),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _keep_callback_states(self) -> None:
        states: dict[str, Any] = {}
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                states.setdefault(type(callback).__name__, []).append(callback.state())
        # One of a kind stands alone, several stand in a list: as TrainerState has it.
        self.state.stateful_callbacks = {
            name: found[0] if len(found) == 1 else found for name, found in states.items()
        }

    def _save_rank_state(self, folder: Path) -> None:
        """Saves what this rank alone knows."""
        state = {
            "loss": self._tr_loss,
            "last_logged": self._globalstep_last_logged,
            "log": self.training_log.state_dict(),
            "skipped_steps": self.skipped_steps,
        }
        torch.save(state, folder / f"log_{self.args.process_index}.pt")
        if self.average is not None and self.args.should_save:
            torch.save(self._plain_model().state_dict(), folder / _TRAINED_WEIGHTS)

    # Loading

    def _plain_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        if not self._load_weights(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        trained = Path(resume_from_checkpoint, _TRAINED_WEIGHTS)
        if self.average is not None and trained.is_file():
            state = torch.load(trained, weights_only=True, map_location="cpu")
            self._plain_model().load_state_dict(state)

    def _load_best_model(self) -> None:
        if not self._load_weights(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _load_weights(self, checkpoint: str) -> bool:
        """Loads weights the way `from_pretrained` does, which knows the key names that were saved.

        Trainer's own loading matches raw key names non-strictly: of SegFormer's it finds 8 in 124.

        Returns:
            Whether it did; sharded and foreign models are left to Trainer.
        """
        model = self._plain_model()
        if (
            self.is_deepspeed_enabled
            or self.is_fsdp_enabled
            or not isinstance(model, PreTrainedModel)
        ):
            return False
        check_same_model(checkpoint, model.config)
        loaded = type(model).from_pretrained(checkpoint, config=model.config)
        model.load_state_dict(loaded.state_dict(), strict=True)
        if self.average is not None:
            self.average.reset()
        return True

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_rank_state(Path(checkpoint))

    def _load_rank_state(self, checkpoint: Path) -> None:
        """Restores what `_save_rank_state` saved."""
        file = checkpoint / f"log_{self.args.process_index}.pt"
        if file.is_file():
            self._log_state = torch.load(file, weights_only=True, map_location="cpu")

    def _go_on(self) -> None:
        """Goes on with the folder, the log line and the patience that were interrupted."""
        if self.state.global_step and self.args.should_save:
            set_aside(self.args.output_dir, after_step=self.state.global_step)
        self.training_log.clear()
        self.training_log.start()
        if self._log_state is None:
            return
        state, self._log_state = self._log_state, None
        self._tr_loss += state["loss"].to(self._tr_loss.device)
        self._globalstep_last_logged = state["last_logged"]
        self.training_log.load_state_dict(state["log"])
        self.skipped_steps = state["skipped_steps"]
        saved = self.state.stateful_callbacks.get(EarlyStoppingCallback.__name__)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback) and isinstance(saved, dict):
                for name, value in saved["attributes"].items():
                    setattr(callback, name, value)
