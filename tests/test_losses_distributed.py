"""The loss over real processes (gloo) equals that of one process on the concatenated batch."""

import itertools

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from loss_reference import random_batch, relative_error

from aucseg_hf.errors import InputError
from aucseg_hf.losses import SegmentationLoss, segmentation_loss

OPTIONS = [
    {"surrogate": surrogate, "scheme": scheme, "score": score}
    for surrogate, scheme, score in itertools.product(
        ["square", "exp"], ["ovo", "ova"], ["sigmoid", "softmax"]
    )
] + [
    {"surrogate": "hinge", "class_weights": [1.0, 3.0, 0.5, 2.0, 1.0], "label_smoothing": 0.2},
    {"surrogate": "logistic"},
]


def batches(world_size):
    """Per rank: images, labels. Class 2 is on rank 0 only, rank 1 is void, the sizes differ."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for rank in range(world_size):
        count = rank + 1
        _, labels = random_batch(batch=count, full=(12, 10), seed=rank)
        if rank > 0:
            labels[labels == 2] = 1
        if rank == 1:
            labels[:] = 255
        result.append((torch.randn(count, 3, 6, 5, generator=generator), labels))
    return result


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Tanh(), torch.nn.Conv2d(8, 5, 1))


def run(rank, world_size, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    images, labels = batches(world_size)[rank]
    results = []
    for options in OPTIONS:
        model = torch.nn.parallel.DistributedDataParallel(make_model())
        criterion = SegmentationLoss(**options, process_group=dist.group.WORLD)
        output = criterion(model(images), labels)
        output.loss.backward()
        results.append((output, [p.grad for p in model.parameters()]))
    with pytest.raises(InputError, match="expected gamma >= 1 for a hinge over several ranks"):
        segmentation_loss(
            model(images), labels, surrogate="hinge", gamma=0.5, process_group=dist.group.WORLD
        )
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_equal_one_process(tmp_path, world_size):
    mp.spawn(run, args=(world_size, str(tmp_path)), nprocs=world_size)
    images, labels = (torch.cat(parts) for parts in zip(*batches(world_size), strict=True))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(world_size)]
    for options, *results in zip(OPTIONS, *ranks, strict=True):
        model = make_model()
        want = segmentation_loss(model(images), labels, **options)
        want.loss.backward()
        for output, gradients in results:
            for part, reference in zip(output, want, strict=True):
                assert part.item() == pytest.approx(reference.item(), rel=1e-6), options
            for got, parameter in zip(gradients, model.parameters(), strict=True):
                assert relative_error(got, parameter.grad) < 1e-5, options


def test_losses_of_single_ranks_do_not_average_to_it():
    parts = batches(2)
    model = make_model()
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    together = segmentation_loss(model(images), labels).auc
    apart = [segmentation_loss(model(x), y).auc for x, y in parts]
    assert abs(sum(apart) / 2 - together) > 0.1 * together
