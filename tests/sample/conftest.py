"""The tiny cascade, once for all tests of this folder."""

import pytest

from tests.sample import tiny


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("text")
  tiny.write_text(folder)
  return folder


@pytest.fixture(scope="session")
def cascade(tmp_path_factory):
  return tiny.write_tiny(tmp_path_factory.mktemp("cascades"))
