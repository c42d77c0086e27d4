"""The smallest model of each family of timm, and architectures of transformers, made tiny.

Both packages are optional (the tox environment `coverage` has them). All weights are random, and
nothing is downloaded.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from validation.coverage.check import Net, examine, one_line
from validation.coverage.models import BATCH, CLASSES, EPSILONS, examine_net
from validation.coverage.records import Record, TimeLimit

# --- timm -----------------------------------------------------------------------------------------

#: Tried in this order, before the size that a model has been made for.
SIDES = (64, 128)

#: Parameters times pixels of an image of the largest model that is run.
MOST_WORK = 2e13
#: In the names of models that are not the smallest of a family, to save building those.
LARGE = re.compile(r"large|huge|giant|gigantic|enormous|so\d+m|_[lhg]\d*(_|$)|152|200|269|300")


def timm_families() -> list[str]:
    """Return the families, which are timm's modules."""
    import timm  # noqa: PLC0415

    return [family for family in timm.list_modules() if timm.list_models(module=family)]


def examine_family(family: str) -> list[Record]:
    """Examine the smallest model of a family."""
    model = smallest(family)
    # Some gates, as those of sknet, are functions, so that modules do not tell what is linear.
    return examine_net("timm", f"{family}: {model}", partial(timm_net, model), theorem=False)


def smallest(family: str) -> str:
    """Return the model of a family with the fewest parameters, which are counted without memory."""
    import timm  # noqa: PLC0415

    known = timm.list_models(module=family)
    likely = [name for name in known if name.startswith("test_")]  # as small as timm has them
    likely = likely or [name for name in known if not LARGE.search(name)]
    return min(likely or known, key=_parameters)


def _parameters(name: str) -> float:
    import timm  # noqa: PLC0415

    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = timm.create_model(name)
    except TimeLimit:
        raise
    except Exception:  # some compute with their weights, and some need other packages
        return inf
    return sum(parameter.numel() for parameter in model.parameters())


def timm_net(name: str) -> Net:
    """Return a model with the smallest images that it takes."""
    shape, options = accepted(name)
    if _parameters(name) * torch.Size(shape[2:]).numel() > MOST_WORK:
        raise ValueError("even the smallest model of the family takes too long")
    model, images = _timm_model(name, options), torch.randn(shape)
    return Net(model, lambda m: m(images.to(next(m.parameters()).dtype)))


def accepted(name: str) -> tuple[tuple[int, ...], dict[str, int]]:
    """Return the smallest shape of images that a model takes, and the options for that.

    Found on the device "meta", which does not compute, and by running where that does not work.

    Raises:
        ValueError: the model takes none of them.
        TimeLimit: the time for a model is over.
    """
    import timm  # noqa: PLC0415

    made_for = timm.models.get_pretrained_cfg_value(name, "input_size") or (3, 224, 224)
    reason = ""
    for device in ("meta", "cpu"):
        for side in dict.fromkeys((*SIDES, made_for[-1])):
            shape = (BATCH, made_for[0], side, side)
            for options in ({"img_size": side}, {}):
                try:
                    with torch.device(device), torch.no_grad():
                        _timm_model(name, options).eval()(torch.randn(shape))
                    return shape, options
                except TimeLimit:
                    raise
                except Exception as error:
                    reason = one_line(error)
    raise ValueError(f"{name} takes no images: {reason}")


def _timm_model(name: str, options: Mapping[str, int]) -> nn.Module:
    import timm  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = timm.create_model(name, num_classes=CLASSES, **options)
    return model


# --- transformers ---------------------------------------------------------------------------------

TOKENS, WORDS = 8, 64
#: What makes a model tiny; each configuration takes the names that it knows.
TINY: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": CLASSES,
}
#: Of those that have an encoder and a decoder.
TWICE: dict[str, Any] = {
    "d_model": 16,
    **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")},
    "decoder_start_token_id": 1,
    "max_source_positions": 64,
    "max_target_positions": 64,
}
IMAGE: dict[str, Any] = {"image_size": 32, "patch_size": 8, "num_channels": 3}
SPEECH: dict[str, Any] = {
    "conv_dim": (16, 16),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_length": 2,
}


def words() -> dict[str, Tensor]:
    """Return a batch of sentences."""
    return {"input_ids": torch.randint(3, WORDS, (BATCH, TOKENS))}


def two_texts() -> dict[str, Tensor]:
    """Return sentences, and their translations."""
    return {**words(), "decoder_input_ids": torch.randint(3, WORDS, (BATCH, TOKENS - 2))}


def images(side: int = 32) -> dict[str, Tensor]:
    """Return a batch of images."""
    return {"pixel_values": torch.randn(BATCH, 3, side, side)}


def sound() -> dict[str, Tensor]:
    """Return a batch of sounds."""
    return {"input_values": torch.randn(BATCH, 400)}


