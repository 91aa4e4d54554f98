"""The one exception of our own; a user's mistake is a plain ValueError."""


class EnvironmentFault(RuntimeError):  # noqa: N818 - a fault of the machine, no error of the program
    """The machine refuses, and the user's command is right: disk, network, compiler, hardware.

    The message is one line that says what failed and what to do. The command line prints it and exits with
    status 1, where a ValueError (a mistake in the command) exits with status 2.
    """
