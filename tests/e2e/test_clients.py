"""The clients that people have, against the demo model on two ranks."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from tests.e2e.cluster_process import Server, serving

NPM = Path(__file__).parent / "clients"
QUESTION = "What is the capital of France?"
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"name": "weather", "description": "Tells the weather.", "parameters": CITY}
TOOLS: Any = [{"type": "function", "function": WEATHER}]
CROWD = 200


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--local-ranks", "2", "--queue", str(CROWD)) as server:
        yield server


@pytest.fixture(scope="module")
def model(server: Server) -> str:
    served: str = server.http.get("/v1/models").json()["data"][0]["id"]
    return served


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm")
def test_npm_clients(server: Server, model: str) -> None:
    """openai, @anthropic-ai/sdk and ai; see clients/run.mjs."""
    if not (NPM / "node_modules").is_dir():
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(command, cwd=NPM, check=True, timeout=240)
    asked = ["node", "run.mjs", server.url, model]
    done = subprocess.run(asked, cwd=NPM, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line for line in lines if not line.startswith("ok ")] == []
    assert len(lines) >= 17
    server.wait_idle()


def told_by_every_dialect(server: Server, model: str) -> dict[str, tuple[str, int, int]]:
    """(text, prompt tokens, answer tokens) of one question, by dialect."""
    url = server.url
    told: dict[str, tuple[str, int, int]] = {}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        chat = client.chat.completions.create(
            model=model, temperature=0, max_tokens=20,
            messages=[{"role": "user", "content": QUESTION}],
        )  # fmt: skip
        assert chat.usage is not None
        usage = chat.usage
        text = chat.choices[0].message.content or ""
        told["chat"] = (text, usage.prompt_tokens, usage.completion_tokens)
        response = client.responses.create(
            model=model, temperature=0, max_output_tokens=20, input=QUESTION
        )
        assert response.usage is not None
        counts = (response.usage.input_tokens, response.usage.output_tokens)
        told["responses"] = (response.output_text, *counts)
    bench = server.http.post(
        "/bench/chat/completions",
        json={"messages": [{"role": "user", "content": QUESTION}], "temperature": 0,
              "max_tokens": 20, "use_prefix_cache": False},
    ).json()  # fmt: skip
    assert bench["bench"]["cached_tokens"] == 0
    assert bench["bench"]["ranks"] == 2
    text = bench["choices"][0]["message"]["content"]
    told["bench"] = (text, bench["bench"]["prompt_tokens"], bench["bench"]["completion_tokens"])
    with anthropic.Anthropic(base_url=url, api_key="-", max_retries=0) as claude:
        messages: Any = [{"role": "user", "content": QUESTION}]
        message = claude.messages.create(
            model=model, max_tokens=20, messages=messages, extra_body={"temperature": 0}
        )
        count = claude.messages.count_tokens(model=model, messages=messages).input_tokens
        used = message.usage
        prompt = used.input_tokens + (used.cache_read_input_tokens or 0)
        assert prompt + (used.cache_creation_input_tokens or 0) == count
        assert message.content[0].type == "text"
        told["messages"] = (message.content[0].text, count, used.output_tokens)
    with ollama.Client(host=url) as local:
        options = {"temperature": 0, "num_predict": 20}
        answered = local.chat(model, [{"role": "user", "content": QUESTION}], options=options)
        text, counts = answered.message.content, (answered.prompt_eval_count, answered.eval_count)
        told["ollama chat"] = (text or "", counts[0] or 0, counts[1] or 0)
        generated = local.generate(model, QUESTION, options=options)
        told["ollama generate"] = (
            generated.response, generated.prompt_eval_count or 0, generated.eval_count or 0
        )  # fmt: skip
    return told


def test_text_and_usage_are_the_same_in_every_dialect(server: Server, model: str) -> None:
    told = told_by_every_dialect(server, model)
    assert len(told) == 6
    assert len(set(told.values())) == 1, told


def test_tools_and_schemas_of_the_python_clients(server: Server, model: str) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        asked: Any = [{"role": "user", "content": "Weather in Paris?"}]
        made = client.chat.completions.create(
            model=model, messages=asked, tools=TOOLS, tool_choice="required", max_tokens=80
        )
        message = made.choices[0].message
        assert message.tool_calls is not None
        call = message.tool_calls[0]
        assert call.type == "function"
        assert isinstance(json.loads(call.function.arguments)["city"], str)
        assert made.usage is not None
        asked += [message, {"role": "tool", "tool_call_id": call.id, "content": "Rain."}]
        more = client.chat.completions.create(
            model=model, messages=asked, tools=TOOLS, max_tokens=8
        )
        assert more.usage is not None
        assert more.usage.prompt_tokens_details is not None
        # The call goes back as the tokens it was sampled as, so all of them are cached.
        sampled = made.usage.prompt_tokens + made.usage.completion_tokens
        assert (more.usage.prompt_tokens_details.cached_tokens or 0) >= sampled - 2
    with ollama.Client(host=server.url) as local:
        answered = local.chat(
            model,
            [{"role": "user", "content": "A city."}],
            format=CITY,
            options={"num_predict": 60},
        )
        assert isinstance(json.loads(answered.message.content or "")["city"], str)


async def _one_of_a_crowd(
    client: httpx.AsyncClient, number: int, wanted: dict[int, str], leaves: bool
) -> bool:
    """True for a client that got its whole answer, or left as it wanted to."""
    body = {
        "messages": [{"role": "user", "content": f"What is {number % 8} plus one?"}],
        "temperature": 0, "max_tokens": 12, "stream": True,
    }  # fmt: skip
    text: list[str] = []
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                return not leaves and "".join(text) == wanted[number % 8]
            if line.startswith("data: "):
                (choice,) = json.loads(line[6:])["choices"]
                text.append(choice["delta"].get("content") or "")
                if leaves and len(text) > number % 5:
                    return True
    return False


def test_a_crowd_of_which_a_tenth_hang_up(server: Server) -> None:
    def alone(number: int) -> str:
        answer = server.chat(f"What is {number} plus one?", temperature=0, max_tokens=12)
        text: str = answer["choices"][0]["message"]["content"]
        return text

    wanted = {number: alone(number) for number in range(8)}
    leavers = set(random.Random(5).sample(range(CROWD), CROWD // 10))

    async def crowd() -> list[bool]:
        limits = httpx.Limits(max_connections=CROWD)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            each = (_one_of_a_crowd(client, n, wanted, n in leavers) for n in range(CROWD))
            return await asyncio.gather(*each)

    before = server.output
    assert all(asyncio.run(crowd()))
    view = server.wait_idle()
    assert view["counters"]["orphan_tokens"] == 0
    assert server.output == before  # not a line in the log


def test_streams_errors_and_timeouts_of_the_openai_client(server: Server, model: str) -> None:
    asked: Any = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        whole = client.chat.completions.create(**asked, temperature=0, max_tokens=20)
        stream = client.chat.completions.create(**asked, temperature=0, max_tokens=20, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == whole.choices[0].message.content
        with client.responses.stream(
            model=model, input=QUESTION, temperature=0, max_output_tokens=400
        ) as events:
            # The client knows no other end than a complete one.
            assert events.get_final_response().output_text.startswith(text)
        legacy: Any = {"model": model, "prompt": QUESTION, "temperature": 0, "max_tokens": 8}
        parts = client.completions.create(**legacy, stream=True)
        assert "".join(part.choices[0].text for part in parts) == (
            client.completions.create(**legacy).choices[0].text
        )
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**{**asked, "model": "no such model"})
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**asked, top_p=7)
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.05).chat.completions.create(
                **asked, max_tokens=4000, extra_body={"ignore_eos": True}
            )
        with client.chat.completions.create(
            **asked, stream=True, max_tokens=4000, extra_body={"ignore_eos": True}
        ) as left:
            next(iter(left))
    server.wait_idle()


def test_streams_tools_and_errors_of_the_anthropic_client(server: Server, model: str) -> None:
    asked: Any = {"model": model, "max_tokens": 80}
    question: Any = [{"role": "user", "content": QUESTION}]
    tool: Any = {"name": "weather", "input_schema": CITY}
    with anthropic.Anthropic(base_url=server.url, api_key="-", max_retries=0) as claude:
        with claude.messages.stream(
            **asked, messages=question, tools=[tool], tool_choice={"type": "any"}
        ) as stream:
            message = stream.get_final_message()
        (call,) = (block for block in message.content if block.type == "tool_use")
        assert isinstance(call.input, dict) and isinstance(call.input["city"], str)
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain."}
        follow: Any = [
            *question,
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [result]},
        ]
        with claude.messages.stream(**asked, messages=follow, tools=[tool]) as stream:
            assert stream.get_final_message().content
        assert (stream.get_final_message().usage.cache_read_input_tokens or 0) > 0
        with pytest.raises(anthropic.NotFoundError):
            claude.messages.create(**{**asked, "model": "no such model"}, messages=question)
        with pytest.raises(anthropic.BadRequestError):
            claude.messages.create(**{**asked, "max_tokens": 0}, messages=question)
        with claude.messages.stream(**{**asked, "max_tokens": 4000}, messages=question) as left:
            next(iter(left))
    server.wait_idle()


def test_streams_and_lists_of_the_ollama_client(server: Server, model: str) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    options = {"temperature": 0, "num_predict": 20}
    with ollama.Client(host=server.url) as local:
        whole = local.chat(model, messages, options=options)
        parts = list(local.chat(model, messages, options=options, stream=True))
        assert "".join(part.message.content or "" for part in parts) == whole.message.content
        assert parts[-1].done and parts[-1].eval_duration
        pieces = local.generate(model, QUESTION, options=options, stream=True)
        assert "".join(piece.response for piece in pieces) == whole.message.content
        (listed,) = local.list().models
        assert (listed.model or "").removesuffix(":latest") == model
        assert local.show(model).capabilities
        assert local.ps().models
        with pytest.raises(ollama.ResponseError) as caught:
            local.chat("no such model", messages)
        assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError):
            local.embed(model, "text")
    server.wait_idle()
