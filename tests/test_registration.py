"""The auto classes know AnomalyGPT once it is registered, and only then."""

import pathlib
import subprocess
import sys

import pytest
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

import modeling_anomalygpt
from tests.tiny import tiny_config, tiny_pair

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, processor = tiny_pair()
    for part in (model, model.config, processor, processor.image_processor):
        part._auto_class = None  # another test of this process may have asked for code beside the weights
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("auto", "name"),
    [
        (AutoConfig, "AnomalyGPTConfig"),
        (AutoModel, "AnomalyGPTModel"),
        (AutoModelForImageTextToText, "AnomalyGPTForConditionalGeneration"),
        (AutoImageProcessor, "AnomalyGPTImageProcessor"),
        (AutoProcessor, "AnomalyGPTProcessor"),
    ],
)
def test_each_auto_class_loads_ours(folder, auto, name):
    modeling_anomalygpt.register()
    modeling_anomalygpt.register()  # twice does no harm
    assert type(auto.from_pretrained(folder)) is getattr(modeling_anomalygpt, name)


def test_auto_models_are_made_from_a_configuration():
    modeling_anomalygpt.register()
    config = tiny_config()
    assert type(AutoModel.from_config(config)) is modeling_anomalygpt.AnomalyGPTModel
    model = AutoModelForImageTextToText.from_config(config)
    assert type(model) is modeling_anomalygpt.AnomalyGPTForConditionalGeneration


def test_the_first_use_of_a_class_registers_all(folder):
    source = (
        "import sys; from modeling_anomalygpt import AnomalyGPTConfig; from transformers import AutoConfig; "
        "print(type(AutoConfig.from_pretrained(sys.argv[1])) is AnomalyGPTConfig)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(folder)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


def test_a_folder_saved_as_usual_holds_no_code(folder):
    assert not list(folder.glob("*.py"))
