"""Why a command could not do what was asked, in one sentence a person can act on."""


class CommandError(Exception):
    """Ends the command with exit code 1. The message is shown as it is: it says what is wrong and what to do."""
