"""A backbone as deep features and a light head that is asked several times: transition matching."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, even_starts, expand, flow_map
from freeflow_lightning.nets.conditioning import ScalarConditioned
from freeflow_lightning.nets.embeddings import ScalarEmbedder
from freeflow_lightning.nets.tokens import Tokens, give_tokens, returned_tokens

_EMBEDDED = ("delta", "gamma", "s")


@dataclass(frozen=True)
class SplitHead:
    """How a backbone is split.

    Args:
        blocks: H, the last blocks that make the head; a sixth of them, at least one, if not given.
        steps: N, the head's inner steps for one draw.
        outer_steps: M, draws from noise to a sample, at the times of a uniform grid.
        path: of the nn.ModuleList of blocks; the longest one if not given.
    """

    blocks: int | None = None
    steps: int = 2
    outer_steps: int = 2
    path: str | None = None

    def __post_init__(self) -> None:
        check_counts(1, steps=self.steps, outer_steps=self.outer_steps)
        if self.blocks is not None:
            check_counts(1, blocks=self.blocks)


_HEAD = SplitHead()


class Features(NamedTuple):
    """What a head is asked on.

    Args:
        tokens: of x_t, after the blocks below the head.
        t: times of x_t, [B].
        condition: as the backbone takes it.
        gamma: guidance scales, [B].
        text: the text's tokens, where the blocks turn them too.
    """

    tokens: Tensor
    t: Tensor
    condition: Any
    gamma: Tensor
    text: Tensor | None = None


class SplitConditioned(ScalarConditioned):
    """A backbone whose last blocks are a head (arXiv 2601.09881): draws of Y = (x0 - x_t) / t.

    The features of x_t pass the first L - H blocks once. The head takes them and an inner state
    y_s, and returns E[Y | y_s, x_t] at first: W(y, s, r; x_t) = (head - y) / s is the average inner
    velocity from y_s to y_r. The inner state enters as the backbone's input does and is added to
    the features through a gate that starts at zero; s and s - r are embedded with the time. So the
    head starts as the backbone's velocity u(x_t, t), bit for bit, for every y_s.

    A draw is `steps` inner steps and costs 1 + (N - 1) H / L evaluations.

    Args:
        backbone: a velocity network with a time embedding and a list of blocks, each from tokens to
            tokens.
        time_module: path of the module whose output is the time embedding; found if not given.
        scale: factor on the scalars before their sinusoids.
        time_owner: the module with embeddings and blocks, where it is not registered in `backbone`.
        head: how it is split.

    Raises:
        ValueError: no such blocks, or no more of them than the head has.
    """

    def __init__(
        self,
        backbone: nn.Module,
        time_module: str | None = None,
        scale: float | Mapping[str, float] = 1.0,
        time_owner: nn.Module | None = None,
        head: SplitHead = _HEAD,
    ) -> None:
        super().__init__(backbone, _EMBEDDED, time_module, scale, time_owner)
        self.scalars = ("delta", "gamma")  # s is the head's own
        self.head = head
        self.path, blocks = find_blocks(self.time_owner, head.path)
        self.depth = len(blocks)
        self.head_blocks = head.blocks or max(1, self.depth // 6)
        if self.head_blocks >= self.depth:
            raise ValueError(
                f"expected a head of fewer than the {self.depth} blocks of "
                f"{type(self.time_owner).__name__}, got {self.head_blocks}"
            )
        layers = [p for p in self.embedders["s"].parameters() if p.ndim > 1]
        self.gate = ScalarEmbedder(len(layers[-1])).zero_output()
        self.kept = slice(None)
        """The blocks that run now."""
        self._captures = False
        self._tokens: Tokens | None = None
        self._given: tuple[Tokens, Tensor] | None = None
        blocks[-self.head_blocks - 1].register_forward_hook(self._capture, with_kwargs=True)
        blocks[-self.head_blocks].register_forward_pre_hook(self._give, with_kwargs=True)

    @property
    def evaluations(self) -> float:
        """Evaluations of the whole backbone that one draw costs."""
        return 1 + (self.head.steps - 1) * self.head_blocks / self.depth

    def features(self, x: Tensor, t: Tensor, condition: Any, gamma: Tensor) -> Features:
        """What the head is given of x_t [B, ...] at t [B]: the tokens after L - H blocks."""
        self._captures = True
        try:
            with self.part(slice(0, -self.head_blocks)):
                self._evaluate(x, t.to(x.dtype), condition, {"gamma": gamma})
            tokens = self._tokens
        finally:
            self._captures, self._tokens = False, None
        assert tokens is not None
        return Features(tokens.state, t, condition, gamma, tokens.text)

    def ask_head(self, features: Features, y: Tensor, s: Tensor, delta: Tensor) -> Tensor:
        """The head's output, [B, ...], at the inner state y and time s, for an end at s - delta."""
        tokens, t, condition, gamma, text = features
        self._given = Tokens(tokens, text), self.gate(s)
        try:
            with self.part(slice(-self.head_blocks, None)):
                scalars = {"delta": delta, "gamma": gamma, "s": s}
                y = y.to(tokens.dtype)
                return self._evaluate(y, t.to(y.dtype), condition, scalars)
        finally:
            self._given = None

    def inner_velocity(self, features: Features, y: Tensor, s: Tensor, delta: Tensor) -> Tensor:
        """W(y, s, s - delta; x_t) = (head - y) / s, [B, ...], for s > 0."""
        head = self.ask_head(features, y, s, delta)
        return (head - y) / expand(s, y)

    def draw(self, x: Tensor, t: Tensor, condition: Any, gamma: Tensor, e: Tensor) -> Tensor:
        """Y [B, ...] from inner noise e, in `steps` inner steps with their gradient."""
        features = self.features(x, t, condition, gamma)
        y, one = e.to(x.dtype), torch.ones_like(gamma)
        for s, r in pairwise((*even_starts(self.head.steps), 0.0)):
            delta = one * (s - r)
            W = self.inner_velocity(features, y, one * s, delta)
            y = flow_map(y, W, delta)
        return y

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Any = None,
        *,
        e: Tensor | None = None,
        **scalars: Tensor,
    ) -> Tensor:
        """Y [B, ...]: on the line from x_t to its draw x0 the velocity is the same for every delta.

        Args:
            x: states at t, [B, ...].
            t: times in (0, 1], [B].
            condition: as the backbone takes it.
            e: inner noise, [B, ...]; x itself if not given, which is noise at t = 1.
            scalars: delta and gamma, [B] each.
        """
        if scalars.keys() != {"delta", "gamma"}:
            raise ValueError(f"expected the scalars delta and gamma, got {sorted(scalars)}")
        return self.draw(x, t, condition, scalars["gamma"], x if e is None else e)

    def on_backbone(self, backbone: nn.Module) -> "SplitConditioned":
        return SplitConditioned(backbone, self.time_module, self.scale, head=self.head)

    # The two halves of the backbone

    @contextmanager
    def part(self, kept: slice) -> Iterator[None]:
        """The backbone with some of its blocks alone."""
        above, _, name = self.path.rpartition(".")
        owner = self.time_owner.get_submodule(above)
        whole = owner.get_submodule(name)
        assert isinstance(whole, nn.ModuleList)
        owner._modules[name], self.kept = whole[kept], kept
        try:
            yield
        finally:
            owner._modules[name], self.kept = whole, slice(None)

    @property
    def share(self) -> float:
        """Share of the blocks that run now."""
        return len(range(self.depth)[self.kept]) / self.depth

    def _capture(
        self, block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        if not self._captures:
            return
        self._tokens = returned_tokens(output, inputs, named)
        if self._tokens is None:
            raise ValueError(
                f"a block of {self.path!r} returns {type(output).__name__}: expected tokens, which "
                "a head can go on from"
            )

    def _give(
        self, block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._given is None:
            return None
        return give_tokens(*self._given, inputs, named)


def find_blocks(network: nn.Module, path: str | None = None) -> tuple[str, nn.ModuleList]:
    """The list of blocks of a network and its path: the given one, or the longest of one class.

    Raises:
        ValueError: none, or several as long.
    """
    lists = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1
    }
    if path is not None:
        lists = {name: module for name, module in lists.items() if name == path}
    longest = max(map(len, lists.values()), default=0)
    found = [name for name, module in lists.items() if len(module) == longest]
    if len(found) != 1 or longest < 2:
        raise ValueError(
            f"expected one nn.ModuleList of two blocks or more in {type(network).__name__}, found "
            f"{found if path is None else 'none at ' + repr(path)}: name it with head.path=..."
        )
    return found[0], lists[found[0]]
