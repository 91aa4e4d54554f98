"""Exceptions. A user's mistake is a plain ValueError."""


class EnvironmentFault(RuntimeError):  # noqa: N818 - a fault of the machine, not an error of the program
    """The command is right, but the machine fails: disk, network, compiler, hardware.

    The message is one line: what failed and what to do. The command line prints it and exits with status 1; for a
    ValueError (a mistake in the command) it exits with status 2.

    Attributes:
        speaks: whether this process prints the message; of several that fail together, not all do.
    """

    speaks = True


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; "" if it says nothing."""
    return str(error).strip().partition("\n")[0]
