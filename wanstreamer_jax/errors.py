"""Errors that a user can act on. The command line prints each as one line and exits with its status."""


class UserError(Exception):
  """Bad input or configuration: the message names the value, what was expected, and what to do."""

  status = 2  # of the process that ends with it


class ConfigError(UserError):
  """A configuration that cannot work. The message states the numbers that do not fit."""


class MediaError(UserError):
  """A media file that cannot be read or written."""


class DataError(UserError):
  """A record, manifest or world file that is missing, damaged or invalid."""


class CheckpointError(UserError):
  """A checkpoint that is missing, incomplete, of another format or of another configuration."""


class TrainingError(UserError):
  """A training run that cannot go on: a loss that is not finite, or a run folder that cannot be written."""


class LostHostError(UserError):
  """Another process of the same job is gone. Nothing is wrong in this one, and the job can be started again."""

  status = 75  # EX_TEMPFAIL: launchers start the job again


class Stopped(KeyboardInterrupt):
  """Training was asked to stop. All processes stopped at the same step, with everything saved."""


def one_line(error: BaseException, length: int = 120) -> str:
  """An exception's text on one line of at most `length` characters, for other libraries' messages inside ours."""
  text = " ".join(str(error).split())
  return text if len(text) <= length else text[: length - 3] + "..."


def one_line_with_type(error: BaseException) -> str:
  """An exception of another library that may be of any type, as one line: `ValueError: no such array`."""
  return f"{type(error).__name__}: {one_line(error, 200)}"
