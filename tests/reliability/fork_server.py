"""Runs commands of the project in forked children, because importing them takes seconds each time (not on Windows).

Reads one JSON request a line and answers with one line each:

    {"command": "train", "argv": [...], "cwd": "...", "send": 9, "after": 0.4, "limits": {"RLIMIT_FSIZE": 4096}}
    {"status": -9, "seconds": 0.41, "err": "..."}

`send` is a signal for the child `after` seconds from its start, null for none. A status below 0 is the signal that has
ended the child. `"limits": {"MEMORY": n}` leaves it n bytes more than it has. `"fault": [kind, read, path]` happens
when the child, or a process that it starts, reads an image for the `read`-th time, see `FAULTS`. With `"ranks": 2` that
many children are processes of one distributed run, the fault happens to the last one, and the answer is a list.

However slow the machine is, SIGINT and SIGTERM reach a child no earlier than its options are read: before that, an
interpreter that is still importing would answer them.
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from thfuse_sam import image_files, images
from thfuse_sam.cli import commands as cli_commands
from thfuse_sam.cli.parser import CommandParser

COMMANDS = ("precompute", "train", "test", "finetune", "predict")
REQUESTS_TO_STOP = (signal.SIGINT, signal.SIGTERM)
SECONDS = 120.0  # after which a child is taken for one that hangs, unless the request says "patience"


def _wait(path: Path) -> None:
    time.sleep(1000)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _die(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {"vanish": Path.unlink, "truncate": _truncate, "hang": _wait, "die": _die}


def main() -> None:
    mains = {name: getattr(cli_commands, name).main for name in COMMANDS}
    for name in (
        "precompute",
        "train",
        "fuse",
        "finetune",
        "predict",
    ):  # imported by a command when its options are read
        importlib.import_module(f"thfuse_sam.commands.{name}")
    importlib.import_module("torch.utils.tensorboard")  # training imports it when it starts
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        request = json.loads(line)
        ranks = request.get("ranks", 1)
        env = dict(request.get("env") or {})
        if ranks > 1:
            env |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
            env |= {"MASTER_PORT": str(_free_port())}
        started = time.monotonic()
        children = [
            _start(
                mains[request["command"]],
                request if rank == ranks - 1 else {**request, "fault": None},
                env | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}),
            )
            for rank in range(ranks)
        ]
        patience = request.get("patience", SECONDS)
        answers = _watch(children, request.get("send"), request.get("after", 0.0), started, patience)
        print(json.dumps(answers if ranks > 1 else answers[0]), flush=True)


def _start(command: Any, request: dict[str, Any], env: dict[str, str]) -> tuple[int, Path]:
    descriptor, name = tempfile.mkstemp()
    signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS_TO_STOP)
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS_TO_STOP)
        os.close(descriptor)
        return child, Path(name)
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _let_stop_when_options_are_read()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(request["cwd"])
        os.environ.update(env)
        if request.get("fault"):
            _inject(*request["fault"])
        for limit, value in (request.get("limits") or {}).items():
            if limit == "MEMORY":
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                limit, value = "RLIMIT_AS", pages * resource.getpagesize() + value
            resource.setrlimit(getattr(resource, limit), (value, value))
        status = command(request["argv"])
    except BaseException:  # as the interpreter does
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _let_stop_when_options_are_read() -> None:
    parse = CommandParser.parse_command

    def parse_and_listen(*arguments: Any) -> Any:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS_TO_STOP)
        return parse(*arguments)

    CommandParser.parse_command = parse_and_listen


def _inject(kind: str, at: int, path: str) -> None:
    """Let a fault happen at the `at`-th time (from 1) that an image is read, before it is."""
    reads, decode = 0, images.decode
    if kind == "hang":
        image_files.READ_SECONDS = 5.0

    def faulty(own: Path) -> Any:
        nonlocal reads
        reads += 1
        if reads == at:
            FAULTS[kind](Path(path))
        return decode(own)

    images.decode = faulty


def _watch(
    children: list[tuple[int, Path]], send: int | None, after: float, started: float, patience: float
) -> list[dict[str, Any]]:
    """Wait for the children; the last one is sent `send` at its time, all are killed when they take too long."""
    ended: dict[int, tuple[int, float]] = {}
    while len(ended) < len(children):
        for child, _ in children:
            if child not in ended:
                found, wait_status = os.waitpid(child, os.WNOHANG)
                if found:
                    ended[child] = os.waitstatus_to_exitcode(wait_status), time.monotonic() - started
        seconds = time.monotonic() - started
        if send is not None and seconds >= after and children[-1][0] not in ended:
            os.kill(children[-1][0], send)
            send = None
        if seconds > patience:
            for child, _ in children:
                if child not in ended:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    answers = []
    for child, output in children:
        status, seconds = ended[child]
        answers.append({"status": status, "seconds": seconds, "err": output.read_text(errors="replace")})
        output.unlink()
    return answers


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main()
