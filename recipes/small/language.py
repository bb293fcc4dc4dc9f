"""Trains the adapter of `anomalygpt_small`: low-rank changes of a real language model that answers from facts.

    python -m recipes.small.language --language DIR_OR_ID --output DIR --steps 600 [--resume]

That the language model forgets little, its next words in texts that it wrote itself before are held to what they were.
`--output` then holds `adapter_config.json` and `adapter_model.safetensors` (half precision), with prompt learner and
projector in it. Data and packing are those of `recipes.tiny.language`.
"""

import json
import pathlib
from collections.abc import Sequence

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_anomalygpt.checkpoints import SMALL_BASE, load_checkpoint
from modeling_anomalygpt.composition import with_language_model
from modeling_anomalygpt.training.tuning import TuningArguments, prepare_for_tuning
from recipes.tiny.language import Questions, mixed_by_language, parser, train, words_alike

TEXTS, TEXT_TOKENS = 192, 96
SUBJECTS = (
    "bread", "rain", "trains", "the moon", "chess", "gardens", "whales", "money", "bicycles", "the heart", "music",
    "deserts", "computers", "coffee", "history", "friendship", "rivers", "cooking rice", "numbers", "winter", "birds",
    "the sun", "letters", "a city", "swimming", "paper", "dreams", "volcanoes", "farming", "clocks", "travel", "glass",
)  # fmt: skip
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@torch.inference_mode()
def texts_of_its_own(language_model: str) -> torch.Tensor:
    """What a language model writes about everyday subjects, asked in its own chat format.

    Returns:
        `torch.LongTensor` of shape `(TEXTS, TEXT_TOKENS)`
    """
    tokenizer = AutoTokenizer.from_pretrained(language_model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32).eval()
    asked = [f"Tell me about {subject}." for subject in SUBJECTS]
    chats = [[{"role": "user", "content": text}] for text in asked]
    prompts = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    written = []
    for _ in tqdm(range(TEXTS // len(SUBJECTS)), desc="plain texts"):
        whole = model.generate(**prompts, do_sample=True, min_new_tokens=TEXT_TOKENS, max_new_tokens=TEXT_TOKENS)
        written.append(whole[:, -TEXT_TOKENS:])
    return torch.cat(written)


def save_adapter(adapted: torch.nn.Module, output: pathlib.Path) -> None:
    """Writes an adapter in half precision that names the published base."""
    adapted.save_pretrained(output)
    weights = output / "adapter_model.safetensors"
    halved = {name: value.half().contiguous() for name, value in load_file(weights).items()}
    save_file(halved, weights, {"format": "pt"})
    settings = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = SMALL_BASE
    (output / "adapter_config.json").write_text(
        json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    words = parser()
    words.prog = "python -m recipes.small.language"
    words.description = __doc__.split("\n")[0]
    words.set_defaults(steps=600, batch_size=8, learning_rate=1e-3, english=0.65)
    words.add_argument("--checkpoint", help="whose eyes: folder or Hub id (default: the embedded checkpoint)")
    words.add_argument("--language", default=SMALL_BASE, help="folder or Hub id of the language model")
    words.add_argument("--adapter", type=pathlib.Path, help="folder of an adapter to go on from (default: a new one)")
    words.add_argument("--rank", type=int, default=8, help="rank of the low-rank changes (default: 8)")
    options = words.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    eyes, processor = load_checkpoint(options.checkpoint, device="cpu", dtype="float32")
    model = with_language_model(eyes, processor, options.language, torch.float32)
    tuning = TuningArguments(
        "lora", ["prompt_learner", "multi_modal_projector"], lora_rank=options.rank, lora_alpha=2 * options.rank,
        lora_target=LAYERS,
    )  # fmt: skip
    adapted = prepare_for_tuning(model, tuning)
    if options.adapter:
        set_peft_model_state_dict(adapted, load_file(options.adapter / "adapter_model.safetensors"))
    sizes = (options.steps, options.batch_size, options.seed, options.questions, options.english)
    others = words_alike(model.processor.tokenizer, model.get_input_embeddings())
    plain = texts_of_its_own(options.language)
    mixed = mixed_by_language(options.mixed, options.seed)
    train(adapted, Questions(model.processor, model.config, *sizes, others, plain, mixed=mixed), options)
    save_adapter(adapted, options.output)


if __name__ == "__main__":
    main()
