"""The reference model, an independent f64 model, and the training step of both."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cases import IGNORED, Case, Micro, parameter_shapes

# Both models return logits [B, T, V], f32 or f64, from weights by name.


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
        assert {n: tuple(p.shape) for n, p in self.parameters.items()} == parameter_shapes(case), case.name

    def load(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
        return self.parameters

    def logits(self, micro: Micro) -> torch.Tensor:
        if micro.docs is None:
            return self.model(input_ids=micro.tokens.long(), use_cache=False).logits
        positions, _ = positions_and_mask(micro)

        def mask(window: int) -> torch.Tensor:
            _, visible = positions_and_mask(micro, window)
            return torch.where(visible, 0.0, torch.finfo(torch.float32).min)[:, None]

        masks = {"full_attention": mask(0), "sliding_attention": mask(self.case.window)}
        # Qwen models take a mask per kind of layer.
        if not self.case.family.startswith("qwen"):
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

    def load(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.weights = {name: w.to(self.device, self.dtype).requires_grad_() for name, w in weights.items()}
        return self.weights

    def logits(self, micro: Micro) -> torch.Tensor:
        return plain_logits(self.case, self.weights, micro)


def arguments(case: Case) -> dict:
    """Arguments of the family's configuration class."""
    arguments = dict(case.describe()["config"])
    rope = {"rope_type": "default", "rope_theta": arguments.pop("rope_theta")} | dict(case.rope)
    arguments |= {"rope_parameters": rope, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
    if case.family == "llama":
        arguments |= {"attention_bias": case.qkv_bias, "mlp_bias": case.mlp_bias}
    if case.family == "mistral":
        arguments |= {"sliding_window": case.window or None}
    if case.family.startswith("qwen"):
        arguments |= {"use_sliding_window": case.window > 0, "sliding_window": case.window or None}
    if case.family == "qwen2":
        arguments |= {"max_window_layers": min(case.windowed, default=case.L)}
    if case.family == "qwen3":
        kinds = ["sliding_attention" if case.layer_window(layer) else "full_attention" for layer in range(case.L)]
        arguments |= {"attention_bias": case.qkv_bias, "layer_types": kinds}
    return arguments


def frequencies(case: Case) -> torch.Tensor:
    """The angle per position of each pair, f64 [D/2]. Scalings follow the formulas of their papers."""
    plain = case.theta ** (-torch.arange(0, case.D, 2, dtype=torch.float64) / case.D)
    rope = dict(case.rope)
    match rope.get("rope_type", "default"):
        case "default":
            return plain
        case "linear":
            return plain / rope["factor"]
        case "llama3":
            turns = rope["original_max_position_embeddings"] * plain / (2.0 * math.pi)
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            unscaled = ((turns - low) / (high - low)).clamp(0.0, 1.0)  # 1 for short wavelengths, which are not scaled
            return plain * (unscaled + (1.0 - unscaled) / rope["factor"])


def plain_logits(case: Case, w: dict[str, torch.Tensor], micro: Micro) -> torch.Tensor:
    B, T = micro.tokens.shape
    H, G, D = case.H, case.G, case.D
    dtype = w["model.norm.weight"].dtype
    wide = torch.promote_types(dtype, torch.float32)  # the dtype of sums and norms in bf16 models
    positions, _ = positions_and_mask(micro)
    angle = positions[:, None, :, None] * frequencies(case).to(positions.device)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)

    def rmsnorm(x, weight):
        x = x.to(wide)
        return (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + case.norm_eps)).to(dtype) * weight

    def heads(x, count):
        return x.view(B, T, count, D).transpose(1, 2)

    def rotate(x):  # element i of the first half pairs with element i of the second
        a, b = x[..., : D // 2], x[..., D // 2 :]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    x = w["model.embed_tokens.weight"][micro.tokens.long()]
    for layer in range(case.L):
        p = lambda name: w[f"model.layers.{layer}.{name}.weight"]
        linear = lambda x, name: x @ p(name).T + w.get(f"model.layers.{layer}.{name}.bias", 0.0)
        normed = lambda x, name: rmsnorm(x, p(name)) if case.qk_norm else x
        _, visible = positions_and_mask(micro, case.layer_window(layer))
        h = rmsnorm(x, p("input_layernorm"))
        q = rotate(normed(heads(linear(h, "self_attn.q_proj"), H), "self_attn.q_norm"))
        k = rotate(normed(heads(linear(h, "self_attn.k_proj"), G), "self_attn.k_norm")).repeat_interleave(H // G, 1)
        v = heads(linear(h, "self_attn.v_proj"), G).repeat_interleave(H // G, 1)
        scores = (q @ k.transpose(2, 3) / math.sqrt(D)).masked_fill(~visible[:, None], -math.inf)
        out = (scores.softmax(-1, dtype=wide).to(dtype) @ v).transpose(1, 2).reshape(B, T, H * D)
        x = x + linear(out, "self_attn.o_proj")
        h = rmsnorm(x, p("post_attention_layernorm"))
        x = x + linear(F.silu(linear(h, "mlp.gate_proj")) * linear(h, "mlp.up_proj"), "mlp.down_proj")
    x = rmsnorm(x, w["model.norm.weight"])
    return (x @ w["model.embed_tokens.weight" if case.tied else "lm_head.weight"].T).to(wide)


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
        parameters = model.load({name: round_to_bf16(master) for name, master in masters.items()})
        share, share_f64 = micro_loss(model, micro, total)
        loss += share_f64
        for name, g in zip(parameters, torch.autograd.grad(share, list(parameters.values()))):
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
