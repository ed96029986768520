"""The encoders against numbers of the published system at toy size, and against its tensor names and shapes at full size."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from livetalk_core.models.audio import AudioConfig, AudioEncoder, audio_config_from, map_audio_keys, normalize_loudness
from livetalk_core.models.image import MEAN, STD, ImageConfig, ImageEncoder, image_config_from, map_image_keys
from livetalk_core.models.text import TextEncoder, byte_tokenizer, clean_prompt, load_tokenizer, map_text_keys, text_config_from

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5
VISIBLE = 1e-3


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    """Weights under published names; all tensors; the sizes stated."""
    with safe_open(ROOT / "tests" / "golden" / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        sizes = json.loads(file.metadata()["config"])
    weights = {key.removeprefix("weights."): tensor for key, tensor in tensors.items() if key.startswith("weights.")}
    return weights, tensors, sizes


def shapes_of(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def build_audio() -> tuple[AudioEncoder, tuple[Tensor, ...], Tensor]:
    """An encoder at toy size, what goes in, what must come out."""
    weights, tensors, sizes = golden("wav2vec")
    encoder = AudioEncoder(audio_config_from(shapes_of(weights), heads=sizes["num_attention_heads"]))
    encoder.load_state_dict(map_audio_keys(weights))
    return encoder, (tensors["out.loudness_normalised"],), tensors["out.embedding"]


def build_text() -> tuple[TextEncoder, tuple[Tensor, ...], Tensor]:
    weights, tensors, _ = golden("umt5")
    encoder = TextEncoder(text_config_from(shapes_of(weights)))
    encoder.load_state_dict(map_text_keys(weights))
    return encoder, (tensors["in.ids"], tensors["in.mask"]), tensors["out.context"]


def build_image(layers: int = 3) -> tuple[ImageEncoder, tuple[Tensor, ...], Tensor]:
    weights, tensors, sizes = golden("clip")
    config = image_config_from(shapes_of(weights), heads=sizes["num_heads"])
    encoder = ImageEncoder(replace(config, layers=layers))
    encoder.load_state_dict(map_image_keys(weights, layers))
    return encoder, (tensors["in.image"][0, :, 0],), tensors["out.features"][0]


BUILDERS = [build_audio, build_text, build_image]


def gap(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a.float() - b.float()).abs().max().item()


@pytest.mark.parametrize("build", BUILDERS)
def test_an_encoder_gives_the_golden_numbers(build):
    encoder, inputs, expected = build()
    assert gap(encoder(*inputs), expected) <= TOLERANCE


@pytest.mark.parametrize("build", BUILDERS)
def test_an_encoder_built_on_the_meta_device_equals_one_built_directly(build):
    direct, inputs, _ = build()
    with torch.device("meta"):
        assigned = type(direct)(direct.config)
    assert not list(assigned.buffers()), "a buffer would stay without memory"
    assigned.load_state_dict(direct.state_dict(), assign=True, strict=True)
    assert torch.equal(assigned(*inputs), direct(*inputs))


def test_resampling_the_layers_instead_of_the_convolution_features_gives_other_numbers():
    from transformers import Wav2Vec2Model

    encoder, (loud,), expected = build_audio()
    plain = Wav2Vec2Model(encoder.model.config).eval()
    plain.load_state_dict(encoder.model.state_dict())
    with torch.no_grad():
        hidden = plain(loud[None], output_hidden_states=True).hidden_states
    late_SDT = nn.functional.interpolate(torch.cat(hidden[1:]).transpose(1, 2), size=125, mode="linear", align_corners=True)
    assert gap(late_SDT.permute(2, 0, 1), expected) > VISIBLE


def test_sound_scaled_to_unit_variance_or_left_at_its_own_loudness_gives_other_features():
    encoder, (loud,), expected = build_audio()
    assert gap(encoder((loud - loud.mean()) / loud.std()), expected) > VISIBLE
    assert gap(encoder(golden("wav2vec")[1]["in.waveform"]), expected) > VISIBLE


def test_running_clips_last_block_too_gives_other_features():
    encoder, inputs, expected = build_image(layers=4)
    assert gap(encoder(*inputs), expected) > VISIBLE


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.bfloat16, 0.05)])
def test_cutting_padding_off_first_equals_masking_it(dtype, tolerance):
    encoder, (ids, mask), _ = build_text()
    encoder = encoder.to(dtype)
    with torch.no_grad():
        masked = encoder.stack(inputs_embeds=encoder.token_embedding(ids), attention_mask=mask).last_hidden_state[0, : mask.sum()]
    assert encoder(ids, mask).dtype == dtype
    assert gap(encoder(ids, mask), masked) <= tolerance
    assert gap(encoder(ids, torch.ones_like(mask))[: mask.sum()], masked) > 2 * tolerance


def test_bf16_softmax_rounds_as_softmax_in_float32_does():
    scores = 8 * torch.randn(64, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(scores.softmax(-1), scores.float().softmax(-1).bfloat16())


def test_the_image_encoder_runs_in_half_precision_near_the_golden_features():
    encoder, (pixels,), expected = build_image()
    features = encoder.half()(pixels.bfloat16())
    assert features.dtype == torch.float16
    assert gap(features, expected) < 0.1


def test_loudness_is_brought_to_the_golden_level_from_any_level():
    _, tensors, _ = golden("wav2vec")
    sound, expected = tensors["in.waveform"], tensors["out.loudness_normalised"]
    assert gap(normalize_loudness(sound), expected) <= TOLERANCE
    assert gap(normalize_loudness(0.1 * sound), expected) <= TOLERANCE
    assert gap(normalize_loudness(sound, lufs=-29.0), expected * 10 ** (-6 / 20)) <= TOLERANCE


def test_silence_and_sound_shorter_than_a_measuring_block_keep_their_level():
    for samples in (torch.zeros(16000), torch.full((6399,), 0.5)):
        assert torch.equal(normalize_loudness(samples), samples)


def test_a_whole_video_frame_of_sound_gives_one_feature_and_less_is_refused():
    encoder, _, _ = build_audio()
    for samples, frames in [(640, 1), (1279, 1), (1280, 2), (17920, 28)]:
        assert encoder(torch.zeros(samples)).shape == (frames, 3, 16)
    with pytest.raises(ValueError, match=r"^639 samples are too few .* 640 or more; pad with silence$"):
        encoder(torch.zeros(639))


@pytest.mark.parametrize(("config_from", "name"), [(audio_config_from, "wav2vec"), (image_config_from, "clip")])
def test_heads_that_shapes_do_not_show_must_be_given(config_from, name):
    with pytest.raises(ValueError, match=r"width=16 .* give heads$"):
        config_from(shapes_of(golden(name)[0]))


def test_an_old_pretraining_file_maps_to_the_same_tensors():
    weights, _, _ = golden("wav2vec")
    old = {f"wav2vec2.{key}": tensor for key, tensor in weights.items()}
    conv = "wav2vec2.encoder.pos_conv_embed.conv"
    old |= {f"{conv}.weight_{letter}": old.pop(f"{conv}.parametrizations.weight.original{i}") for i, letter in enumerate("gv")}
    heads = ["quantizer.codevectors", "quantizer.weight_proj.weight", "project_hid.bias", "project_q.weight", "lm_head.weight"]
    mapped = map_audio_keys(old | dict.fromkeys([*heads, "wav2vec2.masked_spec_embed"], torch.zeros(1)))
    assert mapped.keys() == build_audio()[0].state_dict().keys()
    assert all(tensor is mapped[name] for name, tensor in map_audio_keys(weights).items())


def test_a_library_named_text_encoder_gives_the_librarys_numbers():
    from transformers import UMT5Config, UMT5EncoderModel

    library = UMT5EncoderModel(UMT5Config(vocab_size=64, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3)).eval()
    state = library.state_dict() | {"spiece_model": torch.zeros(9, dtype=torch.uint8)}
    encoder = TextEncoder(text_config_from(shapes_of(state)))
    encoder.load_state_dict(map_text_keys(state))
    ids, mask = torch.arange(2, 14)[None], torch.tensor([[1] * 7 + [0] * 5])
    with torch.no_grad():
        expected = library(input_ids=ids, attention_mask=mask).last_hidden_state[0, :7]
    assert gap(encoder(ids, mask), expected) <= TOLERANCE


def test_a_library_named_image_encoder_gives_the_librarys_numbers():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28}
    library = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, patch_size=14, hidden_act="gelu", projection_dim=8)).eval()
    config = image_config_from(shapes_of(library.state_dict()), heads=2)
    encoder = ImageEncoder(config)
    encoder.load_state_dict(map_image_keys(library.state_dict(), config.layers))
    pixels = torch.rand(1, 3, 28, 28)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        hidden = library(pixel_values=(pixels - mean) / std, output_hidden_states=True).hidden_states
    assert gap(encoder(pixels[0] * 2 - 1), hidden[-2][0]) <= TOLERANCE


READERS = [(map_audio_keys, "wav2vec2", "umt5"), (map_text_keys, "umT5", "clip"), (partial(map_image_keys, layers=3), "CLIP", "umt5")]


@pytest.mark.parametrize(("read", "model", "name"), READERS)
def test_another_models_file_is_refused_with_three_missing_keys_and_how_many_more(read, model, name):
    with pytest.raises(ValueError, match=rf"^not the weights of {model}.*: missing \S+, \S+, \S+ and \d+ more; choose that model's file$"):
        read(golden(name)[0])


def test_a_file_with_a_tensor_too_few_or_too_many_is_refused_with_its_name():
    weights, _, _ = golden("umt5")
    with pytest.raises(ValueError, match=r"it has no blocks\.0\.attn\.bias; "):
        map_text_keys(weights | {"blocks.0.attn.bias": torch.zeros(1)})
    del weights["blocks.0.attn.k.weight"]
    with pytest.raises(ValueError, match=r"missing stack\.block\.0\.layer\.0\.SelfAttention\.k\.weight; "):
        map_text_keys(weights)


def load_full(encoder_type, config, mapped: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        encoder = encoder_type(config)
    encoder.load_state_dict(mapped, assign=True, strict=True)
    return encoder


def count_values(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def empty(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def test_the_full_text_encoder_takes_every_published_tensor():
    block = {f"attn.{part}.weight": (4096, 4096) for part in "qkvo"}
    block |= {"norm1.weight": (4096,), "norm2.weight": (4096,), "pos_embedding.embedding.weight": (32, 64)}
    block |= {"ffn.gate.0.weight": (10240, 4096), "ffn.fc1.weight": (10240, 4096), "ffn.fc2.weight": (4096, 10240)}
    shapes = {f"blocks.{i}.{key}": shape for i in range(24) for key, shape in block.items()}
    shapes |= {"token_embedding.weight": (256384, 4096), "norm.weight": (4096,)}
    config = text_config_from(shapes)
    encoder = load_full(TextEncoder, config, map_text_keys(empty(shapes)))
    assert (config.heads, config.layers, config.vocab, config.ffn_width) == (64, 24, 256384, 10240)
    assert len(shapes) == len(encoder.state_dict()) == 242
    assert count_values(shapes) == count_values(shapes_of(encoder.state_dict())) == 5_680_910_336


def test_the_full_image_encoder_takes_the_published_tower_without_its_last_block():
    block = {f"{name}.weight": (1280,) for name in ("norm1", "norm2")} | {"attn.to_qkv.weight": (3840, 1280)}
    block |= {"attn.proj.weight": (1280, 1280), "mlp.0.weight": (5120, 1280), "mlp.2.weight": (1280, 5120)}
    block |= {key.replace("weight", "bias"): shape[:1] for key, shape in block.items()}
    used = {f"visual.transformer.{i}.{key}": shape for i in range(31) for key, shape in block.items()}
    used |= {"visual.cls_embedding": (1, 1, 1280), "visual.pos_embedding": (1, 257, 1280), "visual.pre_norm.weight": (1280,)}
    used |= {"visual.patch_embedding.weight": (1280, 3, 14, 14), "visual.pre_norm.bias": (1280,)}
    shapes = used | {f"visual.transformer.31.{key}": shape for key, shape in block.items()}
    shapes |= {"visual.head": (1280, 1024), "visual.post_norm.weight": (1280,), "visual.post_norm.bias": (1280,), "log_scale": ()}
    shapes |= {"textual.token_embedding.weight": (250002, 1024)}
    config = image_config_from(shapes)
    encoder = load_full(ImageEncoder, config, map_image_keys(empty(shapes), config.layers))
    assert config == ImageConfig(width=1280, layers=32, heads=16, ffn_width=5120)
    assert (config.tokens, len(encoder.blocks.layers)) == (257, 31)
    assert count_values(shapes_of(encoder.state_dict())) == count_values(used)


def test_the_full_audio_encoder_takes_a_base_pretraining_file():
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    with torch.device("meta"):
        state = Wav2Vec2ForPreTraining(Wav2Vec2Config()).state_dict()
    config = audio_config_from(shapes_of(state))
    encoder = load_full(AudioEncoder, config, map_audio_keys(state))
    sizes = {"width": 768, "layers": 12, "heads": 12, "ffn_width": 3072, "conv_widths": (512,) * 7}
    assert config == AudioConfig(**sizes, conv_kernels=(10, 3, 3, 3, 3, 2, 2))
    assert len(state) - len(encoder.state_dict()) == 8, "seven of pretraining and masked_spec_embed"
    assert count_values(shapes_of(encoder.state_dict())) == 94_370_944


def test_a_prompts_unicode_entities_and_spaces_are_cleaned():
    assert clean_prompt("  caf\u00c3\u00a9 &amp;amp; <b>tea</b>\n\t and\u3000cake ") == "caf\u00e9 & <b>tea</b> and cake"


def write_tokenizer(folder: Path, *vocab: str) -> None:
    """A tokenizer.json of whole words that, like umT5's, ends a sentence with </s>."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocab)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if "</s>" in vocab:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", vocab.index("</s>"))])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("text", ["a person talks", "", "a person talks and talks and talks and talks and talks"])
