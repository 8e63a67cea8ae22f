"""The cases, and the random weights and batches of each. README.md has the purpose of each."""

from dataclasses import dataclass

import torch

STEPS = 5
IGNORED = -100


@dataclass(frozen=True)
class Case:
    name: str
    seed: int
    C: int
    F: int
    L: int
    H: int
    G: int
    D: int
    V: int
    B: int
    T: int
    M: int = 1
    tied: bool = False
    norm_eps: float = 1e-5
    theta: float = 10000.0
    lr: tuple = (1e-3, 2e-3, 3e-3, 2e-3, 1e-3)
    beta1: float = 0.9
    beta2: float = 0.95
    adam_eps: float = 1e-8
    decay: float = 0.1
    clip: float = 0.0  # 0 means off
    ignored: float = 0.0  # share of targets set to IGNORED, in addition to the rows of `blank`
    blank: tuple = ()  # (step, micro, row) whose targets are all IGNORED
    weighted: bool = False
    docs: tuple = ()  # per row the lengths of its documents; micro m uses the rows rolled by m
    cut_docs: bool = False  # the last target of every document is IGNORED
    family: str = ""  # a model_type; then the file also has the config that transformers writes, and logits
    rope: tuple = ()  # entries of `rope_parameters` besides the base, as pairs
    windowed_theta: float = 0.0  # base of the layers with a window, which are not scaled; 0: as the other layers
    rotated: int = 0  # the first elements of a head that rotate; 0 means all
    interleaved: bool = False  # pairs (2i, 2i + 1) rotate
    unrotated: tuple = ()  # layers without rotary positions
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    bias: float = 0.1  # deviation of biases
    norms: str = "before"  # places of a layer's norms: before attention and MLP, after, or around
    plus_one: bool = False  # norms multiply by 1 + weight
    qk_norm: str = ""  # norm of queries and keys: of each head, or of all heads together
    gelu: bool = False  # tanh approximation of GELU instead of SiLU
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float = 0.0  # of scores; 0 means 1/√D
    logits_scaling: float = 1.0  # logits are divided by it
    bf16: bool = False  # the file also has results of a bf16 run of the same class
    window: int = 0  # window size in positions, counting the row itself
    windowed: tuple = ()  # layers with the window

    def layer_window(self, layer: int) -> int:
        """The window of a layer; 0 means none."""
        return self.window if layer in self.windowed else 0

    def describe(self, config: dict | None = None) -> dict:
        """The JSON of the metadata key `case`; `config` is the one that transformers writes, for cases of a family."""
        return ({"hf_config": config} if config else {}) | {
            "name": self.name,
            "config": {
                "hidden_size": self.C,
                "intermediate_size": self.F,
                "num_hidden_layers": self.L,
                "num_attention_heads": self.H,
                "num_key_value_heads": self.G,
                "head_dim": self.D,
                "vocab_size": self.V,
                "rms_norm_eps": self.norm_eps,
                "rope_theta": self.theta,
                "tie_word_embeddings": self.tied,
            },
            "batch": self.B,
            "seq": self.T,
            "micros": self.M,
            "steps": STEPS,
            "optimizer": {
                "lr": list(self.lr),
                "beta1": self.beta1,
                "beta2": self.beta2,
                "eps": self.adam_eps,
                "weight_decay": self.decay,
                "clip": self.clip,
            },
        }


