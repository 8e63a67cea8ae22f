"""Tests import and export against transformers: `python tests/golden/roundtrip.py target/release/horizon [MODEL ...]`.

transformers saves a tiny model of every family, as bf16 and as f32, in one file and in several. `horizon train` runs a
step with learning rate 0 and exports it. The export must have every tensor bit for bit, load in transformers without
warnings about weights, have the same config, and give the same logits. `horizon sample` must continue a prompt with the
tokens of greedy `generate`. Folders as other tools leave them are imported, too: their export must equal the folder
that transformers wrote. The packages are those of README.md; any transformers from 4.53 works, since both versions of the
config must be read and written. Families that it does not have are skipped.
"""

import json
import pathlib
import shutil
import string
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

SMALL = dict(hidden_size=32, intermediate_size=43, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=61, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "beta_fast": 32.0, "beta_slow": 1.0,
        "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
# The sampled tokens stay below the original length, where the short factors hold.
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.25, 1.5], "long_factor": [1.0, 2.0, 4.0]}
MIXED = dict(sliding_window=5, layer_types=["sliding_attention", "full_attention", "sliding_attention"])
# Families whose layers with a window have rotary parameters of their own, and their base.
WINDOWED_THETA = {"gemma3_text": 100.0, "olmo3": 500.0}
MODELS = {
    "llama": ("llama", {}),
    "llama tied, with biases": ("llama", dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True)),
    "llama dynamic": ("llama", dict(rope={"rope_type": "dynamic", "factor": 2.0})),
    "llama linear": ("llama", dict(rope={"rope_type": "linear", "factor": 2.0})),
    "llama llama3": ("llama", dict(rope=LLAMA3, head_dim=16)),
    "mistral": ("mistral", dict(sliding_window=5)),
    "mistral without a window": ("mistral", dict(sliding_window=None)),
    "qwen2": ("qwen2", dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "qwen2 tied": ("qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(head_dim=16, tie_word_embeddings=True)),
    "qwen3 whose layers differ": ("qwen3", dict(
        head_dim=16, attention_bias=True, use_sliding_window=True, sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
    "smollm3": ("smollm3", dict(no_rope_layers=[1, 0, 1])),
    "smollm3 with biases and a window": ("smollm3", dict(
        tie_word_embeddings=False, attention_bias=True, mlp_bias=True, no_rope_layers=[1, 0, 0],
        use_sliding_window=True, sliding_window=5)),
    "granite": ("granite", dict(
        embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.5, attention_multiplier=0.25)),
    "granite tied, with biases": ("granite", dict(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True, embedding_multiplier=12.0)),
    "seed_oss": ("seed_oss", dict(head_dim=16, attention_dropout=0.0, residual_dropout=0.0)),
    "phi3": ("phi3", dict(sliding_window=5)),
    "phi3 longrope": ("phi3", dict(
        rope=LONGROPE, partial_rotary_factor=0.75, original_max_position_embeddings=48, tie_word_embeddings=True)),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", MIXED),
    "exaone4": ("exaone4", MIXED),
    "exaone4 without a window": ("exaone4", dict(
        sliding_window=None, layer_types=["full_attention"] * 3, tie_word_embeddings=True)),
    "glm": ("glm", dict(head_dim=16)),
    "glm4": ("glm4", dict(head_dim=8, attention_bias=False)),
    "glm4 tied": ("glm4", dict(head_dim=16, tie_word_embeddings=True)),
    "helium": ("helium", dict(head_dim=8)),
    "gemma3": ("gemma3_text", MIXED | dict(head_dim=16, query_pre_attn_scalar=10, tie_word_embeddings=True)),
    "cwm": ("cwm", MIXED | dict(head_dim=16, rope=LLAMA3)),
    "ministral3": ("ministral3", dict(head_dim=16, rope=YARN)),
}

WRAPPERS = ("_orig_mod.", "module.", "base_model.model.", "language_model.")
# Changes of tensors and config that other tools leave behind.
ALTERED = {
    "without `model.`": lambda tensors, config: ({k.removeprefix("model."): v for k, v in tensors.items()}, config),
    "with `model.` twice": lambda tensors, config: ({"model." + k: v for k, v in tensors.items()}, config),
    "with wrappers": lambda tensors, config: ({"".join(WRAPPERS) + k: v for k, v in tensors.items()}, config),
    "with other tensors": lambda tensors, config: (tensors | {
        "model.layers.0.self_attn._extra_state": torch.zeros(3), "v_head.summary.weight": torch.zeros(1, 32)}, config),
    "with other keys": lambda tensors, config: (tensors, config | {
        "architectures": ["FSDP" + config["architectures"][0]], "auto_map": {"AutoConfig": "x.X"}, "unk_token_id": 0,
        "temperature": float("nan"), "use_flash_attn": True}),
}


def config_of(family: str, options: dict):
    options = dict(options)
    rope = options.pop("rope", None)
    if transformers.__version__.startswith("4."):
        if family == "phi3" and rope:  # knows the older name of the key alone
            rope = {"type" if key == "rope_type" else key: value for key, value in rope.items()}
        # OLMo 3's layers with a window have the other base in version 5, so this one alone is accepted.
        options |= {"rope_theta": 5e5 if family == "olmo3" else 500.0, "rope_scaling": rope}
        if family == "gemma3_text":
            options |= {"rope_local_base_freq": WINDOWED_THETA[family]}
    elif family in WINDOWED_THETA:
        options |= {"rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": WINDOWED_THETA[family]}}}
    else:
        options |= {"rope_parameters": {"rope_theta": 500.0} | (rope or {"rope_type": "default"})}
    return AutoConfig.for_model(family, **(SMALL | options))


def load(folder: pathlib.Path):
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for problem, names in report.items():
        assert not names, f"{folder}: {problem} {names}"
    return model.eval()


def described(model) -> dict:
    """The config without entries about its origin, and without second names of the type and part of the rotation."""
    ignored = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "architectures", "pad_token_id",
               "partial_rotary_factor"}
    config = {key: value for key, value in model.config.to_dict().items() if key not in ignored}
    if transformers.__version__.startswith("4."):
        config.pop("rope_parameters", None)  # read by version 5 alone
    elif config.get("rope_parameters"):
        config["rope_parameters"].pop("type", None)
    return config


