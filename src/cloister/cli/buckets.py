"""Buckets, as options say them: `s3://BUCKET/PREFIX`, and credentials in a file as AWS's tools have it."""

import configparser
import re

from cloister.cli.failure import CommandError


def place(text: str) -> tuple[str, str]:
    """The bucket, and the prefix with a slash at its end, or none."""
    match = re.fullmatch(r"s3://([^/]+)/?(.*?)/?", text)
    if match is None:
        raise CommandError("a place in S3 is s3://BUCKET or s3://BUCKET/PREFIX")
    return match[1], f"{match[2]}/" if match[2] else ""


def credentials(text: str, where: str, profile: str = "default") -> tuple[str, str]:
    """Id and secret of a profile; of the default one, or the first, where that is asked for."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        name = profile if profile in parser or profile != "default" else parser.sections()[0]
        return parser[name]["aws_access_key_id"], parser[name]["aws_secret_access_key"]
    except (configparser.Error, KeyError, IndexError) as error:
        raise CommandError(f"{where}: no [{profile}] with aws_access_key_id and aws_secret_access_key") from error
