"""The processor saved, loaded, sent away, and called by transformers' own entry points."""

import base64
import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, pipeline

from modeling_anomalygpt.checkpoints import register
from modeling_anomalygpt.image_processing_anomalygpt import AnomalyGPTImageProcessor
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from modeling_anomalygpt.processing_anomalygpt import CHAT_TEMPLATE, AnomalyGPTProcessor
from tests.tiny import TEXT_CONFIG, tiny_config
from tests.tiny_processor import make_processor, picture


@pytest.fixture
def processor():
    return make_processor()


@pytest.mark.parametrize("class_tokenizer", [True, False])
def test_a_saved_processor_comes_back_the_same(tmp_path, class_tokenizer):
    register()
    processor = make_processor(class_tokenizer, num_image_tokens=2, state_prompt_length=32)
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "class_tokenizer").is_dir() == class_tokenizer
    assert (tmp_path / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "anomalygpt"}))
    arguments = {"images": picture(), "text": "Good?", "category": "bolt", "return_tensors": "pt"}
    expected = processor(**arguments)
    for again in (
        AnomalyGPTProcessor.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
        pickle.loads(pickle.dumps(processor)),
    ):
        assert again.to_dict() == processor.to_dict()
        inputs = again(**arguments)
        assert set(inputs) == set(expected)
        for name in expected:
            torch.testing.assert_close(inputs[name], expected[name])
    assert repr(processor).startswith("AnomalyGPTProcessor")


def test_a_saved_processor_loads_where_the_package_is_absent(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint"
    monkeypatch.setattr(AnomalyGPTProcessor, "_auto_class", "AutoProcessor")
    monkeypatch.setattr(AnomalyGPTImageProcessor, "_auto_class", "AutoImageProcessor")
    processor = make_processor()
    processor.save_pretrained(folder)
    program = (
        "import sys, numpy as np; from transformers import AutoProcessor;"
        f"p = AutoProcessor.from_pretrained({str(folder)!r}, trust_remote_code=True);"
        "x = p(images=np.zeros((9, 9, 3), np.uint8), text='Good?', category='bolt', return_tensors='pt');"
        "assert 'modeling_anomalygpt' not in sys.modules; print(x['input_ids'].shape[1], x['state_prompt_ids'].shape)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "HF_MODULES_CACHE": str(tmp_path / "m")
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = processor(images=picture(), text="Good?", category="bolt", return_tensors="pt")
    assert done.stdout.split("\n")[-2] == f"{expected['input_ids'].shape[1]} {expected['state_prompt_ids'].shape}"


def test_pictures_inside_messages_may_be_paths_or_base64_text(processor, tmp_path):
    path = tmp_path / "part.png"
    Image.fromarray(picture()).save(path)
    encoded = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    expected = processor(images=picture(), text="Good?", return_tensors="pt")["pixel_values"]
    for part in ({"path": str(path)}, {"url": str(path)}, {"image": path}, {"url": encoded}):
        messages = [{"role": "user", "content": [{"type": "image", **part}, {"type": "text", "text": "Good?"}]}]
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        torch.testing.assert_close(inputs["pixel_values"], expected)


@pytest.fixture(scope="module")
def generator():
    processor = make_processor(False)
    image_token = processor.image_token_id
    text_config = TEXT_CONFIG | {"vocab_size": image_token + 1, "pad_token_id": image_token - 1}
    config = tiny_config(text_config=text_config, text_tower_config=None, image_token_index=image_token)
    model = AnomalyGPTForConditionalGeneration(config).eval()
    return pipeline("image-text-to-text", model=model, processor=processor)


def test_the_image_text_to_text_pipeline_takes_texts_and_chats(generator):
    pil = Image.fromarray(picture())
    options = {"max_new_tokens": 3, "do_sample": False}
    direct = generator(images=pil, text="<image> Is it good?", return_full_text=False, **options)
    messages = [
        {"role": "user", "content": [{"type": "image", "image": pil}, {"type": "text", "text": "Is it good?"}]}
    ]
    chatted = generator(text=messages, return_full_text=False, **options)
    assert direct[0]["generated_text"] == chatted[0]["generated_text"]
    both = generator(images=[pil, pil], text=["Is it good?", "Is this part really good?"], **options)
    inputs = generator.processor(images=pil, text="Is it good?", return_tensors="pt")
    stopping = generator.processor.stopping_criteria()
    assert generator.model.generate(**inputs, stopping_criteria=stopping, **options).shape[0] == 1
    assert [one["input_text"] for one in both] == ["Is it good?", "Is this part really good?"]
