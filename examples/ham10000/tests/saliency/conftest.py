import pytest
from planted import train_on_planted
from softattn import SoftAttentionClassifier


@pytest.fixture(scope="session")
def model() -> SoftAttentionClassifier:
    """Model trained for seconds on the planted case. It is shared, so tests must not change it."""
    return train_on_planted()
