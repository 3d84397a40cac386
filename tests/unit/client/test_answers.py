"""What a provider's answer says of its use is sent, whole or streamed, and none of its text."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from pursestrings import Answer, AsyncClient, Chunks, Client
from services.metering.domain.responses import Read, read
from tests.unit.client.servicer import Book, Served

BOT = "orgs/acme/agents/bot"
SECRET = "what nobody else should read"
CHAT = {
    "object": "chat.completion",
    "model": "gpt-4o",
    "service_tier": "priority",
    "choices": [{"message": {"content": SECRET}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"audio_tokens": 2}},
}
RESPONSE = {
    "object": "response",
    "model": "gpt-5",
    "output": [SECRET],
    "usage": {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 3, "total_tokens": 13},
}
MESSAGE = {
    "type": "message",
    "model": "claude-sonnet-4-5",
    "content": [{"text": SECRET}],
    "usage": {"input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 1, "service_tier": "batch"},
}
GEMINI = {
    "modelVersion": "gemini-2.5-flash",
    "candidates": [SECRET],
    "usageMetadata": {
        "promptTokenCount": 8,
        "candidatesTokenCount": 6,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 5}, {"modality": "AUDIO", "tokenCount": 3}],
    },
}
CONVERSE = {"output": {"message": {"content": SECRET}}, "usage": {"inputTokens": 3, "outputTokens": 2}}
ANSWERS = [CHAT, RESPONSE, MESSAGE, GEMINI, CONVERSE]
STREAMS: list[list[dict[str, Any]]] = [
    [{"model": "gpt-4o", "choices": [{"delta": {"content": SECRET}}], "usage": None}, CHAT | {"choices": []}],
    [
        {"type": "response.created", "response": {"object": "response", "model": "gpt-5", "usage": None}},
        {"type": "response.output_text.delta", "delta": SECRET},
        {"type": "response.completed", "response": RESPONSE},
    ],
    [
        {"type": "message_start", "message": MESSAGE},
        {"type": "content_block_delta", "delta": {"text": SECRET}},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}},
    ],
    [{"usageMetadata": {"promptTokenCount": 8}, "modelVersion": "gemini-2.5-flash"}, GEMINI],
    [{"contentBlockDelta": {"delta": SECRET}}, {"metadata": {"usage": {"inputTokens": 3, "outputTokens": 2}}}],
]


def understood(said: Answer | Chunks[Any]) -> Read:
    sent = said.to_proto()
    assert SECRET.encode() not in sent.body
    return read(sent.api, sent.body, sent.events)


async def arriving(chunks: Iterable[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_understood_as_the_service_would(answer: dict[str, Any]) -> None:
    expected = read("", json.dumps(answer).encode(), ())
    for given in (answer, json.dumps(answer), json.dumps(answer).encode()):
        assert understood(Answer(given)) == expected
    usage = answer.get("usage", answer.get("usageMetadata"))
    assert understood(Answer(usage)).tokens == expected.tokens
    assert understood(Answer(usage)).extra == expected.extra


@pytest.mark.parametrize("chunks", STREAMS)
async def test_a_stream_is_handed_on_and_understood_as_the_service_would(chunks: list[dict[str, Any]]) -> None:
    expected = read("", b"", [json.dumps(chunk).encode() for chunk in chunks])
    lines = [f"event: e\ndata: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]
    for given in (chunks, lines):
        together, apart = Chunks(given), Chunks(arriving(given))
        assert list(together) == given
        assert [chunk async for chunk in apart] == given
        assert understood(together) == understood(apart) == expected


def test_objects_of_sdks_are_read() -> None:
    class Usage(BaseModel):
        model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
        prompt_token_count: int
        candidates_token_count: int

    class Gemini(BaseModel):
        model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, protected_namespaces=())
        model_version: str
        candidates: list[str]
        usage_metadata: Usage

    answer = Gemini(
        model_version="gemini-2.5-flash",
        candidates=[SECRET],
        usage_metadata=Usage(prompt_token_count=8, candidates_token_count=6),
    )
    found = understood(Answer(answer))
    assert (found.tokens, found.model) == ((8, 0, 0, 6, 0), "gemini-2.5-flash")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"choices": [SECRET]}, ValueError),
        ("no json", ValueError),
        ("[1]", ValueError),
        (7, TypeError),
    ],
)
def test_what_says_nothing_of_its_use_is_refused(answer: object, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        Answer(answer)
    assert SECRET not in str(caught.value)


async def test_a_stream_without_a_word_of_its_use_says_how_to_get_one(client: AsyncClient, book: Book) -> None:
    chunks: Chunks[Any] = Chunks([{"choices": []}, {"choices": []}])
    assert len(list(chunks)) == 2
    with pytest.raises(ValueError, match=r"none of 2 chunks .*include_usage"):
        await client.record(BOT, chunks)
    with pytest.raises(TypeError, match="async for"):
        list(Chunks(arriving([])))
    assert book.recorded == {}


async def test_answers_and_hashes_are_recorded(client: AsyncClient, book: Book) -> None:
    async with client.reserve(BOT, model="gpt-4o") as call:
        chunks = Chunks(arriving(STREAMS[0]))
        async for _ in chunks:
            pass
        call.record(chunks, prompt_hash=b"h" * 32)
    await client.record(BOT, Answer(MESSAGE, api="anthropic"), prompt_hash=b"g", event_id="1")

    streamed, whole = book.recorded.values()
    assert not streamed.HasField("tokens")
    assert json.loads(streamed.provider_response.body)["usage"]["prompt_tokens"] == 9
    assert (streamed.prompt_hash, whole.prompt_hash) == (b"h" * 32, b"g")
    assert whole.provider_response.api == "anthropic"
    for wrong, error in ((b"h" * 65, ValueError), ("text", TypeError)):
        with pytest.raises(error, match="prompt_hash"):
            await client.record(BOT, Answer(MESSAGE), prompt_hash=wrong)  # type: ignore[arg-type]


async def test_the_synchronous_client_records_them_too(served: Served, book: Book) -> None:
    def work() -> None:
        with Client(served.address, served.address, token="t") as client:
            with client.reserve(BOT) as call:
                chunks = Chunks(STREAMS[2])
                for _ in chunks:
                    pass
                call.record(chunks, prompt_hash=b"h")
            client.record(BOT, Answer(CHAT), prompt_hash=b"g")

    await asyncio.to_thread(work)
    assert sorted(event.prompt_hash for event in book.recorded.values()) == [b"g", b"h"]
