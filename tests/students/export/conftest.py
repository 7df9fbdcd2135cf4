"""Official weights and their VAE, as in tests/test_official.py."""

from students.test_official_weights import published_width  # noqa: F401 (a fixture)
