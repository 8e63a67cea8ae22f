//! The rows of [`FAMILIES`].

use crate::hf::family::{
    Absent, AttentionBias, Factors, Family, Pattern, Rotary, Windowed, Windows, WithoutRope,
};
use crate::hf::tensors::TensorNames;
use crate::model::Norms;
use crate::ops::{Activation, NormSpan};

const ROTARY: Rotary = Rotary {
    theta: 10_000.0,
    parameters: None,
    interleaved: false,
    partial: None,
    windowed: None,
    without: WithoutRope::Never,
    query_scaling: false,
    only_long: None,
};

const ABSENT: Absent =
    Absent { kv_heads: None, head_dim: None, positions_max: 2048, norm_eps: 1e-6, tied: false };

const LLAMA: Family = Family {
    name: "Llama 2, 3",
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    norms: Norms::Before,
    norms_plus_one: false,
    qk_norm: None,
    activation: ("hidden_act", Activation::Silu),
    heads_fill_width: false,
    attention_bias: AttentionBias::Key,
    mlp_bias: true,
    windows: Windows::Never,
    rotary: ROTARY,
    factors: Factors::Plain,
    dropouts: &[],
    null_bos: true,
    absent: ABSENT,
    tensors: &TensorNames::LLAMA,
};

/// All families, the simplest first, and those that transformers 4 does not have last.
pub static FAMILIES: [Family; 17] = [
    LLAMA,
    Family {
        name: "Mistral",
        model_type: "mistral",
        architecture: "MistralForCausalLM",
        attention_bias: AttentionBias::Never,
        mlp_bias: false,
        windows: Windows::Every { absent: Some(4096) },
        absent: Absent { kv_heads: Some(8), positions_max: 131_072, ..ABSENT },
        ..LLAMA
    },
    Family {
        name: "Qwen2, Qwen2.5",
        model_type: "qwen2",
        architecture: "Qwen2ForCausalLM",
        attention_bias: AttentionBias::Qkv,
        mlp_bias: false,
        windows: Windows::Switched { absent: Some(4096), pattern: Pattern::Last },
        absent: Absent { kv_heads: Some(32), positions_max: 32_768, ..ABSENT },
        ..LLAMA
    },
    Family {
        name: "Qwen3",
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        qk_norm: Some(NormSpan::Head),
        mlp_bias: false,
        windows: Windows::Switched { absent: Some(4096), pattern: Pattern::Last },
        absent: Absent { kv_heads: Some(32), head_dim: Some(128), positions_max: 32_768, ..ABSENT },
        ..LLAMA
    },
    Family {
        name: "SmolLM3",
        model_type: "smollm3",
        architecture: "SmolLM3ForCausalLM",
        windows: Windows::Switched { absent: None, pattern: Pattern::WithoutRope },
        rotary: Rotary { theta: 2e6, without: WithoutRope::Listed, ..ROTARY },
        absent: Absent { kv_heads: Some(4), positions_max: 32_768, tied: true, ..ABSENT },
        ..LLAMA
    },
    Family {
        name: "Granite 3",
        model_type: "granite",
        architecture: "GraniteForCausalLM",
        factors: Factors::Granite,
        ..LLAMA
    },
    Family {
        name: "Seed-OSS",
        model_type: "seed_oss",
        architecture: "SeedOssForCausalLM",
        attention_bias: AttentionBias::Keys,
        dropouts: &["attention_dropout", "residual_dropout"],
        absent: Absent { kv_heads: Some(8), head_dim: Some(128), positions_max: 524_288, ..ABSENT },
        ..LLAMA
    },
    Family {
        name: "Phi-3, Phi-4",
        model_type: "phi3",
        architecture: "Phi3ForCausalLM",
        attention_bias: AttentionBias::Never,
        mlp_bias: false,
        windows: Windows::Every { absent: None },
        rotary: Rotary { partial: Some(1.0), only_long: Some(4096), ..ROTARY },
        absent: Absent { positions_max: 4096, norm_eps: 1e-5, ..ABSENT },
        tensors: &TensorNames::PHI3,
        ..LLAMA
    },
    OLMO2,
    Family {
        name: "OLMo 3",
        model_type: "olmo3",
        architecture: "Olmo3ForCausalLM",
        windows: Windows::Periodic { absent: 4096, period: 4, full: 3, key: false },
        rotary: Rotary { theta: 5e5, windowed: Some(Windowed { key: None, theta: 5e5 }), ..ROTARY },
        ..OLMO2
    },
    Family {
        name: "EXAONE 4",
        model_type: "exaone4",
        architecture: "Exaone4ForCausalLM",
        norms: Norms::After,
        qk_norm: Some(NormSpan::Head),
        attention_bias: AttentionBias::Never,
        mlp_bias: false,
        windows: Windows::Periodic { absent: 4096, period: 4, full: 3, key: true },
        rotary: Rotary { without: WithoutRope::Full, ..ROTARY },
        absent: Absent { kv_heads: Some(32), norm_eps: 1e-5, ..ABSENT },
        ..LLAMA
    },
    GLM,
    Family {
        name: "GLM-4-0414",
        model_type: "glm4",
        architecture: "Glm4ForCausalLM",
        norms: Norms::Around,
        tensors: &TensorNames::GLM4,
        ..GLM
    },
    Family {
        name: "Helium",
        model_type: "helium",
        architecture: "HeliumForCausalLM",
        heads_fill_width: true,
        attention_bias: AttentionBias::KeyOfQkv { absent: false },
        rotary: Rotary { theta: 1e5, interleaved: true, ..ROTARY },
        absent: Absent {
            kv_heads: Some(20),
            head_dim: Some(128),
            positions_max: 4096,
            norm_eps: 1e-8,
            tied: false,
        },
        ..LLAMA
    },
    Family {
        name: "Gemma 3",
        model_type: "gemma3_text",
        architecture: "Gemma3ForCausalLM",
        norms: Norms::Around,
        norms_plus_one: true,
        qk_norm: Some(NormSpan::Head),
        activation: ("hidden_activation", Activation::GeluTanh),
        mlp_bias: false,
        windows: Windows::Periodic { absent: 4096, period: 6, full: 5, key: true },
        rotary: Rotary {
            theta: 1e6,
            windowed: Some(Windowed { key: Some("rope_local_base_freq"), theta: 10_000.0 }),
            ..ROTARY
        },
        factors: Factors::Gemma,
        absent: Absent {
            kv_heads: Some(4),
            head_dim: Some(256),
            positions_max: 131_072,
            norm_eps: 1e-6,
            tied: true,
        },
        ..LLAMA
    },
    Family {
        name: "CWM",
        model_type: "cwm",
        architecture: "CwmForCausalLM",
        attention_bias: AttentionBias::Never,
        windows: Windows::Periodic { absent: 8192, period: 4, full: 0, key: false },
        rotary: Rotary {
            theta: 1e6,
            parameters: Some(
                r#"{"rope_type": "llama3", "rope_theta": 1e6, "factor": 16.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}"#,
            ),
            ..ROTARY
        },
        null_bos: false,
        absent: Absent {
            kv_heads: Some(8),
            head_dim: Some(128),
            positions_max: 131_072,
            norm_eps: 1e-5,
            tied: false,
        },
        ..LLAMA
    },
    Family {
        name: "Ministral 3",
        model_type: "ministral3",
        architecture: "Ministral3ForCausalLM",
        attention_bias: AttentionBias::Never,
        mlp_bias: false,
        windows: Windows::Every { absent: None },
        rotary: Rotary {
            parameters: Some(
                r#"{"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
                    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384,
                    "llama_4_scaling_beta": 0.1}"#,
            ),
            query_scaling: true,
            ..ROTARY
        },
        absent: Absent {
            kv_heads: Some(8),
            head_dim: Some(128),
            positions_max: 262_144,
            norm_eps: 1e-5,
            tied: false,
        },
        ..LLAMA
    },
];

const OLMO2: Family = Family {
    name: "OLMo 2",
    model_type: "olmo2",
    architecture: "Olmo2ForCausalLM",
    norms: Norms::After,
    qk_norm: Some(NormSpan::AllHeads),
    mlp_bias: false,
    absent: Absent { norm_eps: 1e-5, ..ABSENT },
    ..LLAMA
};

const GLM: Family = Family {
    name: "GLM-4",
    model_type: "glm",
    architecture: "GlmForCausalLM",
    attention_bias: AttentionBias::KeyOfQkv { absent: true },
    mlp_bias: false,
    rotary: Rotary { interleaved: true, partial: Some(0.5), ..ROTARY },
    absent: Absent {
        kv_heads: Some(2),
        head_dim: Some(128),
        positions_max: 131_072,
        norm_eps: 1.5625e-7,
        tied: false,
    },
    tensors: &TensorNames::GLM,
    ..LLAMA
};
