"""The small published files, written once."""

import pytest

from tests.published_files import write_published_files


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """The published files; tests must not change them."""
    return write_published_files(tmp_path_factory.mktemp("published"))
