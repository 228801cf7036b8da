"""Descriptions: written class by class and resumed, read, embedded, and absent."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from click.testing import CliRunner

from ovbench.cli.describe import describe as command
from ovbench.data.descriptions import (
    OFFICIAL_MODEL,
    DescriptionSet,
    find_set,
    read_prompts,
    read_set,
    stand_in,
    write_set,
)
from ovbench.inference.text_embedding import with_descriptions
from ovbench.methods.base import Queries
from ovbench.training.chat import KEY_VARIABLE, ChatClient
from ovbench.training.write_descriptions import describe, local, sentences_of
from ovbench.utils.errors import InputError, UsageError, warn_once
from ovbench.utils.paths import cache_root, shipped


class Stopped(Exception):
    pass


def asker(fail_at=None):
    asked = []

    def ask(prompt):
        if len(asked) == fail_at:
            raise Stopped
        asked.append(prompt)
        return f"1. A thing of kind {len(asked)}.\n- A thing of kind {len(asked)}.\n* Another thing."

    return ask, asked


def test_a_stopped_run_goes_on(tmp_path):
    path = tmp_path / "set.json"
    ask, _ = asker(fail_at=2)
    with pytest.raises(Stopped):
        describe(["cat", "dog", "owl"], ask, path, vocabulary="v", model="m", count=3)
    assert list(read_set(path).descriptions) == ["cat", "dog"]
    ask, asked = asker()
    made = describe(["cat", "dog", "owl"], ask, path, vocabulary="v", model="m", count=3)
    assert len(asked) == 1 and '"owl"' in asked[0] and "Write 3 different" in asked[0]
    assert made == read_set(path)
    assert made.descriptions["owl"] == ["A thing of kind 1.", "Another thing."]


def test_another_model_or_prompt_needs_another_file(tmp_path):
    path = tmp_path / "set.json"
    describe(["cat"], asker()[0], path, vocabulary="v", model="m")
    for changed in ({"model": "n"}, {"model": "m", "prompt": "What is {name}?"}):
        with pytest.raises(InputError, match="written by"):
            describe(["cat"], asker()[0], path, vocabulary="v", **changed)
    with pytest.raises(UsageError, match="name"):
        describe(["cat"], asker()[0], tmp_path / "other.json", vocabulary="v", model="m", prompt="Describe it")


def test_answers_become_sentences():
    answer = 'Here are some:\n\n1. "A red car."\n2) A red car.\n• Wheels of rubber\nOk\n'
    assert sentences_of(answer, "car") == ["A red car.", "Wheels of rubber"]
    with pytest.raises(InputError, match='"car"'):
        sentences_of("Sure:\n", "car")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "format"),
        ('{"format": 2}', "format"),
        ('{"format": 1, "descriptions": []}', "table"),
        ('{"format": 1, "descriptions": {"cat": "a cat"}}', '"cat"'),
        ('{"format": 1, "descriptions": {"cat": [""]}}', '"cat"'),
        ("{", "malformed"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "set.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_set(path)


def test_sets_are_found_by_name_and_by_file(tmp_path):
    assert find_set("mini") == shipped("configs", "descriptions", "mini.json")
    assert find_set("no-such-set") is None
    own = cache_root() / "descriptions" / "zoo.json"
    write_set(own, DescriptionSet("zoo", "m", "p", {"cat": ["a cat"]}))
    assert find_set("zoo") == own and find_set(str(own)) == own
    with pytest.raises(InputError, match="no file"):
        find_set(str(tmp_path / "gone.json"))


PROMPTS = """# written by hand
VOC = {
    "cat": ["A cat has fur.", "A cat has fur.", "A caf\\u00e9 cat \\ud83d\\ude00"],
    "dog": ["A dog \\udce9 barks."],
}
"""


def test_freecp_s_prompts_are_read_as_data(tmp_path):
    path = tmp_path / "voc21.py"
    path.write_text(PROMPTS)
    found = read_prompts(path)
    assert found["cat"] == ["A cat has fur.", "A cat has fur.", "A café cat \U0001f600"]
    assert found["dog"] == ["A dog \ufffd barks."]


def test_prompts_of_half_a_character_are_imported_and_count_as_the_paper_s(tmp_path):
    source, out = tmp_path / "mini.py", tmp_path / "set.json"
    source.write_text(PROMPTS)
    done = CliRunner().invoke(command, ["import", str(source), "-d", "mini", "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0 and "without a description: " in done.output
    made = read_set(out)
    assert made.model == OFFICIAL_MODEL and made.descriptions == read_prompts(source)
    assert stand_in(str(out), (("background",), ("cat",), ("dog",)), 0) == ""


def test_half_a_character_does_not_stop_the_writer(tmp_path):
    made = DescriptionSet("v", "m", "p", {"d\udce9cor": ["a d\udce9cor"]})
    write_set(tmp_path / "set.json", made)
    (tmp_path / "set.json").read_text(encoding="utf-8")
    assert read_set(tmp_path / "set.json") == made


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import os\nos.remove('x')\n", "0 dictionaries"),
        ("A = {'a': ['b c']}\nB = {}\n", "2 dictionaries"),
        ("A = {'a': [open('x').read()]}", "more than texts"),
        ("A = {'a': 'b'}", "not a list of sentences"),
        ("A = {'a': []}", "not a list of sentences"),
        ("A = {1: ['b']}", "not a list of sentences"),
        ("A = {", "not Python source"),
    ],
)
def test_other_sources_are_refused_and_never_run(tmp_path, content, message):
    path = tmp_path / "prompts.py"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_prompts(path)


def test_mini_is_described_whole():
    from ovbench.data.card import load_card, vocabulary

    made = read_set(shipped("configs", "descriptions", "mini.json"))
    assert all(made.sentences(query, words[0]) for words in vocabulary(load_card("mini")) for query in words)


class Words:
    """A text tower whose vector of a sentence is made of its words."""

    def require_room(self, *arguments):
        """Every sentence fits."""

    def on(self, device):
        """The words need no device."""
        return self

    def encode(self, sentences):
        generator = {w: torch.Generator().manual_seed(sum(map(ord, w))) for s in sentences for w in s.split()}
        words = {word: torch.randn(8, generator=g) for word, g in generator.items()}
        return torch.stack([sum(words[w] for w in s.split()) for s in sentences])


@pytest.fixture
def loaded():
    return type("L", (), {"text": Words(), "sha256": "0", "spec": "words"})()


def test_described_and_other_classes(tmp_path, loaded, caplog):
    path = tmp_path / "set.json"
    write_set(path, DescriptionSet("v", "m", "p", {"cat": ["a cat", "soft fur"], "puppy": ["a puppy"]}))
    names = (("wall", "floor"), ("cat", "kitten"), ("dog", "puppy"), ("owl",))
    prompts = torch.nn.functional.normalize(torch.randn(7, 8), dim=-1)
    queries = Queries(prompts, torch.tensor([0, 0, 1, 1, 2, 2, 3]), background=0)
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "ovbench"):
        for _ in range(2):
            described = with_descriptions(queries, names, str(path), loaded).descriptions
    assert len(caplog.records) == 1 and "2 of 4 classes" in caplog.text and "dog, owl" in caplog.text
    mean = torch.nn.functional.normalize(loaded.text.encode(["a cat", "soft fur"]), dim=-1).mean(0)
    expected = torch.nn.functional.normalize(mean, dim=-1)
    torch.testing.assert_close(described[2], expected)
    assert torch.equal(described[3], described[2])  # a synonym is described by its class
    assert torch.equal(described[[0, 1, 4, 6]], prompts[[0, 1, 4, 6]])
    assert not torch.equal(described[5], prompts[5])


def test_sentences_as_prompts_have_the_weight_of_every_other_prompt(tmp_path, loaded):
    path = tmp_path / "set.json"
    write_set(path, DescriptionSet("v", "m", "p", {"cat": ["a cat", "soft fur"]}))
    queries = Queries(torch.nn.functional.normalize(torch.randn(3, 8), dim=-1), torch.tensor([0, 0, 1]))
    found = with_descriptions(queries, (("cat", "kitten"), ("owl",)), str(path), loaded, ("a {}.", "the {}.", "{}"))
    texts = ["a kitten.", "the kitten.", "kitten", "a cat", "soft fur"]
    mean = torch.nn.functional.normalize(loaded.text.encode(texts), dim=-1).mean(0)
    torch.testing.assert_close(found.embeddings[1], torch.nn.functional.normalize(mean, dim=-1))
    assert torch.equal(found.embeddings[2], queries.embeddings[2]) and found.descriptions is None


@pytest.fixture
def endpoint():
    """An OpenAI-compatible server that says what it was asked."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers.get("Authorization"), body))
            status = 404 if body["model"] == "absent" else 200
            answer = {"choices": [{"message": {"content": "It is round and smooth.\nIt is on the ground."}}]}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"error": "no such model"} if status == 404 else answer).encode())

        def log_message(self, *args):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", seen
    http.shutdown()
    http.server_close()


