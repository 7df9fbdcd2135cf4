"""Network evaluations: recorded as a step makes them, counted, and run again on their own."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_iter, tree_map, tree_unflatten

from freeflow_lightning.flow.forward_mode import forward_mode
from freeflow_lightning.nets import SplitConditioned
from freeflow_lightning.profiling.replace_attribute import replace_attribute
from freeflow_lightning.profiling.rounds import Rows, add_rows

Kind = Literal["forward", "backward", "derivative", "derivative and backward"]
WITH_GRADIENT: dict[Kind, Kind] = {"forward": "backward", "derivative": "derivative and backward"}
WITHOUT_GRADIENT: dict[Kind, Kind] = {kept: plain for plain, kept in WITH_GRADIENT.items()}
Around = Callable[[str, nn.Module, Callable[..., Any], tuple, dict[str, Any]], Any]
"""(name of the network, the module that is called, its call, arguments, keywords) to what the call
returns.
"""


class Part(NamedTuple):
    """How much of a network a call runs.

    Args:
        share: in evaluations of the whole.
        alone: the network with this part alone, for as long as the context is open.
    """

    share: float = 1
    alone: Callable[[], AbstractContextManager] = nullcontext


WHOLE = Part()


def _parts(network: nn.Module) -> Iterable[nn.Module]:
    """Return what may be called of a network by itself: of a split one not its gate, which is no
    evaluation.
    """
    return [network.backbone] if isinstance(network, SplitConditioned) else network.children()


def part_of(network: nn.Module, called: nn.Module) -> Part:
    """Return what a call runs that is being made: features or head of a split network, or all.

    Args:
        network: the one that it belongs to.
        called: the network, or its direct part.
    """
    if not isinstance(network, SplitConditioned):
        return WHOLE
    if called is network:
        return Part(network.evaluations)
    return Part(network.share, partial(network.part, network.kept))


class NetworkCall(NamedTuple):
    """One call of a network: what it was given, and how it was run.

    Args:
        network: name of the network it belongs to.
        module: what was called: the network, or a part of it that a teacher calls by itself.
        arguments: positional ones, states [B, ...] first; without tangents and gradients.
        keywords: named ones.
        kind: "forward" (nothing kept), "backward" (kept for a gradient), "derivative" (forward-mode
            along `tangent`), "derivative and backward" (whose gradient goes through both).
        autocast: whether mixed precision was on.
        tangent: place of the argument with a tangent among all tensors of the call.
        part: how much of the network it runs.
    """

    network: str
    module: nn.Module
    arguments: tuple
    keywords: dict[str, Any]
    kind: Kind
    autocast: bool
    tangent: int | None = None
    part: Part = WHOLE

    @property
    def rows(self) -> float:
        """Samples in the call, each as far as it is evaluated: a guided velocity has two for one of
        the batch, and a head of one block in four a quarter.
        """
        return len(self.arguments[0]) * self.part.share

    @property
    def has_gradient(self) -> bool:
        """Whether the call is kept for a backward pass."""
        return self.kind in WITH_GRADIENT.values()

    def again(self) -> Tensor:
        """Return the same evaluation once more, on its own, [B, ...]; one that has a gradient is
        ready for `torch.autograd.backward`, which then goes through a derivative too.
        """
        device = self.arguments[0].device.type
        with ExitStack() as context:
            context.enter_context(self.part.alone())
            context.enter_context(torch.set_grad_enabled(self.has_gradient))
            context.enter_context(
                nullcontext() if self.autocast else torch.autocast(device, enabled=False)
            )
            if self.tangent is None:
                return self.module(*self.arguments, **self.keywords)
            context.enter_context(forward_mode())
            return self._dual()

    def _dual(self) -> Tensor:
        """Return the output with its derivative computed beside it, or on the graph added to it."""
        leaves, form = tree_flatten((self.arguments, self.keywords))
        tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        assert self.tangent is not None
        place = tensors[self.tangent]

        def run(x: Tensor) -> Tensor:
            arguments, keywords = tree_unflatten([*leaves[:place], x, *leaves[place + 1 :]], form)
            return self.module(*arguments, **keywords)

        point, one = leaves[place], torch.ones_like(leaves[place])
        if self.has_gradient:  # as ExactJVP.attached: the softmax of a dual number has no backward
            dual = torch.func.jvp(run, (point,), (one,))
            return dual[0] + dual[1]
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(run(forward_ad.make_dual(point, one))).primal


@contextmanager
def intercept_calls(networks: Mapping[str, nn.Module], around: Around) -> Iterator[None]:
    """Let the calls of the networks, and of their direct parts, pass through `around`; calls within
    such calls do not.

    It stands outside of what torch.compile has compiled, which therefore stays as it is.
    """
    inside = False

    def entry(name: str, module: nn.Module) -> Callable[..., Any]:
        # what nn.Module.__call__ itself calls
        call = module._compiled_call_impl or module._call_impl

        def entered(*arguments: Any, **keywords: Any) -> Any:
            nonlocal inside
            if inside:
                return call(*arguments, **keywords)
            inside = True
            try:
                return around(name, module, call, arguments, keywords)
            finally:
                inside = False

        return entered

    with ExitStack() as patches:
        seen: set[int] = set()
        for name, network in networks.items():
            for module in (network, *_parts(network)):
                if id(module) not in seen:
                    seen.add(id(module))
                    patches.enter_context(
                        replace_attribute(module, "_compiled_call_impl", entry(name, module))
                    )
        yield


@contextmanager
def record_calls(networks: Mapping[str, nn.Module]) -> Iterator[list[NetworkCall]]:
    """The evaluations made in the context, in their order; to be used after it.

    Inside, a call costs little more than without: what can be done later is done at the end.
    """
    found: list[NetworkCall] = []

    def note(
        name: str,
        module: nn.Module,
        call: Callable[..., Any],
        arguments: tuple,
        keywords: dict[str, Any],
    ) -> Any:
        kind: Kind = "forward"
        autocast = torch.is_autocast_enabled(arguments[0].device.type)
        tangent = None
        given = arguments, keywords
        if has_dual(given):
            kind, tangent = "derivative", _tangent(given)
            given = tree_map(_plain, given)
        if torch.is_grad_enabled():
            kind = WITH_GRADIENT[kind]
        part = part_of(networks[name], module)
        found.append(NetworkCall(name, module, *given, kind, autocast, tangent, part))
        return call(*arguments, **keywords)

    try:
        with intercept_calls(networks, note):
            yield found
    finally:
        for i, evaluation in enumerate(found):
            trained = any(p.requires_grad for p in evaluation.module.parameters())
            kind = evaluation.kind
            if not trained:
                kind = WITHOUT_GRADIENT.get(kind, kind)
            arguments, keywords = tree_map(_plain, (evaluation.arguments, evaluation.keywords))
            found[i] = evaluation._replace(arguments=arguments, keywords=keywords, kind=kind)


def count_rows(evaluations: Iterable[NetworkCall]) -> Rows:
    """Rows by network and kind.

    >>> net = nn.Linear(2, 2)
    >>> with record_calls({"net": net}) as made, torch.no_grad():
    ...     _ = net(torch.ones(3, 2)), net(torch.ones(4, 2))
    >>> count_rows(made)
    {'net': {'forward': 7}}
    """
    rows: Rows = {}
    for evaluation in evaluations:
        add_rows(rows, evaluation.network, evaluation.kind, evaluation.rows)
    return rows


def has_dual(given: tuple[tuple, dict[str, Any]]) -> bool:
    """Return whether an argument of a call carries a tangent."""
    arguments, keywords = given
    return any(_is_dual(x) for x in (*arguments, *keywords.values()))


def _is_dual(x: Any) -> bool:
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def _plain(x: Any) -> Any:
    return forward_ad.unpack_dual(x).primal.detach() if isinstance(x, Tensor) else x


def _tangent(tree: Any) -> int | None:
    tensors = [x for x in tree_iter(tree) if isinstance(x, Tensor)]
    return next(
        (i for i, x in enumerate(tensors) if forward_ad.unpack_dual(x).tangent is not None), None
    )
