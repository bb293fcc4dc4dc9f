"""Batches that do not fit are halved, others fail alone, finished pictures are not inspected again."""

import numpy as np
import pytest

from modeling_anomalygpt.results import InspectionResult, inspect_in_batches

PICTURES = [np.full((8, 8, 3), number, np.uint8) for number in range(7)]


def failed(picture, line):
    return InspectionResult(None, "error", error=line)


class Inspect:
    """Remembers the sizes of its batches; fails above a size or on a picture."""

    def __init__(self, most=100, error=None, bad=None):
        self.most, self.error, self.bad, self.sizes = most, error, bad, []

    def __call__(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise self.error
        if any(int(np.asarray(image)[0, 0, 0]) == self.bad for _, image in batch):
            raise RuntimeError("odd picture")
        return [InspectionResult(None, "normal", float(np.asarray(image)[0, 0, 0])) for _, image in batch]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 5 bytes")])
def test_a_batch_that_does_not_fit_is_halved_and_the_smaller_size_kept(error):
    inspect = Inspect(most=2, error=error)
    with pytest.warns(UserWarning, match="Not enough memory for 4 pictures at a time; going on with 2"):
        results = list(inspect_in_batches(PICTURES, inspect, failed, {}, batch_size=4))
    assert [result.pred_score for result in results] == list(range(7))
    assert inspect.sizes == [4, 2, 2, 2, 1]


def test_one_picture_that_does_not_fit_gets_a_row_that_says_so():
    inspect = Inspect(most=0, error=MemoryError())
    (result,) = inspect_in_batches(PICTURES[:1], inspect, failed, {}, batch_size=1)
    assert result.error == "Not enough memory for this picture. Use a smaller picture or `tile`."


def test_a_picture_that_fails_takes_no_other_along():
    inspect = Inspect(bad=2)
    results = list(inspect_in_batches(PICTURES, inspect, failed, {}, batch_size=4))
    assert [result.error for result in results] == [None, None, "odd picture", None, None, None, None]
    assert inspect.sizes == [4, 1, 1, 1, 1, 3]


def test_finished_pictures_are_taken_as_they_are(tmp_path):
    inspect = Inspect()
    finished = {"a.png": InspectionResult("a.png", "anomalous", 0.9)}
    results = list(inspect_in_batches(["a.png", tmp_path / "b.png"], inspect, failed, finished, batch_size=2))
    assert results[0].verdict == "anomalous"
    assert results[0].evidence == {"resumed": True}
    assert results[1].verdict == "error"
    assert inspect.sizes == []
