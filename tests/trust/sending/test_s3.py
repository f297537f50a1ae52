"""What is asked of a store, to the byte, where stores read it in more than one way."""

import pytest

from cloister.trust.sending import s3
from cloister.trust.sending.https import Answer
from cloister.trust.sending.s3 import Bucket, RefusedError
from cloister.trust.sending.sigv4 import Credentials


class Asked:
    """Instead of a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> None:
        self.urls: list[str] = []
        self._answers = list(answers)
        self.bucket = Bucket("https://store.example.com/kept", Credentials("id", "secret", "here"))
        monkeypatch.setattr(s3, "exchange", self._exchange)

    async def _exchange(self, _method: str, url: str, *_given: object, **_options: object) -> Answer:
        self.urls.append(url)
        return self._answers.pop(0)


async def test_a_plus_in_a_key_is_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a path it is a space to some."""
    asked = Asked(monkeypatch, Answer(200, {"x-amz-version-id": "7"}, b""))
    assert await asked.bucket.put("a/b+c-d", b"x", kind="text/plain", retain_days=0) == "7"
    assert asked.urls == ["https://store.example.com/kept/a/b%2Bc-d"]


def listing(*entries: str, more: str = "") -> Answer:
    return Answer(
        200, {}, f"<L><IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}{''.join(entries)}</L>".encode()
    )


def entry(key: str, version: str, at: str, *, kind: str = "Version", latest: bool = False) -> str:
    return (
        f"<{kind}><Key>{key}</Key><VersionId>{version}</VersionId><IsLatest>{'true' if latest else 'false'}</IsLatest>"
        f"<LastModified>{at}</LastModified><Size>5</Size></{kind}>"
    )


async def test_versions_and_markers_are_in_the_order_of_keys_and_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order a store gives them in."""
    found = listing(
        entry("b", "b1", "2026-05-01T12:00:00.000Z", latest=True),
        entry("a", "a1", "2026-05-01T12:00:00.000Z"),
        entry("a", "a2", "2026-05-01T12:00:01.000Z"),
        entry("a", "a3", "2026-05-01T12:00:01.000Z", kind="DeleteMarker", latest=True),
    )
    asked = Asked(monkeypatch, found, found)
    page = await asked.bucket.page("", after=("", ""))
    assert [(each.version, each.is_marker) for each in page.versions] == [
        ("a3", True), ("a2", False), ("a1", False), ("b1", False),
    ]  # fmt: skip
    assert page.next is None
    assert [each.version for each in await asked.bucket.versions("")] == ["a2", "a1", "b1"]


async def test_a_list_goes_on_where_its_page_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    more = "<NextKeyMarker>a&amp;b</NextKeyMarker><NextVersionIdMarker>v+1</NextVersionIdMarker>"
    asked = Asked(monkeypatch, listing(more=more), listing())
    assert await asked.bucket.versions("p/") == []
    assert "key-marker=a%26b&max-keys=1000&prefix=p%2F&version-id-marker=v%2B1&versions=" in asked.urls[1]


async def test_a_key_of_characters_that_xml_does_not_know_is_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the writer's credentials may call an object so, and make it the last of a page."""
    at = "2026-05-01T12:00:00.000Z"
    more = (
        "<EncodingType>url</EncodingType><NextKeyMarker>a/%01z</NextKeyMarker>"
        "<NextVersionIdMarker>v1</NextVersionIdMarker>"
    )
    asked = Asked(
        monkeypatch,
        listing(entry("a/%01z", "v1", at), more=more),
        listing(entry("a/+b", "v2", at), entry("a/0%2B1", "v3", at), more="<EncodingType>url</EncodingType>"),
    )
    first = await asked.bucket.page("a/", after=("", ""))
    assert first.next == ("a/\x01z", "v1")
    second = await asked.bucket.page("a/", after=first.next)
    assert [each.key for each in (*first.versions, *second.versions)] == ["a/\x01z", "a/ b", "a/0+1"]
    assert "encoding-type=url" in asked.urls[0]
    assert "key-marker=a%2F%01z" in asked.urls[1]


@pytest.mark.parametrize(
    ("status", "code", "may_pass"),
    [(503, "SlowDown", True), (500, "", True), (429, "", True), (400, "RequestTimeout", True), (403, "AccessDenied", False),
     (404, "NoSuchKey", False), (400, "BadDigest", False)],
)  # fmt: skip
async def test_a_refusal_says_whether_asking_again_may_help(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, may_pass: bool
) -> None:
    asked = Asked(monkeypatch, Answer(status, {}, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()))
    with pytest.raises(RefusedError) as error:
        await asked.bucket.get("a")
    assert error.value.may_pass is may_pass
    assert error.value.public == f"answered {status} {code}: m"
