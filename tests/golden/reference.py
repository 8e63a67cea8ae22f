"""The reference model, an independent f64 model, and the training step of both."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cases import IGNORED, Case, Micro, norm_names, parameter_shapes

# Both models take weights by name, and return logits [B, T, V], f32 or f64, and gradients by name.

# Families whose class takes a mask per kind of layer.
MASK_PER_KIND = ("qwen2", "qwen3", "gemma3_text", "olmo3", "smollm3", "exaone4", "cwm")
# Families whose class has no head_dim: it is C/H.
NO_HEAD_DIM = ("phi3", "olmo2", "olmo3", "smollm3", "granite", "exaone4")
MAX_POSITIONS = 64


def positions_and_mask(micro: Micro, window: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions i64 [B, T], which restart in every document; and a mask bool [B, T, T], true where a row attends."""
    T = micro.tokens.shape[1]
    docs = torch.zeros_like(micro.tokens) if micro.docs is None else micro.docs
    same = docs[:, :, None] == docs[:, None, :]
    all_pairs = torch.ones(T, T, dtype=torch.bool, device=docs.device)
    visible = same & all_pairs.tril()
    near = all_pairs.triu(1 - window) if window else True
    return visible.sum(-1) - 1, visible & near


class Reference:
    """The family's class in f32 with eager attention. Without documents the model builds its own masks."""

    def __init__(self, case: Case):
        from transformers import AutoConfig, AutoModelForCausalLM  # not all users of this file have it

        self.case = case
        config = AutoConfig.for_model(case.family or "llama", **arguments(case), attn_implementation="eager")
        self.model = AutoModelForCausalLM.from_config(config).float().train()
        self.parameters = dict(self.model.named_parameters())
        self.joined = {name: names_of(case, name) for name in self.parameters}
        self.shapes = parameter_shapes(case)
        for name, parameter in self.parameters.items():
            parts = [self.shapes[part] for part in self.joined[name]]
            assert tuple(parameter.shape) == (sum(part[0] for part in parts), *parts[0][1:]), (case.name, name)
        assert sorted(sum(self.joined.values(), [])) == sorted(self.shapes), case.name

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.cat([weights[part] for part in self.joined[name]]))

    def gradient(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        gradient = {}
        for name, g in zip(self.parameters, torch.autograd.grad(loss, list(self.parameters.values()))):
            parts = self.joined[name]
            gradient |= zip(parts, g.split([self.shapes[part][0] for part in parts]))
        return gradient

    def logits(self, micro: Micro) -> torch.Tensor:
        if micro.docs is None:
            return self.model(input_ids=micro.tokens.long(), use_cache=False).logits
        positions, _ = positions_and_mask(micro)

        def mask(window: int) -> torch.Tensor:
            _, visible = positions_and_mask(micro, window)
            return torch.where(visible, 0.0, torch.finfo(torch.float32).min)[:, None]

        masks = {"full_attention": mask(0), "sliding_attention": mask(self.case.window)}
        if self.case.family not in MASK_PER_KIND:
            masks = mask(self.case.layer_window(0))
        return self.model(input_ids=micro.tokens.long(), attention_mask=masks, position_ids=positions,
                          use_cache=False).logits

    def config(self) -> dict:
        """The contents of `config.json` as transformers writes it."""
        return self.model.config.to_diff_dict() | {"architectures": [type(self.model).__name__]}


class Naive(Reference):
    """The same class with bf16 weights, activations and gradients; f32 operations inside the class stay f32."""

    def __init__(self, case: Case):
        super().__init__(case)
        for parameter in self.parameters.values():
            parameter.data = parameter.data.bfloat16()

    def logits(self, micro: Micro) -> torch.Tensor:
        return super().logits(micro).float()


class Plain:
    """The same decoder written out from its formulas, in f64 by default."""

    def __init__(self, case: Case, dtype=torch.float64, device="cpu"):
        self.case, self.dtype, self.device = case, dtype, device

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = {name: w.to(self.device, self.dtype).requires_grad_() for name, w in weights.items()}

    def gradient(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(self.weights, torch.autograd.grad(loss, list(self.weights.values()))))

    def logits(self, micro: Micro) -> torch.Tensor:
        return plain_logits(self.case, self.weights, micro)


def names_of(case: Case, name: str) -> list[str]:
    """The tensors of the files that a parameter of the class has: itself, or more, joined by rows."""
    renamed = {}
    if case.family in ("phi3", "glm", "glm4"):
        renamed["mlp.gate_up_proj"] = ["mlp.gate_proj", "mlp.up_proj"]
    if case.family == "phi3":
        renamed["self_attn.qkv_proj"] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    if case.family == "glm4":
        renamed |= {
            "post_self_attn_layernorm": ["post_attention_layernorm"],
            "post_attention_layernorm": ["pre_feedforward_layernorm"],
            "post_mlp_layernorm": ["post_feedforward_layernorm"],
        }
    for old, new in renamed.items():
        if name.endswith(f".{old}.weight"):
            return [name.replace(f".{old}.", f".{part}.") for part in new]
    return [name]


def arguments(case: Case) -> dict:
    """Arguments of the family's configuration class."""
    arguments = dict(case.describe()["config"])
    rope = {"rope_type": "default", "rope_theta": arguments.pop("rope_theta")} | dict(case.rope)
    if case.rotated:
        rope["partial_rotary_factor"] = case.rotated / case.D
    if case.windowed_theta:
        rope = {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": case.windowed_theta},
        }
    kinds = ["sliding_attention" if case.layer_window(layer) else "full_attention" for layer in range(case.L)]
    arguments |= {"rope_parameters": rope, "max_position_embeddings": MAX_POSITIONS, "bos_token_id": 1, "eos_token_id": 2,
                  "pad_token_id": None}
    if case.family in NO_HEAD_DIM:
        assert arguments.pop("head_dim") * case.H == case.C, case.name
    match case.family:
        case "llama":
            arguments |= {"attention_bias": case.qkv_bias, "mlp_bias": case.mlp_bias}
        case "mistral" | "phi3" | "ministral3":
            arguments |= {"sliding_window": case.window or None}
            if case.family == "phi3" and "original_max_position_embeddings" in rope:
                arguments["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
        case "qwen2":
            arguments |= {"use_sliding_window": case.window > 0, "sliding_window": case.window or None,
                          "max_window_layers": min(case.windowed, default=case.L)}
        case "qwen3":
            arguments |= {"use_sliding_window": case.window > 0, "sliding_window": case.window or None,
                          "attention_bias": case.qkv_bias, "layer_types": kinds}
        case "gemma3_text":
            arguments |= {"attention_bias": case.qkv_bias, "sliding_window": case.window, "layer_types": kinds,
                          "query_pre_attn_scalar": round(case.attention_multiplier**-2)}
        case "olmo2" | "glm" | "glm4":
            arguments |= {"attention_bias": case.qkv_bias}
        case "olmo3":
            arguments |= {"attention_bias": case.qkv_bias, "sliding_window": case.window, "layer_types": kinds}
        case "smollm3":
            arguments |= {"attention_bias": case.qkv_bias, "mlp_bias": case.mlp_bias, "layer_types": kinds,
                          "use_sliding_window": case.window > 0, "sliding_window": case.window or None,
                          "no_rope_layers": [int(layer not in case.unrotated) for layer in range(case.L)]}
        case "granite":
            arguments |= {"attention_bias": case.qkv_bias, "mlp_bias": case.mlp_bias,
                          "embedding_multiplier": case.embedding_multiplier,
                          "residual_multiplier": case.residual_multiplier,
                          "attention_multiplier": case.attention_multiplier, "logits_scaling": case.logits_scaling}
        case "seed_oss":
            arguments |= {"attention_bias": case.qkv_bias, "attention_out_bias": case.o_bias,
                          "mlp_bias": case.mlp_bias, "attention_dropout": 0.0, "residual_dropout": 0.0}
        case "exaone4":
            arguments |= {"sliding_window": case.window or None, "layer_types": kinds}
        case "helium":
            arguments |= {"attention_bias": case.qkv_bias, "mlp_bias": case.mlp_bias}
        case "cwm":
            arguments |= {"mlp_bias": case.mlp_bias, "sliding_window": case.window, "layer_types": kinds}
    return arguments


def rotation(case: Case, windowed: bool) -> tuple[torch.Tensor, float]:
    """The angle per position of each pair, f64 [R/2], and the factor of rotated elements.

        Scalings follow the formulas of their papers.
    """
    R = case.rotated or case.D
    pairs = torch.arange(0, R // 2, dtype=torch.float64)
    has_base = windowed and case.windowed_theta > 0
    theta = case.windowed_theta if has_base else case.theta
    plain = theta ** (-2.0 * pairs / R)
    rope = {} if has_base else dict(case.rope)
    stretch, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    match rope.get("rope_type", "default"):
        case "default":
            return plain, 1.0
        case "linear":
            return plain / stretch, 1.0
        case "llama3":
            turns = original * plain / (2.0 * math.pi)
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            unscaled = ((turns - low) / (high - low)).clamp(0.0, 1.0)  # 1 for short wavelengths, which are not scaled
            return plain * (unscaled + (1.0 - unscaled) / stretch), 1.0
        case "yarn":
            # The pair, as a real number, that turns this many times in the original length.
            pair = lambda turns: R / 2.0 * math.log(original / (2.0 * math.pi * turns), theta)
            first, last = pair(rope["beta_fast"]), pair(rope["beta_slow"])
            if rope.get("truncate", True):
                first, last = math.floor(first), math.ceil(last)
            first, last = max(first, 0.0), min(last, R - 1.0)
            scaled = ((pairs - first) / (last - first)).clamp(0.0, 1.0)
            temperature = lambda scale: 0.1 * scale * math.log(stretch) + 1.0
            factor = rope.get("attention_factor",
                              temperature(rope.get("mscale", 1.0)) / temperature(rope.get("mscale_all_dim", 0.0)))
            return plain * (1.0 - scaled + scaled / stretch), factor
        case "longrope":
            longer = case.T > original
            factors = torch.tensor(rope["long_factor" if longer else "short_factor"], dtype=torch.float64)
            return plain / factors, math.sqrt(1.0 + math.log(MAX_POSITIONS / original) / math.log(original))


def plain_logits(case: Case, w: dict[str, torch.Tensor], micro: Micro) -> torch.Tensor:
    B, T = micro.tokens.shape
    H, G, D, R = case.H, case.G, case.D, case.rotated or case.D
    dtype = w["model.norm.weight"].dtype
    wide = torch.promote_types(dtype, torch.float32)  # the dtype of sums and norms in bf16 models
    positions, _ = positions_and_mask(micro)
    before_attention, after_attention, before_mlp, after_mlp = norm_names(case)

    def rmsnorm(x, name):
        weight = w[f"{name}.weight"] + (1.0 if case.plus_one else 0.0)
        x = x.to(wide)
        return (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + case.norm_eps)).to(dtype) * weight

    def rotate(x, windowed):
        frequencies, factor = rotation(case, windowed)
        angle = positions[:, None, :, None] * frequencies.to(positions.device)
        cos, sin = (factor * angle.cos()).to(dtype), (factor * angle.sin()).to(dtype)
        turning, still = x[..., :R], x[..., R:]
        # Pairs of neighbours, or element i of the first half with element i of the second.
        pairs = turning.unflatten(-1, (R // 2, 2) if case.interleaved else (2, R // 2))
        a, b = pairs.unbind(-1 if case.interleaved else -2)
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1 if case.interleaved else -2)
        return torch.cat((turned.flatten(-2), still), -1)

    def activation(x):
        if not case.gelu:
            return F.silu(x)
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

    x = w["model.embed_tokens.weight"][micro.tokens.long()] * case.embedding_multiplier
    for layer in range(case.L):
        at = f"model.layers.{layer}."
        window = case.layer_window(layer)
        norm = lambda x, name: rmsnorm(x, at + name) if name else x
        linear = lambda x, name: x @ w[f"{at}{name}.weight"].T + w.get(f"{at}{name}.bias", 0.0)

        def heads(x, name, count):
            x = linear(x, f"self_attn.{name}_proj")
            normed = name in "qk" and case.qk_norm
            if normed == "all":
                x = norm(x, f"self_attn.{name}_norm")
            x = x.view(B, T, count, D).transpose(1, 2)
            if normed == "head":
                x = norm(x, f"self_attn.{name}_norm")
            return rotate(x, window > 0) if name in "qk" and layer not in case.unrotated else x

        h = norm(x, before_attention)
        q, k, v = heads(h, "q", H), heads(h, "k", G), heads(h, "v", G)
        if beta := dict(case.rope).get("llama_4_scaling_beta"):
            whole = positions // dict(case.rope)["original_max_position_embeddings"]
            q = q * (1.0 + beta * (1.0 + whole.double()).log()).to(dtype)[:, None, :, None]
        k, v = k.repeat_interleave(H // G, 1), v.repeat_interleave(H // G, 1)
        _, visible = positions_and_mask(micro, window)
        scores = q @ k.transpose(2, 3) * (case.attention_multiplier or 1.0 / math.sqrt(D))
        scores = scores.masked_fill(~visible[:, None], -math.inf)
        out = (scores.softmax(-1, dtype=wide).to(dtype) @ v).transpose(1, 2).reshape(B, T, H * D)
        x = x + case.residual_multiplier * norm(linear(out, "self_attn.o_proj"), after_attention)
        h = norm(x, before_mlp)
        h = linear(activation(linear(h, "mlp.gate_proj")) * linear(h, "mlp.up_proj"), "mlp.down_proj")
        x = x + case.residual_multiplier * norm(h, after_mlp)
    x = rmsnorm(x, "model.norm")
    logits = x @ w["model.embed_tokens.weight" if case.tied else "lm_head.weight"].T
    return logits.to(wide) / case.logits_scaling


def round_to_bf16(master: torch.Tensor) -> torch.Tensor:
    """Rounds f32 to bf16 (low 16 bits zero): (bits + 0x8000) & 0xffff0000, halves away from zero."""
    bits = master.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    rounded = (bits + 0x8000) & 0xFFFF0000
    return torch.where(rounded >= 1 << 31, rounded - (1 << 32), rounded).to(torch.int32).view(torch.float32)


def micro_loss(model, micro: Micro, total: float) -> tuple[torch.Tensor, float]:
    """This micro-batch's share of the step's loss: as a tensor to differentiate, and summed in f64."""
    logits = model.logits(micro)
    nll = F.cross_entropy(logits.flatten(0, 1), micro.targets.long().flatten(), ignore_index=IGNORED, reduction="none")
    weights = micro.effective_weights().flatten()
    share = (nll * (weights / total).to(nll.dtype)).sum()
    return share, (nll.detach().double() * weights.double()).sum().item() / total


def step_gradient(model, masters, micros: list[Micro]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss (f64) and gradient of a step. The denominator is the sum of all weights of the step."""
    total = sum(m.effective_weights().double().sum().item() for m in micros)
    loss, gradient = 0.0, {}
    for micro in micros:
        model.load({name: round_to_bf16(master) for name, master in masters.items()})
        share, share_f64 = micro_loss(model, micro, total)
        loss += share_f64
        for name, g in model.gradient(share).items():
            gradient[name] = gradient[name] + g if name in gradient else g
    return loss, gradient


def global_norm(gradient: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(g.double().square().sum().item() for g in gradient.values()))


def adamw(case: Case, step: int, p, m, v, g) -> None:
    """Updates f32 p, m, v in place. Scalars are f64 and rounded to f32 in operations with tensors."""
    lr = case.lr[step]
    correction1 = 1.0 - case.beta1 ** (step + 1)
    correction2 = 1.0 - case.beta2 ** (step + 1)
    if p.dim() >= 2:
        p -= lr * case.decay * p
    m.copy_(case.beta1 * m + (1.0 - case.beta1) * g)
    v.copy_(case.beta2 * v + (1.0 - case.beta2) * g * g)
    p -= lr * (m / correction1) / ((v / correction2).sqrt() + case.adam_eps)


@dataclass
class Run:
    loss: list
    norm: list
    grad: dict  # gradient of the first step before clipping, f32 (f64 from Plain)
    final: dict  # f32 masters after the last step
    read: list  # f32 masters before each step


def train(case: Case, model, init, batches, noise: float = 0.0, observe=None) -> Run:
    """Runs five steps. `noise` adds normal noise of this share of max|g| to every tensor's gradient.

    `observe(step, masters, gradient)` is called after each update with the clipped gradient it used.
    """
    masters = {name: master.clone() for name, master in init.items()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in masters.items()}
    run = Run([], [], {}, masters, [])
    for step, micros in enumerate(batches):
        run.read.append({name: p.clone() for name, p in masters.items()})
        loss, gradient = step_gradient(model, masters, micros)
        for g in gradient.values():
            if noise:
                g += noise * g.abs().max() * torch.randn(g.shape, dtype=g.dtype) * (g != 0)
        norm = global_norm(gradient)
        factor = min(1.0, case.clip / norm) if case.clip > 0.0 else 1.0
        run.loss.append(loss)
        run.norm.append(norm)
        if step == 0:
            run.grad = {name: g.clone() for name, g in gradient.items()}
        clipped = {name: g.float() * factor for name, g in gradient.items()}
        for name, p in masters.items():
            adamw(case, step, p, *moments[name], clipped[name])
        if observe:
            observe(step, masters, clipped)
    return run
