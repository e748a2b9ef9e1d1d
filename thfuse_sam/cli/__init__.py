"""The commands, one module each; a script at the top of the checkout calls each.

Importing torch takes seconds on a busy machine. Ctrl-C during that time is a line, too, not a traceback.
"""

import sys
from types import TracebackType

_former = sys.excepthook


def _without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        _former(kind, error, trace)


sys.excepthook = _without_traceback
