"""Trains the adapter of `anomalygpt_small`: low-rank changes of a real language model that answers from facts.

    python -m recipes.small.language --language DIR_OR_ID --output DIR --steps 2000 [--resume]

That the language model forgets little, its next words in texts that it wrote itself before are held to what they were.
`--output` then holds `adapter_config.json` and `adapter_model.safetensors` (half precision), with prompt learner and
projector in it. Data, packing and questions without an answer are those of `recipes.tiny.language`.
"""

import json
import pathlib
import types
from collections.abc import Sequence

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_anomalygpt.checkpoints import SMALL_BASE, load_checkpoint
from modeling_anomalygpt.composition import with_language_model
from modeling_anomalygpt.conversations.grounded import load_questions
from recipes.tiny.language import HALF_PRECISION, Questions, mixed_by_language, parser, train, words_alike

TEXTS, TEXT_TOKENS = 96, 96  # after each beginning
# Plain text, then conversations in the chat format of SmolLM2, most of them begun by a short question.
BEGINNINGS = ("<|endoftext|>", *(f"<|im_start|>user\n{word}" for word in ("", "What", "How", "Which", "Who")))
TOPIC_HEAD, TOPIC_QUESTIONS = "topic_head", 8  # fewer about a picture: plain attention keeps length squared
LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@torch.inference_mode()
def texts_of_its_own(language_model: str) -> torch.Tensor:
    """What a language model writes when it is given nothing but a beginning.

    Returns:
        `torch.LongTensor` of shape `(len(BEGINNINGS) * TEXTS, TEXT_TOKENS)`
    """
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    model = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32).eval()
    written = []
    for beginning in tqdm(BEGINNINGS, desc="plain texts"):
        start = tokenizer([beginning] * TEXTS, return_tensors="pt")
        written.append(model.generate(**start, do_sample=True, top_k=0, eos_token_id=None, max_length=TEXT_TOKENS))
    return torch.cat(written)


class LowRankProduct(torch.autograd.Function):
    """`inputs @ (weight + up @ down).T` as one product; `weight` is frozen.

    Products apart and then added, as PEFT takes them, move more memory than they compute.
    """

    @staticmethod
    def forward(ctx, inputs, weight, down, up):
        down, up = down.to(weight.dtype), up.to(weight.dtype)
        rows, changed = inputs.to(weight.dtype).flatten(0, -2), torch.addmm(weight, up, down)
        ctx.save_for_backward(rows, changed, down, up)
        ctx.shape, ctx.dtype = inputs.shape, inputs.dtype
        return (rows @ changed.T).unflatten(0, inputs.shape[:-1])

    @staticmethod
    def backward(ctx, gradient):
        rows, changed, down, up = ctx.saved_tensors
        outer = gradient.flatten(0, -2)
        of_inputs = (outer @ changed).view(ctx.shape).to(ctx.dtype)
        return of_inputs, None, ((outer @ up).T @ rows).float(), (outer.T @ (rows @ down.T)).float()


def low_rank_product(layer: Linear, inputs: torch.Tensor) -> torch.Tensor:
    """What a linear layer of PEFT computes without dropout."""
    if layer.disable_adapters:
        return layer.base_layer(inputs)
    (name,) = layer.active_adapters
    scaled = layer.scaling[name] * layer.lora_B[name].weight
    product = LowRankProduct.apply(inputs, layer.base_layer.weight, layer.lora_A[name].weight, scaled)
    return product if layer.base_layer.bias is None else product + layer.base_layer.bias


def quicken(language_model: torch.nn.Module) -> None:
    """Makes a step of an adapted language model some three times as fast where products are taken in bfloat16.

    Frozen weights are kept in bfloat16, layers are compiled, and attention is plain products: the fused one has no
    fast backward pass for masks.
    """
    for parameter in language_model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    for layer in language_model.modules():
        if isinstance(layer, Linear):
            layer.forward = types.MethodType(low_rank_product, layer)
    language_model.set_attn_implementation("eager")
    for layer in language_model.layers:
        layer.compile(dynamic=True)


def save_adapter(adapted: torch.nn.Module, output: pathlib.Path) -> None:
    """Writes an adapter in half precision that names the published base, without what read the topics."""
    adapted.save_pretrained(output)
    weights = output / "adapter_model.safetensors"
    halved = {name: value.half() for name, value in load_file(weights).items() if TOPIC_HEAD not in name}
    save_file(halved, weights, {"format": "pt"})
    settings = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = SMALL_BASE
    settings["modules_to_save"].remove(TOPIC_HEAD)
    (output / "adapter_config.json").write_text(
        json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    words = parser()
    words.prog = "python -m recipes.small.language"
    words.description = __doc__.split("\n")[0]
    words.set_defaults(steps=2000, batch_size=8, questions=6, unanswered=18, learning_rate=1e-3, english=0.75)
    words.add_argument("--checkpoint", help="whose eyes: folder or Hub id (default: the embedded checkpoint)")
    words.add_argument("--language", default=SMALL_BASE, help="folder or Hub id of the language model")
    words.add_argument("--adapter", type=pathlib.Path, help="folder of an adapter to go on from (default: a new one)")
    words.add_argument("--rank", type=int, default=8, help="rank of the low-rank changes (default: 8)")
    options = words.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    eyes, processor = load_checkpoint(options.checkpoint, device="cpu", dtype="float32")
    model = with_language_model(eyes, processor, options.language, torch.float32)
    setattr(model, TOPIC_HEAD, torch.nn.Linear(model.config.text_config.hidden_size, len(load_questions("en"))))
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=options.rank, lora_alpha=2 * options.rank, target_modules=LAYERS,
        modules_to_save=["prompt_learner", "multi_modal_projector", TOPIC_HEAD],
    )  # fmt: skip
    adapted = get_peft_model(model, lora)
    if options.adapter:
        earlier = load_file(options.adapter / "adapter_model.safetensors")
        set_peft_model_state_dict(adapted, get_peft_model_state_dict(adapted) | earlier)
    if HALF_PRECISION:
        quicken(model.model.language_model)
    sizes = (options.steps, options.batch_size, options.seed, options.questions, options.english)
    others = words_alike(model.processor.tokenizer, model.get_input_embeddings())
    plain = texts_of_its_own(options.language)
    mixed = mixed_by_language(options.mixed, options.seed)
    data = Questions(
        model.processor, model.config, *sizes, others, plain, options.unanswered, mixed, TOPIC_QUESTIONS,
        options.by_facts,
    )  # fmt: skip
    train(adapted, data, options)
    save_adapter(adapted, options.output)


if __name__ == "__main__":
    main()
