"""What several tests of the page share: a cache of their own, an engine of a tiny model, a visitor."""

import pytest

from modeling_anomalygpt.dialogue import Dialogue
from modeling_anomalygpt.inspector import AnomalyInspector
from tests.tiny import tiny_pair


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def engine():
    """Of random weights, which would talk on and on, so answers end after a few tokens."""
    from spaces_app.engine import Engine  # here, for the page's tests are skipped without gradio

    options = Dialogue._options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dialogue, "_options", lambda self, most: options(self, min(most, 8)))
        yield Engine(AnomalyInspector(*tiny_pair()))


@pytest.fixture
def session(engine):
    from spaces_app.engine import Session

    return Session(engine)
