"""``python -m ovbench`` and the ``ovbench`` command: errors become one sentence and an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import NoReturn


def main() -> None:
    """Run the command line and exit."""
    import click

    from ovbench.cli import ClosedPipe, cli
    from ovbench.utils.errors import OvbenchError, Terminated, first_line
    from ovbench.utils.paths import ensure_home

    ensure_home()
    logging.getLogger("ovbench").addFilter(_escape)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = cli.main(standalone_mode=False, prog_name="ovbench")
    except OvbenchError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        sys.exit(_fail("interrupted", 130))
    except ClosedPipe:
        # no message, and nothing for Python to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Terminated:
        raise
    except BaseException as error:  # a method may raise any
        if os.environ.get("OVBENCH_DEBUG"):
            raise
        from ovbench.methods.plugins import plugin_line

        text = first_line(error)
        if place := plugin_line(error):
            sys.exit(_fail(f"a plug-in failed: {type(error).__name__}: {text} ({place})", 3))
        if isinstance(error, SystemExit):
            raise
        if isinstance(error, OSError) and error.strerror:  # the machine, not the code
            name = "stdout or another file" if error.filename is None else os.fsdecode(error.filename)
            what = f"cannot read or write {name}: {error.strerror}"
            sys.exit(_fail(f"{what}; check the path and the disk; OVBENCH_DEBUG=1 shows where", 3))
        hint = "this is a defect; OVBENCH_DEBUG=1 shows where"
        sys.exit(_fail(f"{type(error).__name__}: {text}; {hint}", 1))
    sys.exit(status if isinstance(status, int) else 0)


def _terminate(number: int, frame: object) -> NoReturn:
    """Raise `Terminated` on a signal, so that a run can write its results."""
    from ovbench.utils.errors import Terminated

    raise Terminated(_fail("terminated", 128 + number))


def _fail(message: str, code: int) -> int:
    from ovbench.utils.text import printable

    print(f"error: {printable(message)}", file=sys.stderr)
    return code


def _escape(record: logging.LogRecord) -> bool:
    """Escape control characters, which names of files and classes may bring into a warning."""
    from ovbench.utils.text import printable

    record.msg, record.args = printable(record.getMessage()), None
    return True


if __name__ == "__main__":
    main()