def spectrum() -> dict[str, Tensor]:
    """Return the spectra of two sounds, and what is said."""
    return {
        "input_features": torch.randn(BATCH, 80, 60),
        "decoder_input_ids": torch.randint(3, WORDS, (BATCH, TOKENS)),
    }


@dataclass(frozen=True)
class Architecture:
    """How a tiny model of an architecture is made.

    Attributes:
        task: the class `transformers.AutoModel...` that makes it.
        inputs: of its forward pass.
        options: of its configuration, besides TINY; what is None in it is left as it is there.
    """

    task: str
    inputs: Callable[[], dict[str, Tensor]]
    options: Mapping[str, Any] = field(default_factory=dict)


def reading(**options: Any) -> Architecture:
    """Return an encoder that sorts sentences."""
    return Architecture("AutoModelForSequenceClassification", words, options)


def writing(**options: Any) -> Architecture:
    """Return a decoder that says the next word."""
    return Architecture("AutoModelForCausalLM", words, options)


def translating(**options: Any) -> Architecture:
    """Return an encoder with a decoder."""
    return Architecture("AutoModelForSeq2SeqLM", two_texts, {**TWICE, **options})


def seeing(side: int = 32, **options: Any) -> Architecture:
    """Return a model that sorts images."""
    return Architecture(
        "AutoModelForImageClassification", partial(images, side), {**IMAGE, **options}
    )


def hearing(**options: Any) -> Architecture:
    """Return a model that sorts sounds."""
    return Architecture("AutoModelForAudioClassification", sound, {**SPEECH, **options})


GROUPED = {"num_key_value_heads": 1}
STAGES = {"depths": (1, 1, 1, 1), "hidden_sizes": (8, 16, 16, 32)}
NO_DEPTH: dict[str, Any] = {"num_hidden_layers": None, "num_attention_heads": None}

