"""Cards are pure functions of facts; what the Hub reads in them is what was measured."""

import pathlib

import pytest
from huggingface_hub import ModelCard

from modeling_anomalygpt.hub.card import ModelFacts, model_card, readdressed, with_results

ROOT = pathlib.Path(__file__).parents[2]
ROWS = [
    {"category": "bolts", "k_shot": "1", "seed": "0", "image_auroc": "0.8", "pixel_auroc": ""},
    {"category": "bolts", "k_shot": "1", "seed": "1", "image_auroc": "0.9", "pixel_auroc": ""},
    {"category": "bolts", "k_shot": 4, "seed": 0, "image_auroc": 1.0, "pixel_auroc": 0.5, "aupro_0.3": 0.25},
]
FACTS = ModelFacts(
    "me/bolts",
    base_models=["org/vision", "org/words"],
    parts=[("vision tower", "`clip`"), ("language model", "a | b")],
    licences={"vision": "cc-by-nc-sa-4.0", "words": "apache-2.0"},
    datasets=["me/data", "own pictures"],
    training={"steps": 100},
    limits=["Only <b>bolts</b>."],
)


def test_the_front_matter_holds_what_the_hub_looks_for():
    data = ModelCard(model_card(FACTS)).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-text-to-text", "other")
    assert data.base_model == ["org/vision", "org/words"]
    assert data.datasets == ["me/data"]


def test_the_text_shows_use_licences_and_limits():
    text = ModelCard(model_card(FACTS)).text
    assert 'pipeline("anomaly-detection", model="me/bolts", trust_remote_code=True)' in text
    assert "| vision | cc-by-nc-sa-4.0 |" in text
    assert "Only &lt;b>bolts&lt;/b>." in text
    assert "a \\| b" in text
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert len(code.splitlines()) <= 10


@pytest.mark.parametrize(
    ("licences", "expected"),
    [({}, "unknown"), ({"all": "mit"}, "mit"), ({"a": "mit", "b": "mit"}, "mit"), ({"a": "mit", "b": "gpl"}, "other")],
)
def test_one_licence_is_named_and_several_are_other(licences, expected):
    assert ModelCard(model_card(ModelFacts("me/x", licences=licences))).data.license == expected


def test_an_adapter_names_its_model():
    card = ModelCard(model_card(ModelFacts("me/lora", base_models=["me/base"], adapter=True)))
    assert (card.data.library_name, card.data.base_model) == ("peft", ["me/base"])
    assert 'AnomalyInspector.from_pretrained("me/lora")' in card.text
    with pytest.raises(ValueError, match="`base_models` must name the model of an adapter, got none"):
        model_card(ModelFacts("me/lora", adapter=True))


def test_a_card_written_before_the_push_gets_its_address():
    written = model_card(
        ModelFacts(
            "bolt", base_models=["anomalygpt_tiny"], adapter=True, training={"steps": 9}, licences={"all": "mit"}
        )
    )
    whole = ModelCard(readdressed(written, "me/bolts"))
    assert (whole.data.library_name, whole.data.base_model, whole.data.license) == ("transformers", None, "mit")
    assert 'model="me/bolts"' in whole.text
    assert 'model="bolt"' not in whole.text
    assert "| steps | 9 |" in whole.text
    alone = ModelCard(readdressed(written, "me/bolts", "me/base", "cc0-1.0"))
    assert (alone.data.library_name, alone.data.base_model, alone.data.license) == ("peft", ["me/base"], "cc0-1.0")
    assert 'from_pretrained("me/bolts")  # loads me/base and this adapter' in alone.text


def test_a_card_written_by_hand_keeps_its_text_and_gets_licence_and_models():
    text = "\n# Mine\n\nWritten by hand.\n"
    own = f"---\ntags:\n- bolts\nlicense: mit\nbase_model: /home/me/x\n---\n{text}"
    whole = ModelCard(readdressed(own, "me/bolts", licence="cc0-1.0"))
    assert (whole.data.license, whole.data.base_model, whole.data.tags) == ("cc0-1.0", None, ["bolts"])
    assert whole.text == ModelCard(own).text
    assert readdressed(own, "me/bolts").startswith("---\ntags:\n- bolts\nlicense: mit\n")
    assert ModelCard(readdressed(own, "me/bolts", "me/base")).data.base_model == ["me/base"]
    for private in ("./x", "../x", "~/x", "/x"):
        own = f"---\nbase_model: [{private}, org/base]\n---\n{text}"
        assert ModelCard(readdressed(own, "me/bolts")).data.base_model == ["org/base"]


def test_results_are_put_into_a_card_and_its_text_stays():
    before = model_card(ModelFacts("me/x"))
    after = with_results(before, ROWS, "x")
    assert ModelCard(after).text == ModelCard(before).text
    found = {(one.dataset_config, one.metric_type): one.metric_value for one in ModelCard(after).data.eval_results}
    assert found == {
        ("1-shot", "image_auroc"): 0.85,  # the mean of the seeds
        ("4-shot", "image_auroc"): 1.0,
        ("4-shot", "pixel_auroc"): 0.5,
        ("4-shot", "aupro_0.3"): 0.25,
    }
    assert with_results(after, ROWS, "x") == after
