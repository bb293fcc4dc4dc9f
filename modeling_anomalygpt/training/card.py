"""The model card of a trained model: what was trained, on what, with which settings, how it measured."""

import importlib.metadata
import os
import pathlib
import re
from typing import Any

from ..files import write_atomically
from ..hub.card import ModelFacts, model_card
from .tuning import describe_tuning

_VERSIONS = ("torch", "transformers", "peft", "accelerate", "datasets")


def write_training_card(folder: str | os.PathLike, trainer: Any) -> None:
    """Writes README.md beside a trained model.

    Args:
        folder (`str` or `os.PathLike`): Where the model was saved; its name becomes the model's.
        trainer ([`AnomalyTrainer`]): Has trained.
    """
    base = _base_of(trainer.model)
    data = getattr(trainer.train_dataset, "training_data", None)
    sets = data()["datasets"] if data else []
    recipe = {name: value for name, value in trainer.facts()["recipe"].items() if value not in (None, {}, "")}
    measured = _measured(trainer)
    losses = next((entry for entry in reversed(trainer.state.log_history) if "loss_lm" in entry), {})
    trained = describe_tuning(trainer.model, trainer.recipe.get("tuning", "training"))
    training: dict[str, Any] = {"trained": trained, "steps": trainer.state.global_step}
    training |= {f"last training {name}": f"{losses[name]:.4f}" for name in sorted(losses) if name.startswith("loss")}
    training |= {
        f"measured {name.removeprefix('eval_')} (step {measured['step']})": f"{value:.4f}"
        for name, value in measured.items()
        if name.startswith("eval_") and not name.endswith(("runtime", "per_second"))
    }
    training |= recipe | {f"version of {name}": importlib.metadata.version(name) for name in _VERSIONS}
    licence = _licence_of(base)
    facts = ModelFacts(
        repo_id=pathlib.Path(folder).resolve().name,
        base_models=[pathlib.PurePath(base).name if base and os.path.isabs(base) else base or "AnomalyGPT"],
        adapter=os.path.isfile(os.path.join(folder, "adapter_config.json")),
        datasets=[
            f"{one['name']} (split {one['split']}, {one['num_rows']} pictures, labels {one['labels']})" for one in sets
        ],
        training=training,
        licences={"the checkpoint it was trained from": licence, "the pictures": "unknown"} if licence else {},
        limits=_limits(sets),
        category=next(iter(getattr(trainer.train_dataset, "categories", ())), "object"),
    )
    write_atomically(pathlib.Path(folder) / "README.md", model_card(facts))


def _measured(trainer: Any) -> dict[str, Any]:
    """What was measured of the weights that are kept: the last, or those of the best step."""
    entries = [entry for entry in reversed(trainer.state.log_history) if "eval_loss_lm" in entry]
    if trainer.args.load_best_model_at_end and trainer.state.best_global_step:
        entries = [entry for entry in entries if entry["step"] == trainer.state.best_global_step]
    return next(iter(entries), {})


def _limits(sets: list[dict[str, Any]]) -> list[str]:
    limits = [
        "The licence of what was trained follows those of the checkpoint and of the pictures; state it before sharing."
    ]
    real = [f"{one['name']} ({one['split']})" for one in sets if one["labels"] in ("supervised", "defects")]
    if real:
        limits.append(f"Trained with the labels of {', '.join(real)}: scores on these pictures prove nothing.")
    return limits


def _base_of(model: Any) -> str | None:
    """Name of the checkpoint that was trained; folders of this machine are named in the card by their last part."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner, "name_or_path", None) or None


def _licence_of(base: str | None) -> str | None:
    """What the checkpoint's own card says."""
    card = pathlib.Path(base or "") / "README.md"
    if not base or not card.is_file():
        return None
    line = re.search(r"^license: *(\S+)", card.read_text(encoding="utf-8"), re.MULTILINE)
    return line.group(1) if line else None