ARCHITECTURES: dict[str, Architecture] = {
    # Encoders of text.
    **{name: reading() for name in ("bert", "roberta", "electra", "ernie", "rembert", "camembert")},
    "distilbert": reading(dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    "albert": reading(embedding_size=8),
    "xlm-roberta": reading(),
    "roformer": reading(embedding_size=16),
    "deberta": reading(relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "deberta-v2": reading(relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "mpnet": reading(),
    "mobilebert": reading(embedding_size=8, intra_bottleneck_size=8, true_hidden_size=8),
    "squeezebert": reading(embedding_size=16),
    "megatron-bert": reading(),
    "layoutlm": reading(),
    "convbert": reading(embedding_size=16, conv_kernel_size=3, head_ratio=1),
    "fnet": reading(),
    "nystromformer": reading(num_landmarks=4, segment_means_seq_len=TOKENS),
    "longformer": reading(attention_window=4),
    "big_bird": reading(attention_type="original_full"),
    "funnel": reading(
        d_model=16, n_head=2, d_head=8, d_inner=32, block_sizes=[1, 1], num_hidden_layers=None
    ),
    "xlm": reading(emb_dim=16, n_layers=2, n_heads=2),
    "flaubert": reading(emb_dim=16, n_layers=2, n_heads=2),
    "xlnet": reading(d_model=16, n_layer=2, n_head=2, d_inner=32, max_position_embeddings=None),
    "modernbert": reading(global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=2),
    # Decoders of text.
    "gpt2": writing(n_embd=16, n_layer=2, n_head=2),
    "openai-gpt": writing(n_embd=16, n_layer=2, n_head=2),
    "gpt_neo": writing(num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]),
    "gpt_neox": writing(),
    "gptj": writing(n_embd=16, n_layer=2, n_head=2, rotary_dim=4),
    "codegen": writing(n_embd=16, n_layer=2, n_head=4, rotary_dim=2),
    "ctrl": writing(n_embd=16, n_layer=2, n_head=2, dff=32),
    "opt": writing(ffn_dim=32, word_embed_proj_dim=16),
    "bloom": writing(n_layer=2, n_head=2),
    "falcon": writing(),
    "mpt": writing(d_model=16, n_heads=2, n_layers=2, max_seq_len=32),
    "biogpt": writing(),
    "xglm": writing(d_model=16, num_layers=2, attention_heads=2, ffn_dim=32),
    **{
        name: writing(**GROUPED)
        for name in (
            *("llama", "mistral", "qwen2", "olmo", "olmo2", "stablelm", "starcoder2"),
            *("cohere", "granite", "phi3", "smollm3"),
        )
    },
    "phi": writing(),
    "persimmon": writing(),
    "qwen3": writing(**GROUPED, head_dim=8),
    "glm": writing(**GROUPED, head_dim=8),
    "nemotron": writing(**GROUPED, head_dim=8),
    "gemma": writing(**GROUPED, head_dim=8),
    "gemma2": writing(**GROUPED, head_dim=8),
    "gemma3_text": writing(**GROUPED, head_dim=8),
    "mixtral": writing(**GROUPED, num_local_experts=2, num_experts_per_tok=1),
    "qwen2_moe": writing(
        **GROUPED,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "mamba": writing(state_size=4, conv_kernel=2, time_step_rank=4),
    "rwkv": writing(attention_hidden_size=16, context_length=32),
    "recurrent_gemma": writing(**GROUPED, head_dim=8, lru_width=16, attention_window_size=8),
    "reformer": writing(
        is_decoder=True,
        attention_head_size=8,
        attn_layers=["local", "local"],
        feed_forward_size=32,
        axial_pos_embds=False,
        local_attn_chunk_length=4,
    ),
    # Encoders with a decoder.
    **{
        name: translating(d_kv=8, d_ff=32, num_layers=2, num_heads=2, num_decoder_layers=2)
        for name in ("t5", "mt5")
    },
    "switch_transformers": translating(
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        num_decoder_layers=2,
        num_experts=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    ),
    **{
        name: translating()
        for name in ("bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot-small")
    },
    "led": translating(
        attention_window=4, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64
    ),
    "whisper": Architecture(
        "AutoModelForSpeechSeq2Seq", spectrum, {**TWICE, "max_source_positions": 30}
    ),
    # Images.
    **{name: seeing() for name in ("vit", "beit", "dinov2", "vit_msn", "data2vec-vision")},
    "deit": seeing(architectures=["DeiTForImageClassification"]),  # of two that there are
    **{
        name: seeing(
            embed_dim=8,
            depths=(1, 1),
            num_heads=(1, 2),
            window_size=2,
            patch_size=4,
            hidden_size=None,
            **NO_DEPTH,
        )
        for name in ("swin", "swinv2")
    },
    "convnext": seeing(64, **STAGES, **NO_DEPTH, patch_size=4, hidden_size=None),
    "convnextv2": seeing(64, **STAGES, **NO_DEPTH, patch_size=4, hidden_size=None),
    "resnet": seeing(64, **STAGES, embedding_size=8),
    "regnet": seeing(64, **STAGES, **NO_DEPTH, embedding_size=8, groups_width=4),
    "poolformer": seeing(64, **STAGES),
    "segformer": seeing(
        64, hidden_sizes=(8, 16, 16, 32), depths=(1, 1, 1, 1), num_attention_heads=(1, 2, 2, 2)
    ),
    "focalnet": seeing(
        embed_dim=8, depths=(1, 1), patch_size=4, focal_levels=(1, 1), focal_windows=(3, 3)
    ),
    "mobilenet_v1": seeing(64),
    "mobilenet_v2": seeing(64),
    "mobilevit": seeing(
        64, patch_size=2, hidden_sizes=(16, 16, 16), neck_hidden_sizes=(8, 8, 8, 16, 16, 16, 32)
    ),
    # Sounds, and images with text.
    **{name: hearing() for name in ("wav2vec2", "hubert", "unispeech", "wav2vec2-conformer")},
    "clip": Architecture(
        "AutoModel",
        lambda: {**words(), **images()},
        {
            "text_config": TINY,
            "vision_config": {**TINY, **IMAGE},
            "projection_dim": 8,
        },
    ),
    "siglip": Architecture(
        "AutoModel",
        lambda: {**words(), **images()},
        {"text_config": TINY, "vision_config": {**TINY, **IMAGE}},
    ),
}
WAYS = ("eager", "sdpa")


def architectures() -> list[str]:
    """Return the names of the architectures, which are those that transformers gives them."""
    return list(ARCHITECTURES)


def examine_architecture(name: str) -> list[Record]:
    """Examine one architecture with each implementation of attention that it has."""
    found: list[Record] = []
    for way in WAYS:
        build = partial(transformers_net, name, way)
        for training in (True, False):
            record = examine(
                "transformers", name, build, training=training, epsilons=EPSILONS, variant=way
            )
            # What has no attention, or none of this kind, has been examined by another name.
            if record.verdict != "not counted" or way == WAYS[0]:
                found.append(record)
    return found


def transformers_net(name: str, way: str = "eager") -> Net:
    """Return a tiny model of an architecture with an implementation of attention."""
    import transformers  # noqa: PLC0415

    transformers.logging.set_verbosity_error()
    architecture = ARCHITECTURES[name]
    options = {**TINY, **architecture.options}
    known = {key: value for key, value in options.items() if value is not None}
    config = transformers.AutoConfig.for_model(name, **known)
    kind = getattr(transformers, architecture.task)
    model: nn.Module = kind.from_config(config, attn_implementation=way)
    inputs = architecture.inputs()
    return Net(model, lambda m: m(**inputs))
