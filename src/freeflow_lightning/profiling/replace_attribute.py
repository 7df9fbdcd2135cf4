"""Another value for an attribute, for a while: how a step's functions are watched from outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replace_attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let an attribute of an object or a class be another inside; afterwards it is what it was, one
    that the object had of its class included.

    >>> class Dog:
    ...     sound = "woof"
    >>> rex = Dog()
    >>> with replace_attribute(rex, "sound", "meow"):
    ...     rex.sound
    'meow'
    >>> rex.sound, vars(rex)
    ('woof', {})
    """
    is_set = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_set:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
