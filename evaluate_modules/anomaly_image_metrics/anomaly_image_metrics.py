"""How well scores tell good pictures from anomalous ones, as a metric of the `evaluate` library."""

import datasets
import evaluate

from modeling_anomalygpt.evaluation.metrics import ImageMetrics

DESCRIPTION = """\
Metrics of anomaly detection in whole pictures: AUROC, average precision, the largest F1, and what the best threshold
could reach. With verdicts also the rates of false alarms, misses and undecided pictures.
"""

INPUTS = """
Args:
    predictions (list of `float`): A finite score per picture, higher meaning more anomalous.
    references (list of `int`): 0 normal, 1 anomalous.
    verdicts (list of `str`): Configurations `verdicts` and `verdicts_and_log_odds` only; `"normal"`, `"anomalous"`,
        `"uncertain"` or `"error"`.
    log_odds (list of `float`): Configurations `log_odds` and `verdicts_and_log_odds` only; the natural logarithm of
        P(yes) / P(no), above 0 meaning anomalous.

Returns:
    `dict[str, float]`: `image_auroc`, `image_average_precision`, `image_f1_max`, `image_f1_threshold`,
    `oracle_accuracy`, `oracle_threshold`, `oracle_balanced_accuracy`, `oracle_balanced_threshold`, `num_pictures`,
    `num_normal`, `num_anomalous`; with verdicts or log-odds those of `modeling_anomalygpt.ImageMetrics`.

Raises:
    ValueError: If there is one class only, a label is not 0 or 1, or a score is not finite.

Example:
    >>> metric = evaluate.load("evaluate_modules/anomaly_image_metrics")
    >>> metric.compute(predictions=[0.1, 0.6, 0.5, 0.9], references=[0, 0, 1, 1])["image_auroc"]
    0.75
"""

OPTIONAL = {
    "default": (),
    "verdicts": ("verdicts",),
    "log_odds": ("log_odds",),
    "verdicts_and_log_odds": ("verdicts", "log_odds"),
}
"""What each configuration takes besides predictions and references."""


class AnomalyImageMetrics(evaluate.Metric):
    """Metrics of whole pictures; see [`~modeling_anomalygpt.evaluation.metrics.ImageMetrics`]."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in OPTIONAL:
            raise ValueError(
                f"`config_name` must be among {', '.join(OPTIONAL)}, got {self.config_name!r}. "
                "It names what is given besides predictions and references."
            )
        # Labels are stored as numbers with a fraction: an integer field would make 0.7 a silent 0.
        types = {"predictions": "float64", "references": "float64", "verdicts": "string", "log_odds": "float64"}
        names = ("predictions", "references", *OPTIONAL[self.config_name])
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({name: datasets.Value(types[name]) for name in names}),
            license="Apache-2.0",
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[float],
        verdicts: list[str] | None = None,
        log_odds: list[float] | None = None,
    ) -> dict[str, float]:
        metrics = ImageMetrics()
        metrics.update(references, predictions, verdicts=verdicts, log_odds=log_odds)
        return metrics.compute()
