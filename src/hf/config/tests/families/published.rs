//! Configs as published, and the models that they describe.

use super::super::*;
use crate::hf::config::layers::{FULL, SLIDING};
use crate::model::{Multipliers, Norms};
use crate::ops::{Activation, QueryScaling};

/// Keys of the config, with those of a size that all families have.
pub fn keys(model_type: &str, [c, f, l, h, v, positions]: [usize; 6], more: Value) -> Value {
    let mut keys = json!({"model_type": model_type, "hidden_size": c, "intermediate_size": f,
        "num_hidden_layers": l, "num_attention_heads": h, "vocab_size": v,
        "max_position_embeddings": positions});
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    keys
}

pub fn parsed(keys: &Value) -> Result<FolderConfig> {
    FolderConfig::parse(keys.to_string().as_bytes())
}

/// Of `l` layers, those that are not number `full` of each `period`.
pub fn windowed(l: usize, period: usize, full: usize) -> Vec<bool> {
    (0..l).map(|layer| layer % period != full).collect()
}

pub fn types(layers: &[bool]) -> Vec<&'static str> {
    layers.iter().map(|&holds| if holds { SLIDING } else { FULL }).collect()
}

pub fn plain([c, f, l, h, v, positions_max]: [usize; 6], g: usize, d: usize) -> ModelConfig {
    ModelConfig { positions_max, ..ModelConfig::llama(Dims { c, h, g, d, f, v, l }) }
}

pub fn rope(theta: f64, scaling: RopeScaling) -> Rope {
    Rope { theta, scaling, ..Rope::default() }
}

pub fn llama3(factor: f64) -> RopeScaling {
    RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original_positions: 8192 }
}

pub const GEMMA_270M: [usize; 6] = [640, 2048, 18, 4, 262_144, 32_768];
pub const GEMMA_1B: [usize; 6] = [1152, 6912, 26, 4, 262_144, 32_768];
pub const GEMMA_27B: [usize; 6] = [5376, 21_504, 62, 32, 262_208, 131_072];
pub const PHI3: [usize; 6] = [3072, 8192, 32, 32, 32_064, 4096];
pub const PHI4: [usize; 6] = [5120, 17_920, 40, 40, 100_352, 16_384];
pub const PHI4_MINI: [usize; 6] = [3072, 8192, 32, 24, 200_064, 131_072];
pub const OLMO2: [usize; 6] = [4096, 11_008, 32, 32, 100_352, 4096];
pub const OLMO3: [usize; 6] = [4096, 11_008, 32, 32, 100_278, 65_536];
pub const SMOLLM3: [usize; 6] = [2048, 11_008, 36, 16, 128_256, 65_536];
pub const MINISTRAL: [usize; 6] = [4096, 14_336, 34, 32, 131_072, 262_144];
pub const GLM: [usize; 6] = [4096, 13_696, 40, 32, 151_552, 131_072];
pub const GLM4_32B: [usize; 6] = [6144, 23_040, 61, 48, 151_552, 32_768];
pub const GRANITE: [usize; 6] = [4096, 12_800, 40, 32, 49_159, 131_072];
pub const SEED: [usize; 6] = [5120, 27_648, 64, 80, 155_136, 524_288];
pub const EXAONE_1B: [usize; 6] = [2048, 4096, 30, 32, 102_400, 65_536];
pub const EXAONE_32B: [usize; 6] = [5120, 27_392, 64, 40, 102_400, 131_072];
pub const HELIUM: [usize; 6] = [2560, 7040, 24, 20, 48_000, 4096];
pub const CWM: [usize; 6] = [6144, 21_504, 64, 48, 128_256, 131_072];

/// Factors of 48 pairs.
pub fn long(first: f64) -> Vec<f64> {
    (0..48).map(|pair| first + f64::from(pair) / 4.0).collect()
}

pub fn long_rope(theta: f64) -> Rope {
    let scaling = RopeScaling::Long {
        short: long(1.0),
        long: long(1.25),
        original_positions: 4096,
        attention_factor: (1.0 + 32_f64.ln() / 4096_f64.ln()).sqrt(),
    };
    rope(theta, scaling)
}

