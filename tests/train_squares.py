"""Trains the smallest model in a process of its own: `python -m tests.train_squares FOLDER MOMENT [BATCH [COUNT]]`.

MOMENT is `never`, `stream` (samples of a stream), or when the process kills itself without warning: `step` (between
two checkpoints), `saving` (in the middle of a checkpoint), `renaming` (the checkpoint is written, but not yet under
its name).
"""

import os
import pathlib
import signal
import sys

import torch

from tests.test_training import streamed, trainer, weights


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, moment: str, batch: str = "4", count: str = "12") -> None:
    if moment == "stream":
        run, seen = streamed(folder, ddp_find_unused_parameters=True)
        run.train()
        print("rows", run.args.process_index, sorted(seen))
        return
    run = trainer(folder, "lora", int(count), per_device_train_batch_size=int(batch), ddp_find_unused_parameters=True)
    save, replace, training_step = torch.save, os.replace, run.training_step

    def maybe_die_saving(value, target, *args, **kwargs):
        if moment == "saving" and run.state.global_step == 4 and "scheduler" in str(target):
            die()
        return save(value, target, *args, **kwargs)

    def maybe_die_renaming(source, target):
        if moment == "renaming" and pathlib.Path(target).name == "checkpoint-4":
            die()
        replace(source, target)

    def maybe_die_stepping(*args, **kwargs):
        if moment == "step" and run.state.global_step == 4:
            die()
        return training_step(*args, **kwargs)

    torch.save, os.replace, run.training_step = maybe_die_saving, maybe_die_renaming, maybe_die_stepping
    run.train(resume_from_checkpoint=True)
    if run.is_world_process_zero():
        save({"weights": weights(run.model), "log": run.state.log_history}, pathlib.Path(folder) / "end.pt")
    print("epochs", run.args.process_index, list(dict.fromkeys(run.train_dataset.epochs)))


if __name__ == "__main__":
    main(*sys.argv[1:])