def test_tokens_are_padded_and_cut_as_the_library_does(tmp_path, text):
    from transformers import PreTrainedTokenizerFast

    write_tokenizer(tmp_path, "<pad>", "</s>", "<unk>", "a", "person", "talks")
    library = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="<pad>", eos_token="</s>")
    expected = library(text, padding="max_length", truncation=True, max_length=8, return_tensors="pt")
    ids, mask = load_tokenizer(tmp_path, length=8)(text)
    assert torch.equal(ids, expected.input_ids)
    assert torch.equal(mask, expected.attention_mask)


def test_a_folder_without_a_whole_tokenizer_is_refused_with_what_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)
    write_tokenizer(tmp_path, "<pad>", "<unk>")
    with pytest.raises(ValueError, match=r"must know <pad> and </s>"):
        load_tokenizer(tmp_path)


def test_bytes_are_tokens_offset_by_three_and_ended_by_one():
    ids, mask = byte_tokenizer(8)("h\u00e9")
    assert ids.tolist() == [[0x68 + 3, 0xC3 + 3, 0xA9 + 3, 1, 0, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


def test_importing_the_encoders_does_not_import_transformers():
    imports = "import sys, livetalk_core.models.audio, livetalk_core.models.text, livetalk_core.models.image"
    subprocess.run([sys.executable, "-c", f"{imports}; assert 'transformers' not in sys.modules"], cwd=ROOT, check=True)
