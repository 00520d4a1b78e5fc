"""Tiny random checkpoints of the real classes, written as their owners write them."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.blip_2.processing_blip_2 import Blip2Processor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
SENTENCE = "a red blue ball cat moves left right fast two descriptions of one : . , the"
WORDS = [*SPECIAL, *SENTENCE.split()]
SIDE = 32
CHAT = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def tokenizer(ends: str = "", **options: object) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"<s> $A{ends}", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", **options
    )


def save_clip(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tower | {"vocab_size": 40, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2}
    vision = tower | {"image_size": SIDE, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer(" </s>").save_pretrained(folder)
    _clip_pictures().save_pretrained(folder)
    return folder


def save_blip2(folder: Path) -> Path:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = tokenizer()
    processor = Blip2Processor(BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), words, num_query_tokens=4)
    cfg = Blip2Config(
        vision_config=small | {"image_size": SIDE, "patch_size": 8},
        qformer_config=small | {"encoder_hidden_size": 16, "vocab_size": 40, "cross_attention_frequency": 1},
        text_config={"model_type": "opt", "vocab_size": 40, "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1}
        | {"num_attention_heads": 2, "max_position_embeddings": 64, "word_embed_proj_dim": 16}
        | {"tie_word_embeddings": False}
        | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        num_query_tokens=4,
        image_token_index=len(words) - 1,
    )
    Blip2ForConditionalGeneration(cfg).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_llava(folder: Path) -> Path:
    torch.manual_seed(0)
    words = tokenizer(additional_special_tokens=["<image>"])
    image = words.convert_tokens_to_ids("<image>")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    cfg = LlavaConfig(
        vision_config=small | {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 16},
        text_config=small | {"model_type": "llama", "vocab_size": 40, "max_position_embeddings": 128},
        image_token_index=image,
        vision_feature_layer=-1,
    )
    LlavaForConditionalGeneration(cfg).save_pretrained(folder)
    LlavaProcessor(
        _clip_pictures(),
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def save_language_model(folder: Path, chats: bool = True) -> Path:
    torch.manual_seed(0)
    cfg = GPT2Config(vocab_size=40, n_positions=256, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    cfg.tie_word_embeddings = False
    GPT2LMHeadModel(cfg).save_pretrained(folder)
    words = tokenizer()
    words.chat_template = CHAT if chats else None
    words.save_pretrained(folder)
    return folder


def _clip_pictures() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
