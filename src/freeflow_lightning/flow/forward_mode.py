"""Where torch differentiates in forward mode: math attention, nothing compiled, its errors in plain words."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def forward_mode() -> Iterator[None]:
    """Math attention and nothing compiled; an operation without a forward-mode rule is named."""
    _load_rules()
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        try:
            yield
        except (NotImplementedError, RuntimeError) as error:  # torch raises either for such a rule
            if "forward AD" not in str(error) and "jvp" not in str(error):
                raise
            raise RuntimeError(
                "the exact derivative meets an operation without a forward-mode rule "
                f"({str(error).splitlines()[0]}): use CentralDifference or DiscretePrediction, "
                "or a network whose attention is scaled_dot_product_attention"
            ) from error


@cache
def _load_rules() -> None:
    """Let torch script its forward-mode rules, of which it warns every user."""
    with warnings.catch_warnings(), suppress(ModuleNotFoundError):
        warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated", FutureWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")
