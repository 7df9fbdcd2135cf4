"""Where what is drawn of a teacher is kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return where references are kept."""
    return Path(os.environ.get("FREEFLOW_CACHE") or Path.home() / ".cache" / "freeflow-lightning")
