"""The tables of docs/results.md say what the rows say."""

from benchmarks import results
from modeling_anomalygpt.evaluation.tables import FIELDS


def row(**values):
    return dict.fromkeys(FIELDS, "") | {"dataset": "anomaly_folder", "protocol": "ours"} | values


ROWS = [
    row(method="patchcore_few", backbone="eyes", category="nut", k_shot="1", seed="0", image_auroc="0.7"),
    row(method="anomalygpt", category="nut", k_shot="4", seed="0", image_auroc="0.9", false_alarm_rate="0.25"),
    row(method="anomalygpt", category="nut", k_shot="1", seed="0", image_auroc="0.6", miss_rate="0.5"),
    row(method="anomalygpt", category="nut", k_shot="1", seed="1", image_auroc="0.8", miss_rate="0.5"),
    row(method="anomalygpt", category="nut", k_shot="0", image_auroc="0.5", checkpoint="a", checkpoint_hash="b"),
]


def test_methods_are_in_order_and_in_percent():
    lines = results.quality_table(ROWS).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")][:4] for line in lines[2:]]
    assert cells == [
        ["anomalygpt", "the checkpoint's", "0", "50.0"],
        ["anomalygpt", "the checkpoint's", "1", "70.0 ± 14.1"],
        ["anomalygpt", "the checkpoint's", "4", "90.0"],
        ["patchcore_few", "eyes", "1", "70.0"],
    ]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_decisions_and_sets_leave_out_what_was_not_measured():
    decisions = results.decision_table(ROWS[1:])
    assert "| 4 | - |" in decisions
    assert "25.0" in decisions
    assert results.set_table(ROWS[1:]).splitlines()[2].startswith("| nut | 0 | 50.0 | - |")


def test_weights_and_commits_are_named():
    assert "- 1 rows: a (b), commit unknown" in results.provenance(ROWS)


def test_the_document_has_a_place_for_every_table():
    text = results.DOCUMENT.read_text(encoding="utf-8")
    for name in results.sections():
        assert f"<!-- {name} -->" in text
        assert f"<!-- end {name} -->" in text
