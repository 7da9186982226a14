"""The command `hero-api`, but for `hero-api serve` when it serves."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from hero_api.cli import main
from hero_api.server.signals import stop_signals
from hero_api.settings import PREFIX

from .servers import ROOT


def run(
    *arguments: str, database_url: str | None = None, program: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run the command and return how it ended.

    It runs in this process, since a new one takes its time to import everything; or, where
    `program` says what Python is to run, in a process of its own.
    """
    environment = {} if database_url is None else {f"{PREFIX}DATABASE_URL": database_url}
    if program:
        return subprocess.run(
            [sys.executable, *program, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
    argv = ["hero-api", *arguments]
    handlers = {number: signal.getsignal(number) for number in stop_signals()}
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.dict(os.environ, environment),
        redirect_stdout(io.StringIO()) as output,
        redirect_stderr(io.StringIO()) as errors,
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if isinstance(code, str):  # Python prints it where the process ends
        errors.write(f"{code}\n")
        code = 1
    return subprocess.CompletedProcess(argv, code or 0, output.getvalue(), errors.getvalue())
