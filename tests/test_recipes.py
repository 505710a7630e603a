import pytest
import torch
import yaml
from conftest import ROOT

from aucseg_hf import AUCSegConfig, AUCSegForSemanticSegmentation, AUCSegTrainingArguments
from aucseg_hf.cli import parse_with_recipe
from aucseg_hf.configuration_aucseg import SEGFORMER_SIZES
from aucseg_hf.data import load_benchmark
from aucseg_hf.data.arguments import DataArguments
from aucseg_hf.data.benchmark_table import ROWS
from aucseg_hf.data.benchmarks import NAMES

RECIPES = {path.stem: path for path in (ROOT / "scripts/recipes").glob("*.yaml")}
PUBLISHED = sorted(RECIPES.keys() - {"scenes", "camvid"})

TYPES = (DataArguments, AUCSegTrainingArguments)


def read(name):
    return yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))


def test_every_benchmark_has_its_recipes():
    sized = {f"{name}_{kind}" for name in ROWS for kind in ("b0", "b5", "upernet")}
    expected = {name for name in sized if not name.startswith("camvid")} | {"scenes", "camvid"}
    assert set(RECIPES) == expected


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_parse_into_the_arguments(name):
    recipe = read(name)
    arguments = [str(RECIPES[name]), "--use_cpu"]
    data, args = parse_with_recipe(TYPES, arguments, {}, lambda _: None)
    assert data.dataset in NAMES
    # YAML reads 1e-3 as text.
    assert isinstance(args.learning_rate, float)
    assert args.max_steps == recipe["max_steps"] > args.warmup_steps
    assert args.eval_steps == args.save_steps
    assert all(side % 32 == 0 for side in data.crop_size or [])
    assert args.output_dir == f"outputs/{name}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    """The table of settings in AUCSeg's paper and code, weights in the scale of the definition."""
    recipe = read(name)
    method = {
        "cityscapes": (0.5, 1, 1),
        "ade20k": (2, 0.05, 0.4),
        "coco_stuff_164k": (0.5, 0.05, 0.1),
    }
    given = tuple(recipe[key] for key in ("auc_weight", "sample_ratio", "resize_ratio"))
    assert given == method[recipe["dataset"]]
    assert (recipe["ce_weight"], recipe["memory_size"]) == (1, 5)
    optimiser = ("learning_rate", "weight_decay", "warmup_steps", "lr_scheduler_type")
    assert tuple(recipe[key] for key in optimiser) == (6e-5, 0.01, 1500, "linear")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_crops_and_steps(name):
    recipe = read(name)
    dataset, _, kind = name.rpartition("_")
    assert recipe["dataset"] == dataset
    num_labels = ROWS[dataset].info.num_labels
    if kind == "upernet":
        assert recipe["model"] == "openmmlab/upernet-swin-tiny"  # has the 150 classes of ADE20K
        assert recipe.get("replace_head", False) == (num_labels != 150)
        expected = {"cityscapes": ([512, 1024], 80000), "ade20k": ([512, 512], 160000)}
    else:
        assert recipe["model"] == f"nvidia/mit-{kind}"
        assert kind in SEGFORMER_SIZES
        side = 640 if kind == "b5" else 512
        expected = {"cityscapes": ([1024, 1024], 160000), "ade20k": ([side, side], 160000)}
    settings = expected.get(dataset, ([512, 512], 80000))
    assert (recipe["crop_size"], recipe["max_steps"]) == settings


@pytest.mark.parametrize("name", ["scenes", "camvid"])
def test_models_from_scratch_are_built(name):
    recipe = read(name)
    info = ROWS[name].info if name in ROWS else load_benchmark(name).info
    with torch.device("meta"):
        config = AUCSegConfig.from_size(recipe["model"], id2label=info.id2label)
        model = AUCSegForSemanticSegmentation(config)
    assert model.decode_head.classifier.out_channels == info.num_labels
    assert [info.class_names[info.class_id(tail)] for tail in recipe.get("tail_classes", [])] == (
        recipe.get("tail_classes", [])
    )
