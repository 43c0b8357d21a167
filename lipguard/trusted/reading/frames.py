"""Where in a user's code something happens."""

from __future__ import annotations

import sys
import sysconfig
import types
from pathlib import Path

import torch

_FRAMEWORKS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))  # torch, and lipguard
_INSTALLED = ("site-packages", "dist-packages")
_STANDARD = sysconfig.get_paths()["stdlib"]


def is_of_a_user(frame: types.FrameType) -> bool:
    """Whether a frame runs code of a user's own: of no library, installed or built in."""
    return not _is_of_a_framework(frame) and not any(name in frame.f_code.co_filename for name in _INSTALLED)


def line_in_forward() -> str:
    """The line, FILE:NUMBER, of the code that is being traced, of the user's or of a library of models.

    "" where torch calls one layer after the other by itself.
    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "traced_graph":
        if not _is_of_a_framework(frame):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def line_of(error: BaseException | None) -> str:
    """The innermost line of code that is no library's, or one of a library of models, in which an error was raised."""
    found, trace = "", None if error is None else error.__traceback__
    while trace is not None:
        if not _is_of_a_framework(trace.tb_frame):
            found = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _is_of_a_framework(frame: types.FrameType) -> bool:
    file = frame.f_code.co_filename
    standard = file.startswith((_STANDARD, "<frozen")) and not any(name in file for name in _INSTALLED)
    return standard or file.startswith(_FRAMEWORKS)
