"""A room whose name is also that of a function of the package: `thfuse_sam.masks` holds modules, and can be called."""

import functools
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def make_callable(room: str, function_module: str) -> None:
    """Let a call of the module `room` call the function of the same name in `function_module`, loaded when needed."""
    name = room.rpartition(".")[2]

    class CallableModule(ModuleType):
        """A module that can be called."""

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return self.__wrapped__(*arguments, **options)

        @functools.cached_property
        def __wrapped__(self) -> Any:  # `help` and `inspect.signature` look here
            return getattr(import_module(function_module), name)

    sys.modules[room].__class__ = CallableModule
