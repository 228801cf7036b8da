"""A language model behind an OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from ovbench.utils.errors import InputError, UsageError, first_line

KEY_VARIABLE = "OVBENCH_LLM_KEY"
ATTEMPTS = 5
TIMEOUT_S = 300.0
BUSY = (408, 429, 500, 502, 503, 504)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Turn every redirect into an error: urllib would send the key to the new host, and a POST as a GET."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


@dataclass(frozen=True)
class ChatClient:
    """A model behind the chat completions endpoint of a server; the key is read from ``$OVBENCH_LLM_KEY``.

    Args:
        base_url: Address of the server, as in "http://localhost:8000/v1".
        model: Name of the model on the server.
        max_tokens: Longest answer; None leaves it to the server.

    Raises:
        UsageError: If ``base_url`` is not an HTTP address.
    """

    base_url: str
    model: str
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise UsageError(
                f'"{self.base_url}" is not the address of a server', where="--base-url",
                fix="give it as http://host:port/v1",
            )  # fmt: skip

    @property
    def url(self) -> str:
        """Address of the endpoint."""
        return self.base_url.rstrip("/") + "/chat/completions"

    def __call__(self, content: str | Sequence[dict[str, Any]]) -> str:
        """Return the answer to one message, without sampling; a busy server is asked again.

        Args:
            content: A prompt, or the parts of a message (text, images) as the endpoint takes them.

        Returns:
            The answer; empty if the model refuses.

        Raises:
            InputError: If the server does not answer, refuses, redirects, or sends something else.
        """
        message = {"role": "user", "content": content}
        body: dict[str, Any] = {"model": self.model, "temperature": 0, "messages": [message]}
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        reply = self._post(urllib.request.Request(self.url, json.dumps(body).encode(), _headers()))
        try:
            return (reply["choices"][0]["message"]["content"] or "").strip()
        except (KeyError, IndexError, TypeError, AttributeError):
            raise InputError("the server's answer is not a chat completion", where=self.url) from None

    def _post(self, request: urllib.request.Request) -> Any:
        opener = urllib.request.build_opener(_NoRedirect)
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(min(2**attempt * 0.25, 8.0))
            try:
                with opener.open(request, timeout=TIMEOUT_S) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                if error.code not in BUSY:
                    raise self._refusal(error) from None
                reason = f"{error.code} {error.reason}"
            except (OSError, HTTPException) as error:
                reason = first_line(error)
            except ValueError as error:
                problem = f"the address or the server's answer cannot be read: {first_line(error)}"
                raise InputError(problem, where=self.url, fix="check --base-url") from None
        fix = "check --base-url; repeat the command to resume"
        raise InputError(f"the server does not answer: {reason}", where=self.url, fix=fix)

    def _refusal(self, error: urllib.error.HTTPError) -> InputError:
        if 300 <= error.code < 400:
            target = error.headers.get("Location", "another address")
            return InputError(
                f'the server redirects to "{target}", which is not followed', where=self.url,
                fix="give the final address with --base-url",
            )  # fmt: skip
        detail = error.read(300).decode("utf-8", "replace").strip() or error.reason
        fix = f"set {KEY_VARIABLE}" if error.code in (401, 403) else "check the model's name and --base-url"
        return InputError(f"the server answered {error.code}: {detail}", where=self.url, fix=fix)


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):  # urllib's own message would print the key
        raise UsageError("the key has characters that are invalid in a header", where=f"${KEY_VARIABLE}", fix="set it")
    return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
