"""Entry point: reads the arguments, calls the verb, turns errors that users can mend into one line."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from types import FrameType
from typing import Any, NoReturn, TextIO

from llc_dynamics import __version__
from llc_dynamics.cli import runs, verbs, watch
from llc_dynamics.errors import LLCDynamicsError, os_error_text, printable

_DESCRIPTION = (
    "How a neural network developed during training: record, estimate the LLC over the run, compare, detect, report. "
    "Every verb can be stopped and started again without losing or repeating finished work. `--version` prints the "
    "version. Exit status: 0 done; 1 an error, with advice on standard error, or `verify` found damage; 2 arguments "
    "that cannot be read; 130 stopped by Ctrl-C; 143 stopped by `kill`; 141 the reader of the output went away."
)
_STOPS = (signal.SIGINT, signal.SIGTERM)
VERBS: dict[str, Callable[..., Any]] = {
    "demo": verbs.demo,
    "train": verbs.train,
    "calibrate": verbs.calibrate,
    "llc": verbs.llc,
    "pca": verbs.pca,
    "stages": verbs.stages,
    "report": verbs.report,
    "verify": verbs.verify,
    **runs.VERBS,
    "watch": watch.watch,
}


class _Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came; `number` says which."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status; `--help` says what each one means."""
    os.environ["MPLBACKEND"] = "Agg"  # figures go into files, whatever a notebook or a shell has set
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        with suppress(AttributeError):  # of somebody's own stream
            getattr(sys, name).reconfigure(errors="backslashreplace")
    status, message = 1, ""
    with _stopped_by_signals():
        try:
            status = _run(sys.argv[1:] if arguments is None else list(arguments))
            sys.stdout.flush()
        except LLCDynamicsError as error:
            message = str(error)
        except BrokenPipeError:
            status = 128 + 13  # as if SIGPIPE had ended it
        except OSError as error:
            where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
            message = f"{where}cannot be read or written ({os_error_text(error)})"
        except (MemoryError, RuntimeError) as error:
            # torch has no type of its own for a lack of memory of the machine
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise
            reason = str(error).partition("\n")[0] or "no more can be allocated"
            message = f"out of memory ({reason}); give fewer --workers, or smaller settings"
        except KeyboardInterrupt as stop:
            status = 128 + getattr(stop, "number", signal.SIGINT)
            message = "stopped; the same command goes on from here"
        if message:
            with suppress(OSError):
                lines = "\n".join(map(printable, message.split("\n")))
                print(f"llc-dynamics: {lines}", file=sys.stderr, flush=True)
        _let_go(sys.stdout)
        _let_go(sys.stderr)
    return status


def _run(arguments: list[str]) -> int:
    import tyro

    if arguments == ["--version"]:
        print(f"llc-dynamics {__version__}")
        return 0
    try:
        called = {name: _plain_output(verb) for name, verb in VERBS.items()}
        status: int | None = tyro.extras.subcommand_cli_from_dict(
            called, prog="llc-dynamics", description=_DESCRIPTION, args=arguments
        )
        return status or 0
    except SystemExit as end:  # after --help or a completion script, or for arguments that cannot be read
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2


class _PlainStream:
    """A stream for text that others may have written: line ends stay, other control characters become escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write("\n".join(map(printable, text.split("\n"))))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _plain_output(verb: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(verb)
    def called(*arguments: Any, **settings: Any) -> Any:
        # `watch` draws on the terminal itself
        if verb is watch.watch:
            return verb(*arguments, **settings)
        with redirect_stdout(_PlainStream(sys.stdout)):
            return verb(*arguments, **settings)

    return called


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Ctrl-C and `kill` raise `_Stopped` once; a second one ends this process, and with it its workers, on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A process that was started with `nohup` or in the background of a script ignores some, and goes on to.
    numbers = [each for each in _STOPS if signal.getsignal(each) not in (signal.SIG_IGN, None)]

    def stop(number: int, _: FrameType | None) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise _Stopped(number)

    before = {each: signal.signal(each, stop) for each in numbers}
    try:
        yield
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) is stop:
                signal.signal(each, handler)


def _let_go(stream: TextIO) -> None:
    """Give up what cannot be written, or Python would complain of it as it ends."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
