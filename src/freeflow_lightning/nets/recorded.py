"""Recorded: objects that remember what they were constructed with, so that a checkpoint can say it."""

import inspect
from typing import Any


class Recorded:
    """Remembers the arguments that its constructor was called with; subclasses need do nothing for
    it.

    >>> class Net(Recorded):
    ...     def __init__(self, width, depth=2):
    ...         self.layers = [width] * depth
    >>> constructor_arguments(Net(8))
    {'width': 8, 'depth': 2}
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls)
        object.__setattr__(made, "_constructed_with", (args, kwargs))  # before nn.Module.__init__
        return made


def constructor_arguments(thing: Recorded) -> dict[str, Any] | None:
    """What an object was constructed with, by name and with the defaults; None where a name is not
    known (*args).
    """
    args, kwargs = thing.__dict__["_constructed_with"]
    signature = inspect.signature(type(thing).__init__)
    try:
        bound = signature.bind(thing, *args, **kwargs)
    except TypeError:  # a copy: it was not constructed
        return None
    bound.apply_defaults()
    named = dict(list(bound.arguments.items())[1:])
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL and named.pop(name, ()):
            return None
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return named
