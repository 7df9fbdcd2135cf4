"""Official weights and their VAE, as in tests/test_official.py."""

from test_official import published_width  # noqa: F401 (a fixture)
