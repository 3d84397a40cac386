"""Which hosts are public: where the suite may be told to call. A name is judged by itself, not by what it resolves to.

Whoever calls judges the resolved address again, with `is_public_address`, and connects to just that one.
"""

import ipaddress
import re
from typing import Final

_NAME_CHARS_MAX: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE).fullmatch
_TOP: Final = re.compile(r"[a-z][a-z0-9-]*[a-z0-9]", re.IGNORECASE).fullmatch
# Names that only mean something inside a network.
_LOCAL: Final = ("localhost", "local", "internal", "svc", "intranet", "lan", "home", "corp", "arpa", "test", "invalid")
# All that the IPv6 internet uses. Outside lie addresses that hold an IPv4 one (::/96, ::ffff:0:0:0/96, NAT64),
# site-local ones (fec0::/10) and whatever is not given out yet.
_INTERNET: Final = ipaddress.ip_network("2000::/3")
# An IPv4 address travels inside the first two, 6to4 and Teredo; the last one is for documents.
_NOT_OF_IT: Final = tuple(ipaddress.ip_network(one) for one in ("2002::/16", "2001::/32", "3fff::/20"))
# The way to 6to4, which ended in 2015.
_RELAYS: Final = ipaddress.ip_network("192.88.99.0/24")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public_address(address: Address) -> bool:
    """Whether an address is of the public internet, and nothing else by another name."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public_address(address.ipv4_mapped)
        if address.scope_id is not None or address not in _INTERNET or any(address in one for one in _NOT_OF_IT):
            return False
    elif address in _RELAYS:
        return False
    return address.is_global and not address.is_multicast


def is_public_host(host: str) -> bool:
    """Whether a URL's host may be a public one: a public address, or a name of at least two labels outside local zones.

    Numbers in other notations (`0x7f.1`, `2130706433`) are no names: resolvers take them for addresses.
    """
    try:
        return is_public_address(ipaddress.ip_address(host))
    except ValueError:
        pass
    name = host.removesuffix(".").lower()
    labels = name.split(".")
    return (
        len(name) <= _NAME_CHARS_MAX
        and len(labels) > 1
        and all(_LABEL(label) for label in labels)
        and _TOP(labels[-1]) is not None
        and labels[-1] not in _LOCAL
    )


def is_this_machine(host: str) -> bool:
    """Whether a URL's host is this machine, by its usual name or by address."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
