"""The tiny cascade, once for all tests of this folder."""

import pytest

from tests.sample import tiny


@pytest.fixture(scope="session")
def cascade(tmp_path_factory):
  return tiny.write_tiny(tmp_path_factory.mktemp("cascades"))
