"""Recorded: objects that remember what they were constructed with, so that a checkpoint can say
it.
"""

import inspect
from typing import Any

KEYWORDS = inspect.Parameter.VAR_KEYWORD


class Recorded:
    """Remembers the arguments that its constructor was called with; subclasses need do nothing for
    it.

    A subclass that takes `**settings` passes them on to its base, and has all that the base takes
    by keyword alone as arguments of its own: in its signature, in a config and in a checkpoint.

    >>> class Net(Recorded):
    ...     def __init__(self, width, *, depth=2):
    ...         self.layers = [width] * depth
    >>> class Wide(Net):
    ...     def __init__(self, **settings):
    ...         super().__init__(1000, **settings)
    >>> constructor_arguments(Net(8)), constructor_arguments(Wide())
    ({'width': 8, 'depth': 2}, {'depth': 2})
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__signature__ = gather_signature(cls)  # type: ignore[attr-defined]  # what inspect shows

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls)
        object.__setattr__(made, "_constructed_with", (args, kwargs))  # before nn.Module.__init__
        return made


def gather_signature(kind: type) -> inspect.Signature:
    """Return a constructor's signature, with the keyword-only parameters of its base for
    `**settings`.
    """
    parameters: dict[str, inspect.Parameter] = {}
    for owner in kind.__mro__:
        if "__init__" not in vars(owner):
            continue
        own = list(inspect.signature(owner.__init__).parameters.values())[1:]  # type: ignore[misc]
        for parameter in own:
            if not parameters or owner is kind or parameter.kind is parameter.KEYWORD_ONLY:
                parameters.setdefault(parameter.name, parameter)
        if not any(parameter.kind is KEYWORDS for parameter in own):
            parameters = {name: x for name, x in parameters.items() if x.kind is not KEYWORDS}
            break
    return inspect.Signature(sorted(parameters.values(), key=lambda parameter: parameter.kind))


def constructor_arguments(thing: Recorded) -> dict[str, Any] | None:
    """Return what an object was constructed with, by name and with the defaults; None where a name
    is not known (*args).
    """
    args, kwargs = thing.__dict__["_constructed_with"]
    signature = inspect.signature(type(thing))
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # a copy: it was not constructed
        return None
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL and arguments.pop(name, ()):
            return None
        if parameter.kind is KEYWORDS:
            arguments |= arguments.pop(name, {})
    return arguments
