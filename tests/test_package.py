import subprocess
import sys

import aucseg_hf


def test_every_public_name_is_there():
    for name in aucseg_hf.__all__:
        assert getattr(aucseg_hf, name).__name__ == name


def test_losses_bank_and_metrics_need_torch_only():
    script = """
import sys
for name in ("transformers", "datasets", "accelerate", "matplotlib"):
    sys.modules[name] = None  # importing it would raise
import torch
from aucseg_hf import SegmentationMetrics, TailMemoryBank, pixel_auc_loss
logits, labels = torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 1], [1, 255]]])
assert pixel_auc_loss(logits, labels).item() == 1  # every score is 1/2: (gamma - 0)^2
"""
    subprocess.run([sys.executable, "-c", script], check=True)