pub fn gemma(size: [usize; 6], g: usize, d: usize, window: usize) -> ModelConfig {
    let plain = plain(size, g, d);
    ModelConfig {
        tied: true,
        norm_eps: 1e-6,
        norms: Norms::Around,
        norms_plus_one: true,
        rope: Rope { windowed_theta: Some(10_000.0), ..rope(1e6, RopeScaling::None) },
        qk_norm: Some(NormSpan::Head),
        window: Some(Window { size: window, layers: windowed(size[2], 6, 5) }),
        activation: Activation::GeluTanh,
        multipliers: Multipliers { embedding: (size[0] as f32).sqrt(), ..Multipliers::default() },
        ..plain
    }
}

pub fn olmo(size: [usize; 6]) -> ModelConfig {
    ModelConfig {
        norm_eps: 1e-6,
        norms: Norms::After,
        qk_norm: Some(NormSpan::AllHeads),
        rope: rope(5e5, RopeScaling::None),
        ..plain(size, 32, 128)
    }
}

pub fn olmo3(size: [usize; 6]) -> ModelConfig {
    let window = Some(Window { size: 4096, layers: windowed(size[2], 4, 3) });
    let scaling = RopeScaling::Yarn {
        factor: 8.0,
        fast: 32.0,
        slow: 1.0,
        original_positions: 8192,
        attention_factor: 1.2079441541679836,
        truncate: true,
    };
    let rope = Rope { windowed_theta: Some(5e5), ..rope(5e5, scaling) };
    ModelConfig { window, rope, ..olmo(size) }
}

pub fn glm(size: [usize; 6], g: usize) -> ModelConfig {
    ModelConfig {
        rope: Rope { rotated: Some(64), interleaved: true, ..Rope::default() },
        biases: Biases { qkv: true, ..Biases::default() },
        ..plain(size, g, 128)
    }
}

pub fn ministral(size: [usize; 6], original_positions: usize) -> ModelConfig {
    let scaling = RopeScaling::Yarn {
        factor: 16.0,
        fast: 32.0,
        slow: 1.0,
        original_positions,
        attention_factor: 1.0,
        truncate: true,
    };
    let queries = Some(QueryScaling { beta: 0.1, positions: original_positions });
    ModelConfig { rope: Rope { queries, ..rope(1e6, scaling) }, ..plain(size, 8, 128) }
}

pub fn exaone(size: [usize; 6], d: usize) -> ModelConfig {
    ModelConfig {
        norms: Norms::After,
        qk_norm: Some(NormSpan::Head),
        rope: rope(1e6, llama3(16.0)),
        ..plain(size, 8, d)
    }
}

