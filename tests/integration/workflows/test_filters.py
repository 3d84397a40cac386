"""The list filters in the docs are ones that Temporal takes."""

import re

from temporalio.client import Client

from tests.support.databases import CHECKOUT

_FILTER = re.compile(r"^\| [^|]+ \| `([^`]+)` \|$", re.MULTILINE)


async def test_every_filter_in_the_docs_is_one(temporal: Client) -> None:
    text = (CHECKOUT / "docs" / "workflows.md").read_text()
    _, _, section = text.partition("## List filters")
    filters = _FILTER.findall(section.partition("\n## ")[0])
    assert len(filters) >= 10
    for one in filters:
        assert (await temporal.count_workflows(one)).count >= 0
