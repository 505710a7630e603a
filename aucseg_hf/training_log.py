"""TrainingLog: what a log line says beside the loss, kept between two lines."""

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class TrainingLog:
    """Collects loss terms, images and time since the last log line.

    Args:
        device: Where the terms are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._terms: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        self._weight = 0.0
        self._images = 0
        self._seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock for what is not training: evaluation and saving."""
        running = self._since is not None
        if running:
            self._seconds += time.perf_counter() - self._since
        yield
        if running:
            self.start()

    def add(self, terms: dict[str, torch.Tensor], weight: float, images: int = 0) -> None:
        """Adds the terms of a batch.

        Args:
            terms: Scalars by name.
            weight: Share of the batch in its optimizer step.
            images: Number of images of the batch, for the throughput.
        """
        for name, value in terms.items():
            self._terms[name] += value.detach() * weight
        self._images += images

    def finish(self, weight: float) -> None:
        """Ends a batch whose terms were added with this weight."""
        self._weight += weight

    def means(
        self, gather: Callable[[torch.Tensor], torch.Tensor], num_processes: int
    ) -> dict[str, float]:
        """Empties the log.

        Args:
            gather: Collects a tensor from all ranks.
            num_processes: Number of ranks.

        Returns:
            The terms, each averaged over optimizer steps and ranks, `images_per_second` of all
            ranks, and `peak_memory_gb` (10^9 bytes; of the GPU since the last line, of the process
            where there is none).
        """
        if not self._terms:
            return {}
        names = sorted(self._terms)
        weight = torch.tensor(self._weight, device=self.device)
        sums = torch.stack([*(self._terms[name].float() for name in names), weight])
        *totals, weights = gather(sums).view(-1, len(sums)).sum(0).tolist()
        pairs = zip(names, totals, strict=True)
        line = {name: total / weights for name, total in pairs if weights}
        with self.paused():
            if self._seconds:
                line["images_per_second"] = self._images * num_processes / self._seconds
        line["peak_memory_gb"] = _peak_memory(self.device) / 1e9
        self.clear()
        return line

    def clear(self) -> None:
        """Forgets what was collected."""
        self._terms.clear()
        self._weight, self._images, self._seconds = 0.0, 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """The collected terms, so that a resumed run logs what the uninterrupted one would."""
        return {"terms": dict(self._terms), "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.clear()
        for name, total in state["terms"].items():
            self._terms[name] += total.to(self.device)
        self._weight = state["weight"]


def _peak_memory(device: torch.device) -> int:
    """Bytes; the count of a GPU starts anew."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
