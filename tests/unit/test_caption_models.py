"""Captions by vision-language models of transformers: a tiny random one of each family, which knows a few words."""

import cv2
import numpy as np
import pytest

from ovbench.training.reference_set.captioning import UnreadableImage, open_captions
from ovbench.training.reference_set.chunks import SourceImage
from ovbench.utils.errors import InputError

transformers = pytest.importorskip("transformers", reason="transformers is an extra")

SPECIAL = ["<unk>", "<pad>", "<eos>", "<image>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
WORDS = [*SPECIAL, "Describe", "this", "a", "dog", "cat", "USER:", "ASSISTANT:"]
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE "
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)
SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = {"vocab_size": len(WORDS), "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2}


def tokenizer(**tokens):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", bos_token="<eos>", eos_token="<eos>",
        extra_special_tokens=tokens,
    )  # fmt: skip


def llava():
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = transformers.LlavaProcessor(
        pictures, tokenizer(image_token="<image>"), patch_size=16, vision_feature_select_strategy="default",
        chat_template=TEMPLATE.replace("IMAGE", "<image>"), image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(image_size=32, patch_size=16, **SIZE),
        text_config=transformers.LlamaConfig(num_key_value_heads=2, **TOKENS, **SIZE),
        image_token_index=3, image_seq_length=4,
    )  # fmt: skip
    return processor, transformers.LlavaForConditionalGeneration(config)


def blip2(text):
    """Without a chat form: it continues after the image, and its own image tokens come back with the answer."""
    pictures = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.Blip2Processor(pictures, tokenizer(image_token="<image>"), num_query_tokens=4)
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(image_size=32, patch_size=16, **SIZE).to_dict(),
        qformer_config=transformers.Blip2QFormerConfig(
            vocab_size=len(WORDS), encoder_hidden_size=16, **SIZE
        ).to_dict(),
        text_config=text.to_dict(), num_query_tokens=4, image_token_index=3,
    )  # fmt: skip
    return processor, transformers.Blip2ForConditionalGeneration(config)


def blip2_opt():
    return blip2(transformers.OPTConfig(
        hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16,
        max_position_embeddings=64, **TOKENS,
    ))  # fmt: skip


def blip2_t5():
    return blip2(transformers.T5Config(
        d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, decoder_start_token_id=1, **TOKENS
    ))  # fmt: skip


def qwen(family, vision):
    ids = {name: WORDS.index(f"<|{word}|>") for name, word in (
        ("image_token_id", "image_pad"), ("video_token_id", "video_pad"),
        ("vision_start_token_id", "vision_start"), ("vision_end_token_id", "vision_end"))}  # fmt: skip
    tokens = tokenizer(image_token="<|image_pad|>", video_token="<|video_pad|>")
    template = TEMPLATE.replace("IMAGE", "<|vision_start|> <|image_pad|> <|vision_end|>")
    pictures = transformers.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    processor = getattr(transformers, f"{family}Processor")(
        pictures, tokens, transformers.Qwen2VLVideoProcessor(), chat_template=template
    )
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {"num_key_value_heads": 2, "rope_parameters": rope, **TOKENS, **SIZE}
    config = getattr(transformers, f"{family}Config")(text_config=text, vision_config=vision, **ids)
    return processor, getattr(transformers, f"{family}ForConditionalGeneration")(config)


def qwen2_vl():
    return qwen("Qwen2VL", {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 16, "mlp_ratio": 2})


def qwen2_5_vl():
    return qwen("Qwen2_5_VL", {
        "depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 16, "intermediate_size": 32,
        "fullatt_block_indexes": [0], "window_size": 28,
    })  # fmt: skip


def saved(folder, make, **generation):
    """A folder as from_pretrained reads it; the model hardly says anything but ordinary words."""
    import torch

    torch.manual_seed(0)
    processor, model = make()
    language = getattr(model, "language_model", model)  # BLIP-2 has the head inside
    head = model.get_output_embeddings() or language.get_output_embeddings()
    head.weight.data[: len(SPECIAL)] = 0
    model.generation_config.update(**generation)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[llava, blip2_opt, blip2_t5, qwen2_vl, qwen2_5_vl], ids=lambda f: f.__name__)
def tiny(request, tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture
def picture(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 50, 3), 90, np.uint8))
    return SourceImage("a", tmp_path / "a.png")


@pytest.mark.slow
def test_a_model_captions_greedily_and_only_what_it_says_is_kept(tiny, picture, monkeypatch):
    monkeypatch.setattr("ovbench.training.reference_set.captioning.MAX_TOKENS", 5)
    ask = open_captions(f"transformers:{tiny}", "Describe this")
    (first,), (again,) = ask(picture), ask(picture)
    assert first == again and len(first.split()) == 5 and not set(first.split()) & set(SPECIAL)


@pytest.mark.slow
def test_silence_is_no_caption(tmp_path, picture):
    end = WORDS.index("<eos>")
    everything_else = [n for n in range(len(WORDS)) if n != end]
    silent = saved(tmp_path / "model", llava, suppress_tokens=everything_else)
    assert open_captions(f"transformers:{silent}", "Describe this")(picture) == []


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_told_apart_from_a_model_that_fails(tiny, tmp_path):
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    with pytest.raises(UnreadableImage, match=r"torn\.jpg"):
        open_captions(f"transformers:{tiny}", "Describe this")(SourceImage("torn", tmp_path / "torn.jpg"))


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded"):
        open_captions(f"transformers:{tmp_path}", "Describe this")