CASES = [
    Case("base_gqa", 1, C=32, F=48, L=2, H=4, G=2, D=8, V=64, B=2, T=16),
    Case("tied_mha", 2, C=32, F=40, L=2, H=4, G=4, D=8, V=96, B=2, T=12, tied=True, clip=100.0, norm_eps=1e-6),
    Case("mqa_odd", 3, C=24, F=43, L=3, H=3, G=1, D=8, V=61, B=1, T=17, clip=1.0, beta2=0.999, decay=0.0),
    Case("accumulate", 4, C=16, F=43, L=2, H=4, G=2, D=4, V=67, B=2, T=9, M=3, ignored=0.3, norm_eps=1e-2),
    Case("clipped", 5, C=32, F=48, L=2, H=2, G=1, D=16, V=50, B=2, T=11, M=2, clip=0.05, adam_eps=1e-4),
    Case("ignored", 6, C=24, F=32, L=2, H=4, G=2, D=6, V=53, B=3, T=13, M=2, clip=1.0, ignored=0.4,
         blank=((0, 0, 1), (1, 1, 0), (1, 1, 1), (1, 1, 2), (3, 0, 2))),
    Case("weighted", 7, C=24, F=40, L=2, H=4, G=4, D=6, V=73, B=2, T=15, M=2, clip=0.5, weighted=True, ignored=0.15),
    Case("documents", 8, C=32, F=43, L=2, H=4, G=2, D=8, V=71, B=3, T=33, clip=1.0,
         docs=((33,), (1, 10, 1, 21), (16, 16, 1))),
    Case("head_dim_wide", 9, C=32, F=37, L=2, H=4, G=2, D=16, V=59, B=2, T=19, theta=500000.0,
         lr=(0.0, 1e-3, 2e-3, 3e-3, 4e-3)),
    Case("head_dim_narrow", 10, C=48, F=33, L=2, H=2, G=1, D=6, V=129, B=2, T=10, tied=True, clip=1.0, adam_eps=1e-6),
    Case("together", 11, C=24, F=43, L=3, H=3, G=1, D=10, V=61, B=2, T=17, M=3, tied=True, clip=0.2, adam_eps=1e-5,
         weighted=True, ignored=0.2, blank=((2, 1, 0), (2, 1, 1)), docs=((5, 1, 11), (8, 9)), cut_docs=True),
    Case("llama_linear", 31, C=24, F=31, L=2, H=3, G=1, D=8, V=61, B=2, T=17, M=2, clip=0.5, family="llama",
         rope=(("rope_type", "linear"), ("factor", 2.5))),
    Case("llama_llama3", 32, C=24, F=29, L=2, H=2, G=2, D=16, V=53, B=2, T=19, M=2, clip=0.5, theta=500.0,
         family="llama", rope=(("rope_type", "llama3"), ("factor", 8.0), ("low_freq_factor", 1.0),
                               ("high_freq_factor", 4.0), ("original_max_position_embeddings", 64))),
    Case("llama_biases", 33, C=24, F=31, L=2, H=4, G=2, D=6, V=59, B=2, T=13, M=2, tied=True, clip=0.5,
         family="llama", qkv_bias=True, o_bias=True, mlp_bias=True),
    Case("mistral", 34, C=24, F=35, L=2, H=4, G=1, D=6, V=57, B=2, T=19, M=2, clip=0.5, family="mistral",
         window=5, windowed=(0, 1)),
    Case("mistral_documents", 35, C=24, F=33, L=2, H=2, G=2, D=10, V=47, B=2, T=21, clip=0.5, family="mistral",
         window=4, windowed=(0, 1), docs=((9, 1, 11), (21,))),
    Case("qwen2", 36, C=24, F=31, L=3, H=4, G=2, D=6, V=51, B=2, T=17, M=2, clip=0.5, family="qwen2", qkv_bias=True,
         window=6, windowed=(1, 2)),
    Case("qwen2_tied", 37, C=24, F=37, L=2, H=3, G=3, D=8, V=63, B=1, T=15, M=3, tied=True, clip=0.5, ignored=0.2,
         family="qwen2", qkv_bias=True, norm_eps=1e-6),
    Case("qwen3", 38, C=24, F=33, L=2, H=4, G=1, D=10, V=55, B=2, T=15, M=2, tied=True, clip=0.5, family="qwen3",
         qk_norm="head", norm_eps=1e-6),
    Case("qwen3_windows", 39, C=24, F=27, L=3, H=2, G=2, D=6, V=49, B=2, T=17, M=2, clip=0.5, family="qwen3",
         qk_norm="head", qkv_bias=True, o_bias=True, window=3, windowed=(0, 2), docs=((17,), (6, 11))),
    Case("heads_64", 41, C=16, F=24, L=2, H=2, G=1, D=64, V=43, B=2, T=40, M=2, tied=True, clip=0.5, family="llama",
         bf16=True),
    Case("heads_96", 42, C=16, F=24, L=2, H=1, G=1, D=96, V=41, B=2, T=21, clip=0.5, family="mistral", window=4,
         windowed=(0, 1), docs=((9, 1, 11), (21,)), bf16=True),
    Case("heads_128", 43, C=8, F=16, L=2, H=2, G=1, D=128, V=47, B=2, T=15, M=2, clip=0.5, family="qwen3", qk_norm="head",
         norm_eps=1e-6, bf16=True),
    Case("heads_256", 44, C=8, F=16, L=2, H=1, G=1, D=256, V=37, B=2, T=17, M=2, clip=0.5, family="qwen2",
         qkv_bias=True, ignored=0.2, bf16=True),
    Case("gemma3", 51, C=20, F=23, L=3, H=2, G=1, D=6, V=43, B=2, T=17, M=2, tied=True, clip=0.5, norm_eps=1e-6,
         theta=500.0, family="gemma3_text", rope=(("rope_type", "linear"), ("factor", 4.0)), windowed_theta=100.0,
         norms="around", plus_one=True, qk_norm="head", gelu=True, embedding_multiplier=20**0.5,
         attention_multiplier=10**-0.5, window=4, windowed=(0, 1)),
    Case("gemma3_documents", 52, C=16, F=23, L=2, H=2, G=2, D=10, V=39, B=2, T=21, clip=0.5, family="gemma3_text",
         windowed_theta=50.0, qkv_bias=True, o_bias=True, norms="around", plus_one=True, qk_norm="head", gelu=True,
         embedding_multiplier=4.0, attention_multiplier=7**-0.5, window=5, windowed=(1,), docs=((9, 1, 11), (21,))),
    Case("phi3", 53, C=20, F=23, L=2, H=2, G=2, D=10, V=41, B=2, T=19, M=2, clip=0.5, family="phi3", window=5,
         windowed=(0, 1), docs=((7, 12), (2, 1, 16))),
    Case("phi3_long", 54, C=24, F=27, L=2, H=3, G=1, D=8, V=43, B=2, T=19, M=2, tied=True, clip=0.5, family="phi3",
         rope=(("rope_type", "longrope"), ("short_factor", [1.0, 1.1, 1.3]), ("long_factor", [1.5, 2.75, 6.0]),
               ("original_max_position_embeddings", 8)), rotated=6),
    Case("olmo2", 55, C=20, F=23, L=2, H=2, G=1, D=10, V=43, B=2, T=15, M=2, clip=0.5, family="olmo2", norms="after",
         qk_norm="all", qkv_bias=True, o_bias=True, bias=0.02),
    Case("olmo2_documents", 56, C=18, F=25, L=2, H=3, G=3, D=6, V=41, B=2, T=17, M=2, tied=True, clip=0.5,
         family="olmo2", theta=500.0, norms="after", qk_norm="all", docs=((6, 11), (16, 1))),
    Case("olmo3", 57, C=20, F=19, L=4, H=2, G=1, D=10, V=37, B=2, T=17, M=2, clip=0.5, family="olmo3", theta=500.0,
         rope=(("rope_type", "yarn"), ("factor", 8.0), ("original_max_position_embeddings", 8), ("beta_fast", 1.0),
               ("beta_slow", 0.1), ("attention_factor", 1.25)), windowed_theta=500.0, norms="after", qk_norm="all",
         window=4, windowed=(0, 1, 2), lr=(3e-4, 6e-4, 9e-4, 6e-4, 3e-4)),
    Case("olmo3_documents", 258, C=18, F=25, L=2, H=3, G=1, D=6, V=41, B=2, T=19, M=2, tied=True, clip=0.5,
         family="olmo3", windowed_theta=10000.0, qkv_bias=True, o_bias=True, bias=0.02, norms="after", qk_norm="all",
         window=6, windowed=(0,), docs=((8, 11), (19,))),
    Case("smollm3", 59, C=20, F=19, L=4, H=2, G=1, D=10, V=43, B=2, T=15, M=2, tied=True, clip=0.5, family="smollm3",
         norm_eps=1e-6, unrotated=(1, 3), window=5, windowed=(3,)),
    Case("smollm3_biases", 260, C=18, F=23, L=2, H=3, G=1, D=6, V=41, B=2, T=19, clip=0.5, family="smollm3",
         qkv_bias=True, o_bias=True, mlp_bias=True, window=6, windowed=(1,), docs=((4, 15), (19,))),
    Case("ministral3", 61, C=20, F=25, L=2, H=3, G=1, D=8, V=41, B=2, T=21, M=2, clip=0.5, family="ministral3",
         theta=500.0, rope=(("rope_type", "yarn"), ("factor", 8.0), ("original_max_position_embeddings", 8),
                            ("beta_fast", 1.0), ("beta_slow", 0.1), ("mscale", 1.0), ("mscale_all_dim", 1.0),
                            ("llama_4_scaling_beta", 0.3))),
    Case("ministral3_documents", 62, C=18, F=23, L=2, H=2, G=2, D=10, V=39, B=2, T=25, tied=True, clip=0.5,
         family="ministral3", theta=500.0, window=9, windowed=(0, 1), docs=((9, 16), (25,)),
         rope=(("rope_type", "yarn"), ("factor", 8.0), ("original_max_position_embeddings", 8), ("beta_fast", 1.0),
               ("beta_slow", 0.1), ("mscale", 1.0), ("mscale_all_dim", 0.5), ("truncate", False),
               ("llama_4_scaling_beta", 0.4))),
    Case("glm", 63, C=20, F=25, L=2, H=3, G=1, D=8, V=43, B=2, T=15, M=2, clip=0.5, family="glm", norm_eps=1.5625e-7,
         rotated=4, interleaved=True, qkv_bias=True, adam_eps=1e-5),
    Case("glm_documents", 64, C=18, F=23, L=2, H=2, G=2, D=10, V=41, B=2, T=17, M=2, tied=True, clip=0.5, family="glm",
         rotated=8, interleaved=True, docs=((10, 7), (1, 16))),
    Case("glm4", 65, C=20, F=25, L=2, H=3, G=1, D=8, V=43, B=2, T=15, M=2, clip=0.5, family="glm4", norm_eps=1.5625e-7,
         rotated=4, interleaved=True, qkv_bias=True, norms="around", adam_eps=1e-5),
    Case("glm4_documents", 66, C=18, F=23, L=2, H=2, G=2, D=10, V=41, B=2, T=17, M=2, tied=True, clip=0.5,
         family="glm4", rotated=8, interleaved=True, norms="around", docs=((10, 7), (1, 16))),
    Case("granite", 67, C=24, F=27, L=2, H=3, G=1, D=8, V=43, B=2, T=15, M=2, tied=True, clip=0.5, family="granite",
         norm_eps=1e-6, embedding_multiplier=6.0, residual_multiplier=0.4, attention_multiplier=0.2,
         logits_scaling=3.0),
    Case("granite_biases", 68, C=20, F=23, L=2, H=2, G=2, D=10, V=41, B=2, T=17, M=2, clip=0.5, family="granite",
         embedding_multiplier=3.0, attention_multiplier=0.45, logits_scaling=1.5, qkv_bias=True, o_bias=True,
         mlp_bias=True, docs=((6, 11), (17,))),
    Case("seed_oss", 69, C=20, F=23, L=2, H=2, G=1, D=12, V=43, B=2, T=15, M=2, clip=0.5, family="seed_oss",
         norm_eps=1e-6, qkv_bias=True, o_bias=True, mlp_bias=True),
    Case("seed_oss_documents", 70, C=18, F=25, L=2, H=4, G=2, D=6, V=41, B=2, T=17, M=2, tied=True, clip=0.5,
         family="seed_oss", qkv_bias=True, docs=((6, 11), (17,))),
    Case("exaone4", 271, C=20, F=19, L=4, H=2, G=1, D=10, V=39, B=2, T=19, clip=0.5, family="exaone4", theta=500.0,
         rope=(("rope_type", "llama3"), ("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0),
               ("original_max_position_embeddings", 32)), unrotated=(3,), norms="after", qk_norm="head", window=5,
         windowed=(0, 1, 2), docs=((8, 11), (19,)), lr=(3e-4, 6e-4, 9e-4, 6e-4, 3e-4)),
    Case("exaone4_plain", 72, C=18, F=25, L=2, H=3, G=1, D=6, V=43, B=2, T=15, M=2, tied=True, clip=0.5,
         family="exaone4", norms="after", qk_norm="head"),
    Case("helium", 73, C=24, F=27, L=2, H=3, G=1, D=8, V=41, B=2, T=15, M=2, clip=0.5, family="helium", norm_eps=1e-8,
         interleaved=True),
    Case("helium_biases", 74, C=20, F=23, L=2, H=2, G=2, D=10, V=43, B=2, T=17, M=2, tied=True, clip=0.5,
         family="helium", interleaved=True, qkv_bias=True, mlp_bias=True, docs=((6, 11), (17,))),
    Case("cwm", 75, C=20, F=19, L=4, H=2, G=1, D=8, V=37, B=2, T=19, M=2, clip=0.5, family="cwm", theta=500.0,
         rope=(("rope_type", "llama3"), ("factor", 16.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0),
               ("original_max_position_embeddings", 32)), window=5, windowed=(1, 2, 3)),
    Case("cwm_documents", 76, C=18, F=23, L=2, H=3, G=3, D=6, V=41, B=2, T=19, M=2, tied=True, clip=0.5, family="cwm",
         mlp_bias=True, window=6, windowed=(1,), docs=((8, 11), (19,))),
]


@dataclass
class Micro:
    tokens: torch.Tensor  # i32 [B, T]
    targets: torch.Tensor  # i32 [B, T], already shifted; IGNORED = no target
    weights: torch.Tensor | None  # f32 [B, T]
    docs: torch.Tensor | None  # i32 [B, T]

    def effective_weights(self) -> torch.Tensor:
        given = torch.ones_like(self.targets, dtype=torch.float32) if self.weights is None else self.weights
        return torch.where(self.targets == IGNORED, 0.0, given)


def draw_micro(case: Case, step: int, micro: int) -> Micro:
    drawn = torch.randint(0, case.V, (case.B, case.T + 1), dtype=torch.int32)
    tokens, targets = drawn[:, :-1].contiguous(), drawn[:, 1:].clone()
    if case.ignored:
        targets[torch.rand(targets.shape) < case.ignored] = IGNORED
    for blank_step, blank_micro, row in case.blank:
        if (blank_step, blank_micro) == (step, micro):
            targets[row] = IGNORED
    weights = None
    if case.weighted:
        weights = 2.0 * torch.rand(targets.shape)
        weights[torch.rand(targets.shape) < 0.2] = 0.0
    docs = None
    if case.docs:
        rows = [case.docs[(row + micro) % case.B] for row in range(case.B)]
        assert all(sum(lengths) == case.T for lengths in rows), case.name
        docs = torch.tensor([[doc for doc, n in enumerate(lengths) for _ in range(n)] for lengths in rows],
                            dtype=torch.int32)
        if case.cut_docs:
            last = torch.ones_like(docs, dtype=torch.bool)
            last[:, :-1] = docs[:, 1:] != docs[:, :-1]
            targets[last] = IGNORED
    return Micro(tokens, targets, weights, docs)


def draw_masters(case: Case) -> dict[str, torch.Tensor]:
    """f32 masters by name: matrices with a deviation of 0.05 to 0.1, norms of a factor 1 ± 0.1, biases ± `bias`.

        Every 16th element is halfway between two bf16 numbers, where rounding to even would give another weight.
    """
    masters = {}
    for name, shape in parameter_shapes(case).items():
        if name.endswith(".bias"):
            master = case.bias * torch.randn(shape)
        elif len(shape) == 1:
            master = (0.0 if case.plus_one else 1.0) + 0.1 * torch.randn(shape)
        else:
            master = (0.05 + 0.05 * torch.rand(()).item()) * torch.randn(shape)
        bits = master.view(torch.int32).flatten()
        bits[::16] = (bits[::16] & -0x10000) | 0x8000
        masters[name] = master
    return masters


def norm_names(case: Case) -> list[str | None]:
    """The norms before and after attention, and before and after the MLP."""
    return {
        "before": ["input_layernorm", None, "post_attention_layernorm", None],
        "after": [None, "post_attention_layernorm", None, "post_feedforward_layernorm"],
        "around": ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                   "post_feedforward_layernorm"],
    }[case.norms]