def test_the_command_with_a_server(endpoint, tmp_path, monkeypatch):
    from ovbench.cli.describe import describe as command

    url, seen = endpoint
    monkeypatch.setenv(KEY_VARIABLE, "word")
    arguments = [
        "--dataset",
        "mini",
        "--llm",
        "m",
        "--base-url",
        url,
        "--limit",
        "2",
        "--out",
        str(tmp_path / "a.json"),
    ]
    result = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    assert read_set(tmp_path / "a.json").descriptions["sky"] == ["It is round and smooth.", "It is on the ground."]
    assert seen[0][:2] == ("/v1/chat/completions", "Bearer word") and seen[0][2]["model"] == "m"
    CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert len(seen) == 2


def test_the_command_leaves_the_background_out(endpoint, tmp_path):
    from ovbench.cli.describe import describe as command

    arguments = [
        "-d",
        "mini-bg",
        "--llm",
        "m",
        "--base-url",
        endpoint[0],
        "--limit",
        "1",
        "--out",
        str(tmp_path / "b.json"),
    ]
    CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert list(read_set(tmp_path / "b.json").descriptions) == ["red ring"]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A language model of a few random weights, in a folder."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("llm")
    vocabulary = {word: number for number, word in enumerate(["<unk>", "</s>", *(f"w{n}" for n in range(30))])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_local_model_answers_the_same_again(chat_model):
    ask = local(str(chat_model))
    assert ask("Describe w1") == ask("Describe w1") != ""
    with pytest.raises(InputError, match="cannot be loaded"):
        local(str(chat_model / "absent"))


def test_servers_that_cannot_be_used(endpoint, monkeypatch):
    monkeypatch.setattr("ovbench.training.chat.time.sleep", lambda seconds: None)
    with pytest.raises(InputError, match=r"404.*no such model"):
        ChatClient(endpoint[0], "absent")("Describe a cat")
    with pytest.raises(InputError, match="does not answer"):
        ChatClient("http://127.0.0.1:9/v1", "m")("Describe a cat")
    with pytest.raises(UsageError, match="not the address of a server"):
        ChatClient("localhost", "m")


@pytest.mark.slow
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_key_never_follows_a_redirect(endpoint, status, monkeypatch):
    """Not to another host, and not to the same one either: a POST would arrive as a GET."""
    monkeypatch.setenv(KEY_VARIABLE, "SECRET")
    url, seen = endpoint

    class Redirect(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Location", url.replace("127.0.0.1", "localhost") + "/chat/completions")
            self.end_headers()

        def log_message(self, *args):
            pass

    http = HTTPServer(("127.0.0.1", 0), Redirect)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        with pytest.raises(InputError, match=r'redirects to "http://localhost.*; give the final address') as caught:
            ChatClient(f"http://127.0.0.1:{http.server_port}/v1", "m")("Describe a cat")
    finally:
        http.shutdown()
        http.server_close()
    assert seen == [] and "SECRET" not in str(caught.value)


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_not_printed(endpoint, key, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(UsageError, match=KEY_VARIABLE) as caught:
        ChatClient(endpoint[0], "m")("Describe a cat")
    assert key not in str(caught.value) and endpoint[1] == []
