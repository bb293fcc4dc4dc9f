"""The recipe files: every field exists, the values are as documented, accelerate reads its configurations."""

import json
import pathlib

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin
from transformers import AutoModel

from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig

ROOT = pathlib.Path(__file__).parents[2]
RECIPES = ROOT / "modeling_anomalygpt" / "training" / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_field_of_a_recipe_is_a_setting_and_its_value_is_accepted(path, tmp_path):
    from modeling_anomalygpt.cli.train import parse_settings

    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    given = {"output_dir": str(tmp_path), "bf16": False, "use_cpu": True}
    read = {name: value for one in parse_settings(path.stem, given) for name, value in vars(one).items()}
    for name, value in written.items():
        if name not in given:
            assert read[name] == value, name


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_byte_order_mark_is_not_a_part_of_a_recipe(ending, tmp_path):
    from modeling_anomalygpt.training.arguments import read_recipe

    (tmp_path / f"mine.{ending}").write_text('{"learning_rate": 0.5}', encoding="utf-8-sig")
    assert read_recipe(str(tmp_path / f"mine.{ending}")) == {"learning_rate": 0.5}


PUBLISHED = {
    "tuning": "paper", "reference_share": 0.5, "num_train_epochs": 50, "learning_rate": 1e-3, "adam_beta1": 0.9,
    "adam_beta2": 0.95, "weight_decay": 1e-3, "lr_scheduler_type": "linear", "max_grad_norm": 1.0, "max_length": 1024,
}  # fmt: skip


@pytest.mark.parametrize("name", ["paper_mvtec", "paper_visa", "paper_supervised"])
def test_the_papers_settings_are_those_of_the_published_training(name):
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert {field: recipe[field] for field in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize("name", ["fsdp_7b", "deepspeed_zero3_7b"])
def test_accelerate_reads_its_configurations(name):
    config = load_config_from_file(str(ROOT / "recipes" / f"{name}.yaml"))
    assert config.num_processes == 4
    assert str(config.distributed_type).endswith(name.split("_")[0].upper())


def test_the_layers_that_fsdp_wraps_are_in_the_published_model():
    settings = load_config_from_file(str(ROOT / "recipes" / "fsdp_7b.yaml")).fsdp_config
    config = AnomalyGPTConfig()
    with torch.device("meta"):
        parts = torch.nn.ModuleList(
            [AutoModel.from_config(config.text_config), AutoModel.from_config(config.vision_config)]
        )
    names = settings["fsdp_transformer_layer_cls_to_wrap"].split(",")
    kinds = [type(module).__name__ for module in parts.modules()]
    assert all(kinds.count(name) == 32 for name in names)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=settings["fsdp_version"],
        transformer_cls_names_to_wrap=names,
        auto_wrap_policy="transformer_based_wrap",
    )
    plugin.set_auto_wrap_policy(parts)
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"]


def test_the_file_of_deepspeed_exists_and_divides_the_weights():
    settings = load_config_from_file(str(ROOT / "recipes" / "deepspeed_zero3_7b.yaml")).deepspeed_config
    config = json.loads((ROOT / settings["deepspeed_config_file"]).read_text(encoding="utf-8"))
    assert config["zero_optimization"]["stage"] == 3
    assert config["train_micro_batch_size_per_gpu"] == config["gradient_accumulation_steps"] == "auto"