def parameter_shapes(case: Case) -> dict[str, tuple]:
    """Shapes by name, in the order in which the masters are drawn."""
    before_attention, after_attention, before_mlp, after_mlp = norm_names(case)
    shapes = {"model.embed_tokens.weight": (case.V, case.C)}
    for layer in range(case.L):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                before_attention: (case.C,),
                "self_attn.q_proj": (case.H * case.D, case.C),
                "self_attn.k_proj": (case.G * case.D, case.C),
                "self_attn.v_proj": (case.G * case.D, case.C),
                "self_attn.o_proj": (case.C, case.H * case.D),
                after_attention: (case.C,),
                before_mlp: (case.C,),
                "mlp.gate_proj": (case.F, case.C),
                "mlp.up_proj": (case.F, case.C),
                "mlp.down_proj": (case.C, case.F),
                after_mlp: (case.C,),
            }.items()
            if name
        }
        biases = {
            "self_attn.q_proj": (case.qkv_bias, case.H * case.D),
            "self_attn.k_proj": (case.qkv_bias, case.G * case.D),
            "self_attn.v_proj": (case.qkv_bias, case.G * case.D),
            "self_attn.o_proj": (case.o_bias, case.C),
            "mlp.gate_proj": (case.mlp_bias, case.F),
            "mlp.up_proj": (case.mlp_bias, case.F),
            "mlp.down_proj": (case.mlp_bias, case.C),
        }
        shapes |= {f"model.layers.{layer}.{name}.bias": (n,) for name, (there, n) in biases.items() if there}
        if case.qk_norm:
            heads = {"q": case.H, "k": case.G} if case.qk_norm == "all" else {"q": 1, "k": 1}
            shapes |= {f"model.layers.{layer}.self_attn.{x}_norm.weight": (n * case.D,) for x, n in heads.items()}
    shapes["model.norm.weight"] = (case.C,)
    if not case.tied:
        shapes["lm_head.weight"] = (case.V, case.C)
    return shapes
