import pytest
from planted import train_on_planted
from softattn import SoftAttentionClassifier


@pytest.fixture(scope="session")
def model() -> SoftAttentionClassifier:
    """Trained for seconds on the planted case; shared, so never changed."""
    return train_on_planted()
