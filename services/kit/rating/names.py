"""Names of providers and models: what people write, turned into forms that a rate table may know.

Only text is handled here; a rate table tries the forms in order and takes the first one that it prices.
"""

import re
from typing import Final

MAX_NAME_LENGTH: Final = 256
"""The longest provider or model name in characters."""

GATEWAYS: Final = frozenset({"litellm", "litellm_proxy", "gateway", "proxy", "portkey", "helicone"})
"""Providers that pass calls on: the model's name says who serves it."""

PROVIDER_ALIASES: Final = {
    "amazon": "aws",
    "amazon_bedrock": "aws",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "azure_ai": "azure",
    "azure_openai": "azure",
    "azure-ai": "azure",
    "azure-openai": "azure",
    "cohere_chat": "cohere",
    "fireworks_ai": "fireworks",
    "fireworks-ai": "fireworks",
    "gemini": "google",
    "google-gla": "google",
    "google-vertex": "google",
    "google_genai": "google",
    "vertex_ai": "google",
    "vertexai": "google",
    "mistralai": "mistral",
    "moonshot": "moonshotai",
    "together_ai": "together",
    "together-ai": "together",
    "togetherai": "together",
    "voyage": "voyageai",
    "xai": "x-ai",
    "z-ai": "zai",
}
"""Other names of providers, as client libraries write them."""

MAKERS: Final = (
    "openai",
    "anthropic",
    "google",
    "mistral",
    "cohere",
    "deepseek",
    "x-ai",
    "perplexity",
    "moonshotai",
    "minimax",
    "zai",
    "meta",
    "voyageai",
)
"""Providers that make the models they sell, tried in this order where no provider is named."""

_REGION: Final = r"(?:(?:us|eu|apac|ap|jp|au|ca|in|sa|us-gov|global|regional)\.)?"
_BEDROCK: Final = re.compile(
    r"(?:arn:aws[a-z-]*:bedrock:.*/)?"
    + _REGION
    + r"(?:ai21|amazon|anthropic|cohere|deepseek|meta|minimax|mistral|moonshotai|openai|qwen|stability|writer|zai)\."
    r"[a-z]"
)
_PATH: Final = re.compile(r"(?:.*/)?(?:models|deployments|foundation-model|inference-profile)/([^/]+)")
_CLAUDE: Final = re.compile(r"(.*\bclaude)-(\d+)[-.](\d+)-(opus|sonnet|haiku)(.*)")
_DATE: Final = re.compile(r"[-@](?:20\d{2}-?[01]\d-?[0-3]\d|[01]\d[0-3]\d|latest)(?=$|[-:])")
_BEDROCK_HEAD: Final = re.compile(r"^(?:.*/)?" + _REGION + r"(?:[a-z0-9]+\.)?")
_BEDROCK_TAIL: Final = re.compile(r"(?:-v\d+)?(?::\d+)?$")


class BadNameError(ValueError):
    """A provider or model name is empty, too long or has characters that no name has."""


def clean(text: str) -> str:
    """Return a name without outer blanks and in lower case.

    Raises:
        BadNameError: The name is too long or holds control characters.
    """
    if len(text) > MAX_NAME_LENGTH:
        raise BadNameError(f"the name is {len(text)} characters long; the limit is {MAX_NAME_LENGTH}")
    name = text.strip().lower()
    if not name.isprintable():
        raise BadNameError(f"{name[:80]!r} holds characters that cannot be printed")
    return name


def served_by(model: str) -> str | None:
    """Return the provider that the form of a model's name gives away, or None."""
    return "aws" if _BEDROCK.match(model) else None


def forms(model: str) -> list[str]:
    """Return the forms under which a clean model name may be known, the one as given first.

    Paths lose their folders (``models/gemini-2.5-pro``), Claude's version goes behind its family
    (``claude-4-5-sonnet``), and a date or ``latest`` is dropped last, for a dated release that is not listed yet.
    """
    found = [model]
    path = _PATH.fullmatch(model)
    if path:
        found.append(path.group(1))
    found += [_CLAUDE.sub(r"\1-\4-\2-\3\5", form) for form in found]
    found += [_DATE.sub("", form, count=1) for form in found]
    return list(dict.fromkeys(found))


def bedrock_family(model: str) -> str:
    """Return a Bedrock id without region, vendor, date and revision.

    ``us.anthropic.claude-sonnet-4-5-20250929-v1:0`` and ``claude-4-5-sonnet`` are both ``claude-sonnet-4-5``.
    """
    name = _BEDROCK_HEAD.sub("", model, count=1)
    name = _BEDROCK_TAIL.sub("", _CLAUDE.sub(r"\1-\4-\2-\3\5", name), count=1)
    return _DATE.sub("", name, count=1)
