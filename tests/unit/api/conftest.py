from __future__ import annotations

import pytest
from hypothesis import settings

from cluster.text.tokenizer import Tokenizer
from tests.unit.text.bpe import make_folder

# Two busy cores make single examples slow; what is slow is measured elsewhere.
settings.register_profile("tandem", deadline=None)
settings.load_profile("tandem")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(make_folder(tmp_path_factory.mktemp("bpe")))
