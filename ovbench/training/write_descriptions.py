"""Descriptions of classes, written by a language model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ovbench.data.descriptions import DescriptionSet, read_set, write_set
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.extras import install_line

PROMPT = (
    'How does "{name}" look in a photo? Write {count} different short sentences, one per line, that each describe its'
    " appearance, such as shape, colour, material, parts, texture and what is usually around it. Name it in every"
    " sentence. No numbering, no introduction."
)


def describe(
    classes: Sequence[str],
    ask: Callable[[str], str],
    path: Path,
    *,
    vocabulary: str,
    model: str,
    count: int = 20,
    prompt: str = PROMPT,
    progress: Callable[[str, int], None] = lambda name, sentences: None,
) -> DescriptionSet:
    """Describe every class that the file does not describe yet.

    The file is complete after every class, so an interrupted run resumes.

    Args:
        classes: Names of the classes.
        ask: Returns the model's answer to a prompt.
        path: The file; written after every class.
        vocabulary: Name of the dataset.
        model: Name of the model.
        count: Sentences to ask for per class.
        prompt: The prompt; "{name}" and "{count}" are replaced.
        progress: Called with each class and its number of sentences.

    Returns:
        All descriptions of the file.

    Raises:
        InputError: If the file was written with another model or prompt, or an answer has no sentence.
        UsageError: If the prompt lacks "{name}".
    """
    if "{name}" not in prompt:
        raise UsageError('the prompt lacks "{name}"', where="--prompt", fix="put {name} where the class goes")
    made = DescriptionSet(vocabulary, model, prompt)
    if path.is_file():
        before = read_set(path)
        if (before.model, before.prompt) != (model, prompt):
            raise InputError(
                f'the file was written by "{before.model}"' + (" with another prompt" if before.model == model else ""),
                where=str(path),
                fix="choose another file with --out, or delete this one",
            )
        made.descriptions.update(before.descriptions)
    for name in dict.fromkeys(classes):
        if not made.descriptions.get(name):
            made.descriptions[name] = sentences_of(
                ask(prompt.replace("{name}", name).replace("{count}", str(count))), name
            )
            write_set(path, made)
        progress(name, len(made.descriptions[name]))
    return made


def sentences_of(answer: str, name: str) -> list[str]:
    """Return the distinct sentences of an answer, one per line, without numbers, bullets and quotes.

    A line that ends in a colon introduces a list and is left out.

    Args:
        answer: The model's answer.
        name: The class, for the message.

    Raises:
        InputError: If there is no sentence.
    """
    lines = (
        re.sub(r"^\s*(?:\d+\s*[.):]|[-*•])\s*", "", line).strip().strip('"“”').strip() for line in answer.splitlines()
    )
    found = list(dict.fromkeys(line for line in lines if len(line.split()) > 1 and not line.endswith(":")))
    if not found:
        raise InputError(f'the model gave no sentence for "{name}"', fix="repeat, or choose another --llm or --prompt")
    return found


def local(model: str, device: str = "cpu") -> Callable[[str], str]:
    """Load a chat model with the transformers library; it answers without sampling.

    Args:
        model: Name on the Hugging Face Hub, or a folder.
        device: Device of the model.

    Returns:
        A function from a prompt to the answer.

    Raises:
        InputError: If transformers or the model cannot be loaded.
    """
    try:
        from transformers import pipeline
    except ImportError as error:
        fix = f"{install_line('describe')}, or give a server with --base-url"
        raise InputError("a local model needs transformers", fix=fix) from error
    try:
        generate = pipeline("text-generation", model=model, device=device)
    except (OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(f'the model "{model}" cannot be loaded: {line}', fix="check --llm") from error

    def ask(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        return generate(messages, max_new_tokens=1200, do_sample=False)[0]["generated_text"][-1]["content"]

    return ask
