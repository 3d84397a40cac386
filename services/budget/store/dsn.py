"""The planner settings that the hot statements need."""

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

# The statements are look-ups by key with arrays. Plans are made once and kept; one that was made while a table was
# still small would read all of it for ever after it has grown.
_SETTINGS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}


def for_lookups(dsn: str) -> str:
    """The address with settings under which every statement goes by an index; what it says already stays."""
    parts = urlsplit(dsn)
    query = {**_SETTINGS, **dict(parse_qsl(parts.query))}
    return urlunsplit(parts._replace(query=urlencode(query)))
