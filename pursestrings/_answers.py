"""A model provider's answer, whole or in chunks: what it says of its use, and nothing of what it says."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

from pursestrings.metering.v1 import metering_pb2

Chunk = TypeVar("Chunk")

_NAMES: Final = ("model", "modelVersion", "service_tier", "object")
_USES: Final = ("usage", "usageMetadata")
_WRAPPERS: Final = ("message", "response", "metadata")
# What a model of pydantic is asked for, by its own names; the rest of it may be long, and is nobody's here.
_FIELDS: Final = {*_NAMES, *_USES, *_WRAPPERS, "usage_metadata", "model_version"}
# One of these has every usage object, and nothing else at its top.
_BARE: Final = frozenset({"prompt_tokens", "input_tokens", "inputTokens", "promptTokenCount"})
_STREAM_HINT: Final = "; for a streamed chat completion of OpenAI ask for it with stream_options.include_usage"


class Answer:
    """A provider's answer for `record`, read by the service: also what `record` cannot read itself.

    Understood are OpenAI (chat, responses, images), Anthropic, Gemini and Bedrock. Only what the answer says of its
    use, its model and its service tier is sent, never its text.

    Args:
        answer: As it came: JSON (text or bytes), a mapping, or an SDK's object.
        api: The form of the API, such as `openai.chat`, where it is not to be recognised by its fields.

    Raises:
        TypeError: It is none of these.
        ValueError: It is no JSON, or says nothing of its use.
    """

    def __init__(self, answer: object, *, api: str = "") -> None:
        self._said = _Said(api)
        for one in _read(answer):
            self._said.add(one, bare=True)
        self._said.to_proto()

    def to_proto(self) -> metering_pb2.ProviderResponse:
        """The answer as the contract has it."""
        return self._said.to_proto()


class Chunks(Generic[Chunk]):
    """A streamed answer: hands on its chunks as they come, and keeps what they say of their use, for `record`.

        chunks = Chunks(await openai.chat.completions.create(..., stream=True, stream_options={"include_usage": True}))
        async for chunk in chunks:
            ...
        call.record(chunks)

    It is read as `Answer` is. A stream that is left early may have said nothing of its use yet, or a part.

    Args:
        stream: The chunks, in an iterable or an asynchronous one: JSON, lines of server-sent events, mappings or an
            SDK's objects.
        api: As for `Answer`.
    """

    def __init__(self, stream: Iterable[Chunk] | AsyncIterable[Chunk], *, api: str = "") -> None:
        self._stream = stream
        self._said = _Said(api)

    def __iter__(self) -> Iterator[Chunk]:
        if not isinstance(self._stream, Iterable):
            raise TypeError("the stream is asynchronous; use `async for`")
        for chunk in self._stream:
            self.add(chunk)
            yield chunk

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        if not isinstance(self._stream, AsyncIterable):
            raise TypeError("the stream is not asynchronous; use `for`")
        async for chunk in self._stream:
            self.add(chunk)
            yield chunk

    def add(self, chunk: object) -> None:
        """Looks at a chunk that came another way."""
        for one in _read(chunk):
            self._said.add(one, bare=False)

    def to_proto(self) -> metering_pb2.ProviderResponse:
        """The answer as the contract has it, as far as it has come.

        Raises:
            ValueError: No chunk so far says what was used.
        """
        return self._said.to_proto()


class _Said:
    """What an answer's parts say of its use: later ones take the place of what was said before."""

    def __init__(self, api: str) -> None:
        self._api = api
        self._parts = 0
        self._root = "usage"
        self._use: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    def add(self, part: Mapping[str, Any], *, bare: bool) -> None:
        """Takes in a part; `bare`, it may be the usage object itself."""
        self._parts += 1
        inner = next((part[name] for name in _WRAPPERS if isinstance(part.get(name), Mapping)), part)
        found = False
        for name in _USES:
            said = inner.get(name, part.get(name))
            if isinstance(said, Mapping):
                found, self._root = True, name
                self._use.update({key: value for key, value in said.items() if value is not None})
        if bare and not found and not _BARE.isdisjoint(part):
            self._root = "usageMetadata" if "promptTokenCount" in part else "usage"
            self._use.update(part)
            return
        self._names.update({name: inner[name] for name in _NAMES if isinstance(inner.get(name), str)})

    def to_proto(self) -> metering_pb2.ProviderResponse:
        if not self._use:
            parts = "the answer says nothing" if self._parts == 1 else f"none of {self._parts} chunks says anything"
            raise ValueError(f"{parts} of what was used{_STREAM_HINT}")
        body = json.dumps({**self._names, self._root: self._use}, default=str)
        return metering_pb2.ProviderResponse(api=self._api, body=body.encode())


def _read(value: object) -> Iterable[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        return (value,)
    if isinstance(value, str | bytes):
        return _parsed(value.encode() if isinstance(value, str) else value)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return (dump(mode="json", by_alias=True, include=_FIELDS),)
    to_dict = getattr(value, "to_dict", None)
    if callable(to_dict):
        return (to_dict(),)
    raise TypeError(f"{type(value).__name__} is no answer that can be read: pass JSON, a mapping or the SDK's object")


def _parsed(data: bytes) -> Iterator[Mapping[str, Any]]:
    """JSON, or lines of server-sent events."""
    text = data.strip()
    parts = [text]
    if text.startswith((b"data:", b"event:", b"id:", b":")):
        lines = (line.strip() for line in text.splitlines())
        parts = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    for part in parts:
        if not part or part == b"[DONE]":
            continue
        try:
            found = json.loads(part)
        except ValueError:
            found = None
        if isinstance(found, dict):
            yield found
            continue
        raise ValueError("the answer is no JSON object; pass it as it came")
