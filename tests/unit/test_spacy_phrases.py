"""The spaCy parser, through a pipeline made here: a blank one whose tags and heads come from a word list."""

import pytest

from ovbench.training.reference_set.phrases import Phrase, open_parser, unique_phrases
from ovbench.utils.errors import InputError

spacy = pytest.importorskip("spacy", reason="spaCy is optional")

from spacy.language import Language  # noqa: E402
from spacy.tokens import Doc  # noqa: E402

TAGS = {
    "two": "NUM", "the": "DET", "a": "DET", "his": "PRON", "small": "ADJ", "white": "ADJ", "dining": "NOUN",
    "dogs": "NOUN", "dog": "NOUN", "table": "NOUN", "rabbit": "NOUN", "Paris": "PROPN", "it": "PRON", "x": "NOUN",
    "near": "ADP", "sits": "VERB", ".": "PUNCT",
}  # fmt: skip
NOMINAL = ("NOUN", "PROPN", "it")


@Language.component("ovbench_test_tree")
def tree(doc: Doc) -> Doc:
    """Whatever stands before a noun hangs on the last noun of its run, which is the object of nothing in particular."""
    tags = ["it" if token.text == "it" else TAGS[token.text] for token in doc]
    head = None
    for i in reversed(range(len(doc))):
        token, tag = doc[i], tags[i]
        starts = tag in NOMINAL and not (head is not None and i + 1 < len(doc) and tags[i + 1] in NOMINAL)
        if starts:
            head, token.dep_ = token, "pobj"
        elif head is not None and tag in ("NUM", "DET", "PRON", "ADJ", "NOUN"):
            token.head, token.dep_ = head, "compound" if tag == "NOUN" else "det"
        else:
            head, token.dep_ = None, "ROOT"
        token.pos_ = TAGS[token.text]
    return doc


@Language.component("ovbench_test_lemmas")
def lemmas(doc: Doc) -> Doc:
    for token in doc:
        token.lemma_ = "dog" if token.text == "dogs" else token.text
    return doc


def saved(folder, *components):
    pipeline = spacy.blank("en")
    for name in components:
        pipeline.add_pipe(name)
    pipeline.to_disk(folder)
    return str(folder)


@pytest.fixture(scope="module")
def parse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spacy") / "model"
    return open_parser("spacy", saved(folder, "ovbench_test_tree", "ovbench_test_lemmas"))


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("two dogs", [("two dogs", "dog")]),
        ("the small rabbit", [("small rabbit", "rabbit")]),
        ("his white dog near a dining table .", [("white dog", "dog"), ("a dining table", "table")]),
        ("Paris", [("paris", "paris")]),
        ("it sits", []),
        ("x", []),
        ("sits .", []),
        ("", []),
    ],
)
def test_chunks_end_in_the_lemma_of_their_root(parse, caption, phrases):
    assert [tuple(phrase) for phrase in parse(caption)] == phrases


def test_phrases_of_an_image_are_unique(parse):
    found, empty = unique_phrases(["two dogs", "two dogs near the dog", "sits"], parse)
    assert found == [Phrase("two dogs", "dog"), Phrase("dog", "dog")] and empty == 1


def test_without_a_lemmatizer_the_root_is_the_word(tmp_path):
    parse = open_parser("spacy", saved(tmp_path / "m", "ovbench_test_tree"))
    assert parse("two dogs") == [Phrase("two dogs", "dogs")]


def test_a_model_without_a_parser_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="no dependency parser; give one such as en_core_web_sm"):
        open_parser("spacy", saved(tmp_path / "m"))


def test_a_folder_that_is_no_model_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="finds no noun phrases"):
        open_parser("spacy", str(tmp_path))


def test_a_build_looks_at_the_parser_before_it_captions(tmp_path):
    """Captions of many images take hours; a model that cannot parse them must be known before."""
    pytest.importorskip("pyarrow", reason="pyarrow is an extra")
    import cv2
    import numpy as np

    from ovbench.evaluation.distributed import ProcessGroup
    from ovbench.training.reference_set.builder import Sources, build_set
    from ovbench.training.reference_set.settings import resolve_plan

    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "c.jsonl").write_text('{"image_id": "a", "caption": "a dog"}')
    plan = resolve_plan("mini", {"parser": "spacy", "spacy_model": saved(tmp_path / "m")})
    with pytest.raises(InputError, match="no dependency parser"):
        sources = Sources(tmp_path / "images", str(tmp_path / "c.jsonl"), tmp_path / "ref")
        build_set(sources, plan, "cpu", ProcessGroup())
    assert not list(tmp_path.glob("ref/stages/captions-*/*.jsonl"))
