"""Starts the processes of a job on this machine; restarts the job when one of them dies.

  python -m wanstreamer_jax.parallel.launcher 4 --restarts 3 -- wanstreamer train --config=configs/tiny.py

Every process gets `--coordinator HOST:PORT --processes N --process I` appended to its command. A job of one process
gets nothing appended: on a pod jax finds the other processes itself, so run the launcher on every host.

The job is not started again after success (0), bad input (2) or a requested stop (130). It is started again, from its
last checkpoint, after anything else, such as a killed process or a lost host. Uses the standard library only.
"""

import argparse
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

FINAL = (0, 2, 130)  # finished, bad input, stopped on request: a new start would change nothing
GRACE = 20.0  # seconds for the other processes to report and end after one has failed
PAUSE = 2.0  # seconds before a new start


class Job:
  """One start of all processes."""

  def __init__(self, commands: Sequence[Sequence[str]]):
    self.processes = []
    for number, command in enumerate(commands):
      # In a session of its own, so that Ctrl-C reaches only the launcher, which passes it on once.
      pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if number else {}
      process = subprocess.Popen(command, start_new_session=True, **pipes)
      self.processes.append(process)
      if number:
        threading.Thread(target=_relay, args=(process, number), daemon=True).start()

  def send(self, number: int) -> None:
    for process in self.processes:
      if process.poll() is None:
        process.send_signal(number)

  def wait(self) -> list[int]:
    """The statuses of all processes when all have ended; negative ones are signals. After a failure the others are
    killed when GRACE seconds have passed."""
    deadline = float("inf")
    while True:
      found = [process.poll() for process in self.processes]
      if None not in found:
        return [process.returncode for process in self.processes]
      if any(found) and deadline == float("inf"):
        deadline = time.monotonic() + GRACE
      if time.monotonic() > deadline:
        self.send(signal.SIGKILL)
      time.sleep(0.05)


def _relay(process: subprocess.Popen[bytes], number: int) -> None:
  """Prints the output of a process other than the first, each line with its number in front."""
  for line in process.stdout or ():
    sys.stderr.write(f"[{number}] {line.decode(errors='replace')}")
    sys.stderr.flush()


def commands_of(command: Sequence[str], processes: int) -> list[list[str]]:
  """The command line of every process. The coordinator gets a port that is free at this moment."""
  if processes == 1:
    return [list(command)]
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    where = f"localhost:{probe.getsockname()[1]}"
  flags = ["--coordinator", where, "--processes", str(processes), "--process"]
  return [[*command, *flags, str(process)] for process in range(processes)]


def final_status(statuses: Sequence[int]) -> int | None:
  """The status that the job ends with, or None if it is to be started again. Bad input (2) decides before 130."""
  if not any(statuses):
    return 0
  return next((final for final in (2, 130) if final in statuses), None)


def in_words(statuses: Sequence[int]) -> str:
  """The failures among `statuses`: "process 1 ended by SIGKILL"."""
  return ", ".join(f"process {number} ended {_ending(status)}" for number, status in enumerate(statuses) if status)


def _ending(status: int) -> str:
  return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def launch(command: Sequence[str], processes: int, restarts: int) -> int:
  """Runs the job until it ends for good. Returns its status, or 1 when it failed again after `restarts` restarts."""
  running: list[Job] = []
  asked: list[int] = []

  def pass_on(number: int, frame: object) -> None:
    asked.append(number)
    for job in running[-1:]:
      job.send(number)

  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, pass_on)
  for start in range(restarts + 1):
    running.append(Job(commands_of(command, processes)))
    statuses = running[-1].wait()
    final = final_status(statuses)
    if final is not None or asked:
      return 130 if final is None else final
    end = f"restarting ({start + 1} of {restarts})" if start < restarts else f"giving up after {restarts} restarts"
    print(f"launcher: {in_words(statuses)}; {end}", file=sys.stderr, flush=True)
    if start < restarts:
      time.sleep(PAUSE)
      if asked:  # asked to stop between two starts
        return 130
  return 1


def main(arguments: Sequence[str] | None = None) -> int:
  """The command line; see the module."""
  parser = argparse.ArgumentParser(
    prog="launcher", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  parser.add_argument("processes", type=int, help="how many processes to start here")
  parser.add_argument("--restarts", type=int, default=3, help="how often the job may be started again (default: 3)")
  parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
  parser.add_argument("command", nargs="+", help="what to start, after --")
  args = parser.parse_args(arguments)
  if args.processes < 1 or args.restarts < 0:
    parser.error("there must be at least 1 process and 0 restarts")
  if args.dry_run:
    for command in commands_of(args.command, args.processes):
      print(shlex.join(command))
    return 0
  return launch(args.command, args.processes, args.restarts)


if __name__ == "__main__":
  sys.exit(main())
