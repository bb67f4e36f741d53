"""Every form of the Redis URL; and none of its secrets is ever shown."""

import pytest

from ctr.errors import SettingError
from ctr.store.address import parse, shown


@pytest.mark.parametrize(("url", "kind", "hosts", "options"), [
    ("redis://h:7/2", "single", [("h", 7)], {"db": 2}),
    ("redis://", "single", [("localhost", 6379)], {}),
    ("redis://[::1]:7", "single", [("::1", 7)], {}),
    ("redis://:p%40w@h", "single", [("h", 6379)], {"password": "p@w"}),
    ("redis://u:p@h?db=3", "single", [("h", 6379)], {"username": "u", "password": "p", "db": 3}),
    ("rediss://h?ssl_ca_certs=/a%20b.pem", "single", [("h", 6379)], {"ssl": True, "ssl_ca_certs": "/a b.pem"}),
    ("unix:///tmp/x.sock?db=1", "single", [], {"unix_socket_path": "/tmp/x.sock", "db": 1}),
    ("unix://:pw@/tmp/x.sock", "single", [], {"unix_socket_path": "/tmp/x.sock", "password": "pw"}),
    ("redis+cluster://u:p@a:1,b:2,c", "cluster", [("a", 1), ("b", 2), ("c", 6379)], {"username": "u", "password": "p"}),
    ("rediss+cluster://a:1", "cluster", [("a", 1)], {"ssl": True}),
    ("redis+sentinel://a:1,b/ads/4", "sentinel", [("a", 1), ("b", 26379)], {"db": 4}),
])  # fmt: skip
def test_what_a_url_says(url, kind, hosts, options):
    place = parse(url)
    assert (place.kind, list(place.hosts), place.options) == (kind, hosts, options)
    assert place.service == ("ads" if kind == "sentinel" else "")


def test_sentinels_may_ask_for_a_login_of_their_own():
    place = parse("redis+sentinel://u:p@a/ads?sentinel_username=s&sentinel_password=t")
    assert place.sentinel == {"username": "s", "password": "t"}
    assert place.options == {"username": "u", "password": "p"}


@pytest.mark.parametrize("url", [
    "redis://[::1", "redis://u:tiger@[::1", "redis://u:ti/ger@h", "redis://u:tiger@h:port", "redis://u:tiger@h/x",
    "redis+sentinel://u:tiger@a", "redis+sentinel://u:tiger@a/", "redis+cluster://u:tiger@a/1", "http://u:tiger@a",
    "localhost", "localhost?password=tiger", "u:tiger@localhost", "", "redis://h?socket_timeout=soon&password=tiger",
    "redis+sentinel://a?sentinel_password=tiger", "redis://h:99999?password=tiger",
])  # fmt: skip
def test_a_url_that_cannot_be_read_is_refused_and_shows_no_secret(url):
    with pytest.raises(SettingError, match="redis://") as caught:
        parse(url)
    assert "ger" not in str(caught.value)


@pytest.mark.parametrize(("url", "safe"), [
    ("redis://h:1/0", "redis://h:1/0"),
    ("redis://u:p@h:1/0", "redis://***@h:1/0"),
    ("redis://u:p@w@h:1/0", "redis://***@h:1/0"),
    ("redis://h:1/0?password=tiger", "redis://h:1/0?***"),
    ("redis+sentinel://:p@a,b/m?sentinel_password=tiger", "redis+sentinel://***@a,b/m?***"),
])  # fmt: skip
def test_what_is_shown(url, safe):
    assert shown(url) == safe
    assert parse(url).shown == safe
    assert "tiger" not in repr(parse(url))
    assert "'p" not in repr(parse(url))
