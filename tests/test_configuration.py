"""The configuration checks itself and survives the way to disk and back."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError

from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from tests.tiny import TEXT_CONFIG, tiny_config


def test_defaults_are_the_published_sizes():
    config = AnomalyGPTConfig()
    assert config.vision_config.hidden_size == 1280
    assert config.vision_config.num_hidden_layers == 32
    assert config.text_config.vocab_size == 32001
    assert config.num_prompt_tokens == 18
    assert config.out_indices == [8, 16, 24, 32]


@pytest.mark.parametrize("tower", [{}, {"text_tower_config": None}], ids=["text tower", "none"])
def test_a_saved_configuration_is_read_back_equal_and_what_is_not_given_follows(tmp_path, tower):
    config = tiny_config(
        decision={"region_threshold": 0.3}, reference_dims=[5, 7], loss_weights={"dice": 0.5}, **tower
    )
    config.save_pretrained(tmp_path)
    assert AnomalyGPTConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert config.loss_weights == {"lm": 1.0, "focal": 1.0, "dice": 0.5}
    assert tiny_config(vision_config=config.vision_config).to_dict() == tiny_config().to_dict()  # object or dictionary
    assert tiny_config(text_config=TEXT_CONFIG | {"tie_word_embeddings": True}).tie_word_embeddings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_sise": 224}, r"fields must be among .*, got \['map_sise'\]"),
        ({"map_temperature": 0.0}, "`map_temperature` must be above 0, got 0.0"),
        ({"map_size": 4}, "`map_size` must be at least 8 for 2 halvings and 4 map prompts, got 4"),
        ({"num_map_prompts": 5}, "`num_map_prompts` must be a square number, got 5"),
        ({"num_base_prompts": 0}, "`num_base_prompts` must be between 1 and 4096, got 0"),
        ({"reference_pooling": 2}, "`reference_pooling` must be odd, one window or several, got 2"),
        ({"reference_pooling": [1, 4]}, r"`reference_pooling` must be odd, one window or several, got \[1, 4\]"),
        ({"reference_pooling": []}, r"`reference_pooling` must be odd, one window or several, got \[\]"),
        ({"reference_dims": [8]}, r"`reference_dims` must be None or one width for each of the 2 .*, got \[8\]"),
        ({"decision": {"region_threshold": 1.0}}, r"`decision\['region_threshold'\]` must be between .*, got 1.0"),
        ({"decision": {"undecided_margin": -1}}, r"`decision\['undecided_margin'\]` must be between 0 and .*, got -1"),
        ({"decision": {"map_weight": float("nan")}}, r"`decision\['map_weight'\]` must be a number, got nan"),
        ({"decision": {"map_weight": "2"}}, r"`decision\['map_weight'\]` must be a number, got '2'"),
        ({"decision": {"match_exposure": 1}}, r"`decision\['match_exposure'\]` must be true or false, got 1"),
        ({"decision": {"margin": 0.1}}, r"`decision` entries must be among .*undecided_margin.*, got 'margin'"),
        ({"self_similarity": 1.5}, "`self_similarity` must be between 0 and 1, got 1.5"),
        ({"map_smoothing": -1}, "`map_smoothing` must be between 0 and 64, got -1"),
        ({"vision_config": {"model_type": "anomalygpt_vision", "read_blocks": [11]}}, "`read_blocks` must be indices"),
        ({"out_indices": []}, r"`out_indices` must be one or more indices from 0 up, got \[\]"),
        ({"out_indices": [5]}, r"`out_indices` must be at most 4, the depth of `vision_config`, got \[5\]"),
        ({"prompt_channels": []}, r"`prompt_channels` must be one or more positive numbers, got \[\]"),
        ({"loss_weights": {"focl": 1.0}}, r"`loss_weights` must have keys lm, focal, dice, got \['focl'\]"),
        ({"loss_weights": {"lm": float("nan")}}, r"`loss_weights\['lm'\]` must be finite and at least 0, got nan"),
        ({"loss_weights": {"dice": -1.0}}, r"`loss_weights\['dice'\]` must be finite and at least 0, got -1"),
        ({"loss_weights": {"focal": float("inf")}}, r"`loss_weights\['focal'\]` must be finite .*, got inf"),
        ({"vision_config": {"model_type": "eyes"}}, "`vision_config` must name a `model_type` .*, got 'eyes'"),
        ({"text_config": {"hidden_size": 8}}, "`text_config` must name a `model_type` .*, got None"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused_by_name_and_value(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


def test_decision_entries_that_are_not_given_keep_their_value(tmp_path):
    config = tiny_config(decision={"undecided_margin": 0.3})
    assert config.decision | {"undecided_margin": 0.15} == tiny_config().decision
    config.decision = {"region_threshold": 0.25}
    assert (config.decision["undecided_margin"], config.decision["region_threshold"]) == (0.3, 0.25)
    config.save_pretrained(tmp_path)
    loaded = AnomalyGPTConfig.from_pretrained(tmp_path, decision={"map_weight": 3.0})
    assert loaded.decision == config.decision | {"map_weight": 3.0}
    with pytest.raises(ValueError, match=r"`decision\['map_weight'\]` must be between 0 and 1000, got -1"):
        AnomalyGPTConfig.from_pretrained(tmp_path, decision={"map_weight": -1})


def test_files_written_before_the_decision_group_still_load(tmp_path):
    former = {"relative_maps": True, "normal_distance": 0.32, "match_exposure": True, "region_threshold": 0.4}
    saved = tiny_config().to_dict()
    del saved["decision"]
    (tmp_path / "config.json").write_text(json.dumps(saved | former))
    config = AnomalyGPTConfig.from_pretrained(tmp_path)
    names = {"normalised_maps": True, "match_exposure": True, "region_threshold": 0.4}
    assert config.decision == tiny_config(decision=names).decision
    assert not former.keys() & config.to_dict().keys()


def test_decision_entries_that_nothing_reads_any_more_are_passed_over(tmp_path):
    saved = tiny_config().to_dict()
    saved["decision"] |= {"prior_normal_score": 0.32, "max_growth": 1.4}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert AnomalyGPTConfig.from_pretrained(tmp_path).decision == tiny_config().decision


def test_a_field_of_the_wrong_type_is_refused():
    with pytest.raises(StrictDataclassFieldValidationError, match="map_size"):
        tiny_config(map_size="large")
