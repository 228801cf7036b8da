"""Captions by a vision-language model of transformers: a tiny random LLaVA with a tokenizer of a few words."""

import cv2
import numpy as np
import pytest

from ovbench.errors import InputError
from ovbench.reference.captions import open_captions
from ovbench.reference.parts import Picture

transformers = pytest.importorskip("transformers", reason="transformers is an extra")

WORDS = ["<unk>", "<pad>", "<eos>", "<image>", "Describe", "this", "a", "dog", "cat", "USER:", "ASSISTANT:"]
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("llava")
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    pictures = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )  # fmt: skip
    transformers.LlavaProcessor(
        pictures, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        image_token="<image>", num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(image_size=32, patch_size=16, **size),
        text_config=transformers.LlamaConfig(vocab_size=len(WORDS), num_key_value_heads=2, **size),
        image_token_index=3, image_seq_length=4,
    )  # fmt: skip
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_a_model_captions_greedily_and_its_instructions_are_cut_off(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("ovbench.reference.captions.MAX_TOKENS", 5)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 50, 3), 90, np.uint8))
    ask = open_captions(f"transformers:{tiny}", "Describe this")
    first, again = (ask(Picture("a", tmp_path / "a.png")) for _ in range(2))
    assert first == again and len(first) == 1
    assert len(first[0].split()) <= 5 and "ASSISTANT:" not in first[0].split()[:1]


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded"):
        open_captions(f"transformers:{tmp_path}", "Describe this")
