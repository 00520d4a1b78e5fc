"""The command line: one file per command, imported when it is called, so that `--help` answers at once."""

from __future__ import annotations

import contextlib
import importlib
import io
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, cast

import typer.core
from typer.main import get_command

from ..errors import StillmotionError, UsageError, printable

# typer does not export the context that its groups are given, nor the formatter.
Context = Formatter = Any
STOPPED = 130  # what a shell reports of a program ended by Ctrl-C

# Command, its module, and its line in the overview.
COMMANDS = {
    "generate": ("generate", "Animate an image, a folder or a pattern of images."),
    "repeat": ("repeat", "Make a video again from the recipe that it carries."),
    "grid": ("grid", "Compare two settings: one video with a cell for every pair of values."),
    "convert": ("convert", "Rewrite a checkpoint as a diffusers folder or as one sgm file."),
    "inspect": ("inspect", "Show what is in a model, a video or an image."),
    "doctor": ("doctor", "Check this machine, and say what would run where."),
    "score": ("score", "Measure motion, flicker, drift and seams of videos."),
    "curate": ("curate", "Make a training set of a folder of videos."),
    "train-tiny": ("train_tiny", "Train the embedded model from rendered scenes."),
}


class _Overview(typer.core.TyperGroup):
    """Knows every command's name and line without importing it."""

    def list_commands(self, ctx: Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> typer.core.TyperCommand | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            with _heeding_ctrl_c():
                module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __name__)
        except KeyboardInterrupt:  # typer would turn it into a failure like any other
            raise typer.Exit(_end("Stopped; nothing was left half-written.", STOPPED)) from None
        return cast(typer.core.TyperCommand, get_command(module.app))

    def format_commands(self, ctx: Context, formatter: Formatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 a wrong request, 130 stopped."""
    # What Pillow warns of damaged files, the error that follows says in a sentence; here the process is ours.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    overview = _Overview(name="stillmotion", help="A still image becomes a moving one.", rich_markup_mode=None)
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be text in this terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        overview.main(given or ["--help"], prog_name="stillmotion")
    except SystemExit as end:  # how typer hands over a command's exit code
        return int(end.code or 0)
    except KeyboardInterrupt:
        return _end("Stopped; nothing was left half-written.", STOPPED)
    except UsageError as error:
        return _end(f"Error: {error}", 2)
    except StillmotionError as error:
        return _end(f"Error: {error}", 1)
    except OSError as error:  # such as a path through a folder that this user may not search
        if error.errno is None:
            raise
        return _end(f"Error: {error.filename or 'a file'} cannot be used: {error.strerror}.", 1)
    return 0


@contextlib.contextmanager
def _heeding_ctrl_c() -> Iterator[None]:
    """A Ctrl-C inside the block raises KeyboardInterrupt at the latest at its end.

    What a library does while it is imported can swallow it, or turn it into a failure of its own: Python prints and
    forgets what is raised inside a weak reference's callback, of which importing makes thousands.
    """
    is_pressed = False

    def press(number: int, frame: object) -> NoReturn:
        nonlocal is_pressed
        is_pressed = True
        raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # ignored on purpose, as behind nohup, or somebody else's to decide
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield
    except BaseException:
        if is_pressed:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, usual)
    if is_pressed:
        raise KeyboardInterrupt


def _end(message: str, code: int) -> int:
    print("\n".join(map(printable, message.split("\n"))), file=sys.stderr)
    return code
