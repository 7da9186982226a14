"""The command `hero-api`, but for `hero-api serve` when it serves."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from hero_api.cli import main
from hero_api.server.signals import stop_signals
from hero_api.settings import PREFIX

from .forked import ForkedProcess
from .servers import ROOT

_PATIENCE = 60.0  # seconds


def run(
    *arguments: str,
    database_url: str | None = None,
    program: Sequence[str] = (),
    is_forked: bool = True,
) -> "subprocess.CompletedProcess[str]":
    """Run the command and return how it ended.

    It runs in this process, since a new one takes its time to import everything; or, where
    `program` says what Python is to run, in a process of its own, which `is_forked` from one that
    has imported it, or not.
    """
    environment = {} if database_url is None else {f"{PREFIX}DATABASE_URL": database_url}
    if program and is_forked:
        return _run_forked([*program, *arguments], {**os.environ, **environment})
    if program:
        return subprocess.run(
            [sys.executable, *program, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            check=False,
            text=True,
            timeout=_PATIENCE,
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


def _run_forked(
    command: Sequence[str], environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    with TemporaryDirectory() as directory:
        errors = Path(directory) / "stderr"
        with closing(ForkedProcess(command, environment, ROOT, errors)) as process:
            status = process.wait(_PATIENCE)
            output = process.stdout.read()
        return subprocess.CompletedProcess(command, status, output, errors.read_text())