def altered(source: pathlib.Path, change, folder: pathlib.Path) -> pathlib.Path:
    """Copies a folder with a single weight file, with changes."""
    shutil.copytree(source, folder)
    config = json.loads((source / "config.json").read_text())
    tensors, config = change(load_file(source / "model.safetensors"), config)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def check_sampling(horizon: str, name: str, model, folder: pathlib.Path) -> None:
    """Compares the greedy continuation of a prompt. Each token is a letter or digit."""
    letters = (string.ascii_letters + string.digits)[:SMALL["vocab_size"]]
    tokenizer = Tokenizer(models.BPE({letter: token for token, letter in enumerate(letters)}, []))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    for _ in range(50):
        prompt = torch.randint(3, len(letters), (1, 7))
        mask = torch.ones_like(prompt)
        continued = model.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=30)[0]
        if SMALL["eos_token_id"] not in continued:
            break
    else:
        raise AssertionError(f"{name}: the model ends every text")
    text = "".join(letters[token] for token in continued)
    command = [horizon, "sample", "--model", folder, "--prompt", text[:7], "--temperature", "0", "--tokens", "30",
               "--device", "cpu"]
    sampled = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip("\n")
    assert sampled == text, f"{name}: sampled {sampled}, transformers {text}"


def check(horizon: str, name: str, dtype: torch.dtype, shards: str, work: pathlib.Path, change=None) -> None:
    source, out = work / "source", work / "out"
    torch.manual_seed(1)
    family, options = MODELS[name]
    model = AutoModelForCausalLM.from_config(config_of(family, options))
    for key, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in key), std=0.2)
    model.to(dtype).save_pretrained(source, max_shard_size=shards)
    header = torch.zeros(256, dtype=torch.int32)
    header[:3] = torch.tensor([20240520, 1, 200])
    tokens = torch.randint(0, 61, (200,)).to(torch.uint16)
    (work / "data.bin").write_bytes(header.numpy().tobytes() + tokens.numpy().tobytes())
    imported = altered(source, change, work / "altered") if change else source
    kind = {torch.bfloat16: "bf16", torch.float32: "f32"}[dtype]
    subprocess.run([horizon, "train", "--quiet", "--model", imported, "--data", work / "data.bin", "--seq-len", "16",
                    "--micro-batch", "1", "--steps", "1", "--lr", "0", "--weight-decay", "0", "--export-dtype", kind,
                    "--out", out], check=True)

    before, after = load(source), load(out)
    for (key, a), (other, b) in zip(before.state_dict().items(), after.state_dict().items(), strict=True):
        assert key == other and torch.equal(a, b), f"{name}, {kind}: {key}"
    old, new = described(before), described(after)
    differing = {key: (old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)}
    assert not differing, f"{name}: {differing}"
    ids = torch.randint(0, 61, (2, 17))
    with torch.no_grad():
        assert torch.equal(before(ids).logits, after(ids).logits), f"{name}, {kind}: logits"
    generation = [set(p.name for p in folder.iterdir() if "generation" in p.name) for folder in (source, out)]
    assert generation[0] <= generation[1], f"{name}: {generation}"
    # `horizon` computes with bf16 weights.
    if dtype == torch.bfloat16:
        check_sampling(horizon, name, after, out)


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    chosen = sys.argv[2:] or MODELS
    for name in chosen:
        if MODELS[name][0] not in CONFIG_MAPPING:
            print(f"{name}: skipped, transformers {transformers.__version__} does not have it")
            continue
        for dtype in (torch.bfloat16, torch.float32):
            for shards in ("5GB", "20KB"):
                with tempfile.TemporaryDirectory() as work:
                    check(sys.argv[1], name, dtype, shards, pathlib.Path(work))
        print(f"{name}: as bf16 and f32, in one file and in shards, the export equals the original; "
              "greedy sampling, too")
    for folder, change in ALTERED.items():
        for name in ("llama", "qwen3"):
            with tempfile.TemporaryDirectory() as work:
                check(sys.argv[1], name, torch.bfloat16, "5GB", pathlib.Path(work), change)
        print(f"folders {folder}: the export equals the original")
    print(f"transformers {transformers.__version__}: {len(chosen)} models")


if __name__ == "__main__":
    main()
