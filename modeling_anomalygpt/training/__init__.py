"""Arguments, data, collator, trainer, tuning and checkpoints of `anomalygpt train`."""
