"""Puts the vision model into an untrained AnomalyGPT, or the results of all stages into the final folder.

    python -m recipes.tiny.assemble start --vision DIR --tokenizer DIR --output DIR
    python -m recipes.tiny.assemble start --earlier DIR --tokenizer DIR --output DIR
    python -m recipes.tiny.assemble grow --checkpoint DIR --layers 9 --output DIR
    python -m recipes.tiny.assemble finish --checkpoint DIR --output DIR

`finish` sets what ends an answer and stores half-precision weights. Nothing is left to choose on data: maps are
relative to what is normal on a part, so a region is where a map reaches 0.5.
"""

import argparse
import copy
import pathlib
from collections.abc import Sequence

import torch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from recipes.tiny.composition import untrained
from recipes.tiny.tokenizer import VECTORS


def start(
    vision: pathlib.Path | None, earlier: pathlib.Path | None, tokenizer: pathlib.Path, output: pathlib.Path
) -> None:
    """The vision model of `recipes.tiny.vision`, or all but the language model of an earlier checkpoint.

    The rest is random. The word vectors are those of `recipes.tiny.tokenizer`.
    """
    if earlier:
        whole = AnomalyGPTForConditionalGeneration.from_pretrained(earlier, dtype=torch.float32)
        tower, kept = whole.model.vision_tower, whole.state_dict()
    else:
        tower = AutoModel.from_pretrained(vision, dtype=torch.float32)
        kept = {f"model.vision_tower.{name}": value for name, value in tower.state_dict().items()}
    torch.manual_seed(0)
    model, processor = untrained(tower.config.to_dict(), tokenizer)
    language = ("model.language_model.", "lm_head.")
    kept = {name: value for name, value in kept.items() if not name.startswith(language)}
    model.load_state_dict(kept, strict=False)
    vectors = load_file(tokenizer / VECTORS)["vectors"]
    model.get_input_embeddings().weight.data.copy_(vectors)
    model.save_pretrained(output)
    processor.save_pretrained(output)


def grow(checkpoint: pathlib.Path, layers: int, output: pathlib.Path) -> None:
    """More layers in the language model, which says the same as before until it is trained.

    Copies stand evenly behind the layers that they were made of, with outputs of zero (arXiv 2401.02415).

    Raises:
        ValueError: If there are not more layers than before, and at most twice as many.
    """
    model = AnomalyGPTForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    language, config = model.model.language_model, model.config.text_config
    before = config.num_hidden_layers
    if not before < layers <= 2 * before:
        raise ValueError(f"`layers` must be more than {before} and at most {2 * before}, got {layers}. Grow in steps.")
    copied = {(index + 1) * before // (layers - before) - 1 for index in range(layers - before)}
    grown = []
    for index, layer in enumerate(language.layers):
        grown.append(layer)
        if index in copied:
            grown.append(copy.deepcopy(layer))
            torch.nn.init.zeros_(grown[-1].self_attn.o_proj.weight)
            torch.nn.init.zeros_(grown[-1].mlp.down_proj.weight)
    language.layers = torch.nn.ModuleList(grown)
    for number, layer in enumerate(grown):
        layer.self_attn.layer_idx = number
    config.num_hidden_layers = layers
    model.save_pretrained(output)
    AnomalyGPTProcessor.from_pretrained(checkpoint).save_pretrained(output)


def finish(checkpoint: pathlib.Path, output: pathlib.Path) -> None:
    """Stop tokens and half-precision weights."""
    model = AnomalyGPTForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    processor = AnomalyGPTProcessor.from_pretrained(checkpoint)
    model.config.vision_config._name_or_path = ""  # a folder of the machine that made it
    model.generation_config.eos_token_id = processor.stop_token_ids
    model.generation_config.suppress_tokens = [model.config.image_token_id]
    model.half().save_pretrained(output)
    processor.save_pretrained(output)
    size = sum(file.stat().st_size for file in output.iterdir() if file.is_file()) / 1e6
    print(f"{model.num_parameters() / 1e6:.2f} M parameters; {size:.1f} MB -> {output}")


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m recipes.tiny.assemble", description=__doc__, formatter_class=plain)
    stages = parser.add_subparsers(dest="stage", required=True)
    first = stages.add_parser("start", help="vision model and tokenizer into an untrained checkpoint")
    eyes = first.add_mutually_exclusive_group(required=True)
    eyes.add_argument("--vision", type=pathlib.Path, help="folder of recipes.tiny.vision")
    eyes.add_argument("--earlier", type=pathlib.Path, help="checkpoint of which all but the language model is kept")
    first.add_argument("--tokenizer", type=pathlib.Path, required=True)
    first.add_argument("--output", type=pathlib.Path, required=True)
    more = stages.add_parser("grow", help="more layers in the language model, which says the same until it is trained")
    more.add_argument("--checkpoint", type=pathlib.Path, required=True)
    more.add_argument("--layers", type=int, required=True)
    more.add_argument("--output", type=pathlib.Path, required=True)
    last = stages.add_parser("finish", help="stop tokens and half precision")
    last.add_argument("--checkpoint", type=pathlib.Path, required=True)
    last.add_argument("--output", type=pathlib.Path, required=True)
    options = vars(parser.parse_args(arguments))
    {"start": start, "grow": grow, "finish": finish}[options.pop("stage")](**options)


if __name__ == "__main__":
    main()