/// Name, keys, expected model.
pub type Case = (&'static str, Value, ModelConfig);

pub fn cases() -> Vec<Case> {
    [with_windows(), with_rope(), with_factors()].concat()
}

fn with_windows() -> Vec<Case> {
    let exaone_layers = windowed(64, 4, 3);
    let olmo_layers = windowed(32, 4, 3);
    let yarn = json!({"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0,
        "factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "yarn"});
    let mut nested = yarn.clone();
    nested["rope_theta"] = json!(500000.0);
    vec![
        (
            "Gemma 3 1B",
            keys(
                "gemma3_text",
                GEMMA_1B,
                json!({"architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                    "attn_logit_softcapping": null, "bos_token_id": 2, "cache_implementation": "hybrid",
                    "eos_token_id": [1, 106], "final_logit_softcapping": null, "head_dim": 256,
                    "hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02, "num_key_value_heads": 1,
                    "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
                    "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000,
                    "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
                    "transformers_version": "4.50.0.dev0", "use_cache": true}),
            ),
            gemma(GEMMA_1B, 1, 256, 512),
        ),
        (
            "Gemma 3 270M, as transformers 5 writes it",
            keys(
                "gemma3_text",
                GEMMA_270M,
                json!({"architectures": ["Gemma3ForCausalLM"], "_sliding_window_pattern": 6, "attention_bias": false,
                    "attention_dropout": 0.0, "attn_logit_softcapping": null, "dtype": "bfloat16",
                    "eos_token_id": [1, 106], "final_logit_softcapping": null, "head_dim": 256,
                    "hidden_activation": "gelu_pytorch_tanh", "layer_types": types(&windowed(18, 6, 5)),
                    "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
                    "rope_parameters": {"full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
                    "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}, "sliding_window": 512,
                    "tie_word_embeddings": true, "use_bidirectional_attention": false, "use_cache": true}),
            ),
            gemma(GEMMA_270M, 1, 256, 512),
        ),
        (
            "the text part of Gemma 3 27B, whose other keys are absent",
            keys(
                "gemma3_text",
                GEMMA_27B,
                json!({"architectures": ["Gemma3ForCausalLM"], "head_dim": 128, "num_key_value_heads": 16,
                    "query_pre_attn_scalar": 168, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                    "sliding_window": 1024}),
            ),
            {
                let gemma = gemma(GEMMA_27B, 16, 128, 1024);
                ModelConfig {
                    rope: Rope { scaling: RopeScaling::Linear { factor: 8.0 }, ..gemma.rope },
                    multipliers: Multipliers { scores: Some(0.077_151_68), ..gemma.multipliers },
                    ..gemma
                }
            },
        ),
        (
            "OLMo 2 7B",
            keys(
                "olmo2",
                OLMO2,
                json!({"architectures": ["Olmo2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                    "eos_token_id": 100257, "hidden_act": "silu", "num_key_value_heads": 32, "pad_token_id": 100277,
                    "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 500000,
                    "tie_word_embeddings": false, "use_cache": true}),
            ),
            olmo(OLMO2),
        ),
        (
            "OLMo 3 7B",
            keys(
                "olmo3",
                OLMO3,
                json!({"architectures": ["Olmo3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                    "eos_token_id": 100257, "hidden_act": "silu", "layer_types": types(&olmo_layers),
                    "num_key_value_heads": 32, "rms_norm_eps": 1e-06, "rope_scaling": yarn,
                    "rope_theta": 500000, "sliding_window": 4096, "tie_word_embeddings": false}),
            ),
            olmo3(OLMO3),
        ),
        (
            "OLMo 3 7B, as transformers 5 writes it",
            keys(
                "olmo3",
                OLMO3,
                json!({"architectures": ["Olmo3ForCausalLM"], "num_key_value_heads": 32, "rms_norm_eps": 1e-06,
                    "rope_parameters": {"full_attention": nested,
                    "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0}}}),
            ),
            olmo3(OLMO3),
        ),
        (
            "OLMo 3 before its context was extended",
            keys(
                "olmo3",
                OLMO3,
                json!({"architectures": ["Olmo3ForCausalLM"], "rms_norm_eps": 1e-06, "rope_scaling": null}),
            ),
            ModelConfig { rope: rope(5e5, RopeScaling::None), ..olmo3(OLMO3) },
        ),
        (
            "EXAONE 4.0 32B",
            keys(
                "exaone4",
                EXAONE_32B,
                json!({"architectures": ["Exaone4ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
                    "eos_token_id": 361, "head_dim": 128, "hidden_act": "silu",
                    "layer_types": types(&exaone_layers), "num_key_value_heads": 8, "pad_token_id": 0,
                    "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 16.0, "high_freq_factor": 4.0,
                    "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
                    "rope_theta": 1000000, "sliding_window": 4096, "sliding_window_pattern": "LLLG",
                    "tie_word_embeddings": false, "use_cache": true}),
            ),
            {
                let exaone = exaone(EXAONE_32B, 128);
                let without = Some(exaone_layers.iter().map(|holds| !holds).collect());
                ModelConfig {
                    rope: Rope { without, ..exaone.rope },
                    window: Some(Window { size: 4096, layers: exaone_layers }),
                    ..exaone
                }
            },
        ),
        (
            "EXAONE 4.0 1.2B, all of whose layers attend to the whole sequence, with positions",
            keys(
                "exaone4",
                EXAONE_1B,
                json!({"architectures": ["Exaone4ForCausalLM"], "head_dim": 64, "layer_types": types(&[false; 30]),
                    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 16.0,
                    "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                    "rope_type": "llama3"}, "rope_theta": 1000000, "sliding_window": null,
                    "sliding_window_pattern": null, "tie_word_embeddings": true}),
            ),
            ModelConfig { tied: true, ..exaone(EXAONE_1B, 64) },
        ),
        (
            "an EXAONE 4 without windows and without positions",
            keys(
                "exaone4",
                EXAONE_1B,
                json!({"architectures": ["Exaone4ForCausalLM"], "layer_types": types(&[false; 30]),
                    "num_key_value_heads": 8, "rope_theta": 1e6, "rope_scaling": {"factor": 16.0,
                    "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                    "rope_type": "llama3"}}),
            ),
            {
                let exaone = exaone(EXAONE_1B, 64);
                ModelConfig { rope: Rope { without: Some(vec![true; 30]), ..exaone.rope }, ..exaone }
            },
        ),
        (
            "CWM 32B, whose RoPE is the default",
            keys(
                "cwm",
                CWM,
                json!({"architectures": ["CwmForCausalLM"], "mlp_bias": false, "sliding_window": 8192}),
            ),
            ModelConfig {
                rope: rope(1e6, llama3(16.0)),
                window: Some(Window { size: 8192, layers: windowed(64, 4, 0) }),
                ..plain(CWM, 8, 128)
            },
        ),
        (
            "a CWM without scaling",
            keys(
                "cwm",
                CWM,
                json!({"architectures": ["CwmForCausalLM"], "layer_types": types(&[false; 64]),
                    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
            ),
            ModelConfig { rope: rope(5e5, RopeScaling::None), ..plain(CWM, 8, 128) },
        ),
    ]
}

fn with_rope() -> Vec<Case> {
    let window = |l| Some(Window { size: 262_144, layers: vec![true; l] });
    let nope = windowed(36, 4, 3).iter().map(|rotates| !rotates).collect::<Vec<_>>();
    let smollm3 = ModelConfig {
        tied: true,
        norm_eps: 1e-6,
        rope: Rope { without: Some(nope.clone()), ..rope(5e6, RopeScaling::None) },
        ..plain(SMOLLM3, 4, 128)
    };
    let helium = ModelConfig {
        norm_eps: 1e-8,
        rope: Rope { interleaved: true, ..rope(1e5, RopeScaling::None) },
        ..plain(HELIUM, 20, 128)
    };
    vec![
        (
            "Phi-3-mini-4k",
            keys(
                "phi3",
                PHI3,
                json!({"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "embd_pdrop": 0.0,
                    "hidden_act": "silu", "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
                    "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
                    "sliding_window": 2047, "tie_word_embeddings": false}),
            ),
            ModelConfig {
                window: Some(Window { size: 2047, layers: vec![true; 32] }),
                ..plain(PHI3, 32, 96)
            },
        ),
        (
            "Phi-3.5-mini",
            keys(
                "phi3",
                [3072, 8192, 32, 32, 32_064, 131_072],
                json!({"architectures": ["Phi3ForCausalLM"], "num_key_value_heads": 32,
                    "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
                    "rope_scaling": {"long_factor": long(1.25), "short_factor": long(1.0), "type": "longrope"},
                    "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": false}),
            ),
            ModelConfig {
                rope: long_rope(10_000.0),
                window: window(32),
                ..plain([3072, 8192, 32, 32, 32_064, 131_072], 32, 96)
            },
        ),
        (
            "Phi-4-mini",
            keys(
                "phi3",
                PHI4_MINI,
                json!({"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "embd_pdrop": 0.0,
                    "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false, "mlp_bias": false,
                    "num_key_value_heads": 8, "original_max_position_embeddings": 4096, "pad_token_id": 199999,
                    "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
                    "rope_scaling": {"long_factor": long(1.25), "short_factor": long(1.0), "type": "longrope"},
                    "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": true}),
            ),
            ModelConfig {
                tied: true,
                rope: Rope { rotated: Some(96), ..long_rope(10_000.0) },
                window: window(32),
                ..plain(PHI4_MINI, 8, 128)
            },
        ),
        (
            "Phi-4, with RoPE as transformers 5 writes it",
            keys(
                "phi3",
                PHI4,
                json!({"architectures": ["Phi3ForCausalLM"], "num_key_value_heads": 10,
                    "original_max_position_embeddings": 16384, "rms_norm_eps": 1e-05, "rope_parameters":
                    {"partial_rotary_factor": 1.0, "rope_theta": 250000.0, "rope_type": "default"},
                    "sliding_window": null, "tie_word_embeddings": false}),
            ),
            ModelConfig { rope: rope(250_000.0, RopeScaling::None), ..plain(PHI4, 10, 128) },
        ),
        (
            "SmolLM3 3B",
            keys(
                "smollm3",
                SMOLLM3,
                json!({"architectures": ["SmolLM3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                    "eos_token_id": 128012, "hidden_act": "silu", "layer_types": types(&[false; 36]),
                    "max_window_layers": 28, "mlp_bias": false, "no_rope_layer_interval": 4,
                    "no_rope_layers": nope.iter().map(|without| u8::from(!without)).collect::<Vec<_>>(),
                    "num_key_value_heads": 4, "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": null,
                    "rope_theta": 5000000.0, "sliding_window": null, "use_sliding_window": false}),
            ),
            smollm3.clone(),
        ),
        (
            "a SmolLM3 with windows in its layers without positions",
            keys(
                "smollm3",
                SMOLLM3,
                json!({"architectures": ["SmolLM3ForCausalLM"], "rope_theta": 5e6, "sliding_window": 512,
                    "use_sliding_window": true}),
            ),
            ModelConfig { window: Some(Window { size: 512, layers: nope }), ..smollm3 },
        ),
        (
            "the text part of Ministral 3 8B",
            keys(
                "ministral3",
                MINISTRAL,
                json!({"architectures": ["Ministral3ForCausalLM"], "head_dim": 128, "hidden_act": "silu",
                    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_parameters": {"beta_fast": 32.0,
                    "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
                    "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384, "rope_theta": 1000000.0,
                    "rope_type": "yarn", "type": "yarn"}, "sliding_window": null, "tie_word_embeddings": false}),
            ),
            ministral(MINISTRAL, 16_384),
        ),
        (
            "a Ministral 3 whose RoPE is the default",
            keys("ministral3", MINISTRAL, json!({"architectures": ["Ministral3ForCausalLM"]})),
            ministral(MINISTRAL, 16_384),
        ),
        (
            "a Ministral 3 without YaRN",
            keys(
                "ministral3",
                MINISTRAL,
                json!({"architectures": ["Ministral3ForCausalLM"], "rope_parameters": {"rope_type": "default",
                    "rope_theta": 1e6, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 512}}),
            ),
            {
                let ministral = ministral(MINISTRAL, 512);
                ModelConfig { rope: Rope { scaling: RopeScaling::None, ..ministral.rope }, ..ministral }
            },
        ),
        (
            "GLM-4 9B chat",
            keys(
                "glm",
                GLM,
                json!({"architectures": ["GlmForCausalLM"], "attention_bias": true, "attention_dropout": 0.0,
                    "eos_token_id": [151329, 151336, 151338], "head_dim": 128, "hidden_act": "silu",
                    "num_key_value_heads": 2, "partial_rotary_factor": 0.5, "rms_norm_eps": 1.5625e-07,
                    "rope_theta": 10000.0, "tie_word_embeddings": false}),
            ),
            ModelConfig { norm_eps: 1.5625e-7, ..glm(GLM, 2) },
        ),
        (
            "GLM-4 9B 0414, as transformers 5 writes it",
            keys(
                "glm4",
                GLM,
                json!({"architectures": ["Glm4ForCausalLM"], "attention_bias": true, "num_key_value_heads": 2,
                    "rms_norm_eps": 1e-05, "rope_parameters": {"partial_rotary_factor": 0.5,
                    "rope_theta": 10000.0, "rope_type": "default"}}),
            ),
            ModelConfig { norms: Norms::Around, ..glm(GLM, 2) },
        ),
        (
            "GLM-4 32B 0414, which has no biases",
            keys(
                "glm4",
                GLM4_32B,
                json!({"architectures": ["Glm4ForCausalLM"], "attention_bias": false, "head_dim": 128,
                    "num_key_value_heads": 2, "rms_norm_eps": 1e-05}),
            ),
            ModelConfig { norms: Norms::Around, biases: Biases::default(), ..glm(GLM4_32B, 2) },
        ),
        (
            "Helium 1 preview 2B",
            keys(
                "helium",
                HELIUM,
                json!({"architectures": ["HeliumForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                    "head_dim": 128, "hidden_act": "silu", "mlp_bias": false, "num_key_value_heads": 20,
                    "rms_norm_eps": 1e-08, "rope_theta": 100000.0, "tie_word_embeddings": false}),
            ),
            helium.clone(),
        ),
        (
            "a Helium by default",
            keys("helium", HELIUM, json!({"architectures": ["HeliumForCausalLM"]})),
            helium,
        ),
    ]
}

fn with_factors() -> Vec<Case> {
    vec![
        (
            "Granite 3.3 8B",
            keys(
                "granite",
                GRANITE,
                json!({"architectures": ["GraniteForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                    "attention_multiplier": 0.0078125, "embedding_multiplier": 12.0, "hidden_act": "silu",
                    "logits_scaling": 16.0, "mlp_bias": false, "num_key_value_heads": 8,
                    "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": null,
                    "rope_theta": 10000000.0, "tie_word_embeddings": true}),
            ),
            ModelConfig {
                tied: true,
                rope: rope(1e7, RopeScaling::None),
                multipliers: Multipliers {
                    embedding: 12.0,
                    residual: 0.22,
                    scores: Some(0.0078125),
                    logits: 0.0625,
                },
                ..plain(GRANITE, 8, 128)
            },
        ),
        (
            "a Granite with other factors and defaults",
            keys("granite", GRANITE, json!({"architectures": ["GraniteForCausalLM"], "logits_scaling": 10})),
            ModelConfig {
                norm_eps: 1e-6,
                multipliers: Multipliers { scores: Some(1.0), logits: 0.1, ..Multipliers::default() },
                ..plain(GRANITE, 32, 128)
            },
        ),
        (
            "Seed-OSS 36B",
            keys(
                "seed_oss",
                SEED,
                json!({"architectures": ["SeedOssForCausalLM"], "attention_bias": true, "attention_dropout": 0.1,
                    "attention_out_bias": false, "head_dim": 128, "hidden_act": "silu", "mlp_bias": false,
                    "num_key_value_heads": 8, "residual_dropout": 0.1, "rms_norm_eps": 1e-06,
                    "rope_scaling": {"rope_type": "default"}, "rope_theta": 10000000.0,
                    "tie_word_embeddings": false}),
            ),
            ModelConfig {
                norm_eps: 1e-6,
                rope: rope(1e7, RopeScaling::None),
                biases: Biases { qkv: true, ..Biases::default() },
                ..plain(SEED, 8, 128)
            },
        ),
        (
            "a Seed-OSS with the other biases",
            keys(
                "seed_oss",
                SEED,
                json!({"architectures": ["SeedOssForCausalLM"], "attention_bias": false,
                    "attention_out_bias": true, "mlp_bias": true}),
            ),
            ModelConfig {
                norm_eps: 1e-6,
                biases: Biases { qkv: false, o: true, mlp: true },
                ..plain(SEED, 8, 128)
            },
        ),
    ]
}
