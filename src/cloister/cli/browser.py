"""Sends somebody's browser to an address that the platform names."""

import webbrowser

from cloister.cli import output as out
from cloister.cli.failure import CommandError


def show(url: str, to_do: str, *, in_browser: bool) -> None:
    """Nothing but https is handed to the browser: a platform of somebody else's must not choose what opens on this machine.
    `to_do`: what whoever sits there does then."""
    if not url.startswith("https://") or not url.isprintable() or " " in url:
        raise CommandError("the platform names no address to go to")
    if not in_browser or not webbrowser.open(url):
        out.note(f"Open this in your browser, and {to_do}:\n\n  {url}\n")
    else:
        out.note(f"Your browser has been opened: {to_do}.")
