//! The families beyond Llama, Mistral and Qwen.

mod published;

use published::*;

use super::*;
use crate::hf::FAMILIES;
use crate::model::{Multipliers, Norms};
use crate::ops::QueryScaling;

#[test]
fn published_configs_are_read_and_written_back() {
    let mut families: Vec<_> = FAMILIES.iter().skip(4).map(|family| family.model_type).collect();
    for (name, keys, expected) in cases() {
        let config = parsed(&keys).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config.model, expected, "{name}");
        assert_eq!(json!([config.family.architecture]), keys["architectures"]);
        families.retain(|family| keys["model_type"] != *family);
        let written = config.json(DType::Bf16);
        let again = parsed(&written).unwrap_or_else(|error| panic!("{name}: {error}: {written}"));
        assert_eq!((again.model, again.family), (config.model.clone(), config.family), "{name}: {written}");
        assert_eq!(again.notes, [""; 0], "{name}");
        assert!(config.family.can_describe(&config.model), "{name}");
        let simplest =
            FolderConfig::of(config.model.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(parsed(&simplest.json(DType::Bf16)).unwrap().model, config.model, "{name}");
    }
    assert_eq!(families, [""; 0], "families without a published config here");
}

#[test]
fn notes_tell_what_is_ignored() {
    let notes = |name: &str| {
        let (.., keys, _) = cases().into_iter().find(|(case, ..)| *case == name).unwrap();
        parsed(&keys).unwrap().notes
    };
    assert_eq!(
        notes("Seed-OSS 36B"),
        ["attention_dropout", "residual_dropout"]
            .map(|key| format!("{key} is 0.1, but dropout is not supported: training is without it"))
    );
    assert_eq!(notes("Gemma 3 1B"), [""; 0]);
}

#[test]
fn other_forms_of_rope_are_read() {
    let llama = |scaling: Value| {
        let keys = keys("llama", [64, 96, 2, 2, 100, 128], json!({"rope_scaling": scaling}));
        parsed(&keys).unwrap()
    };
    let yarn = |attention_factor, truncate| RopeScaling::Yarn {
        factor: 4.0,
        fast: 32.0,
        slow: 1.0,
        original_positions: 32,
        attention_factor,
        truncate,
    };
    let default = 0.1 * 4_f64.ln() + 1.0;
    let original = "original_max_position_embeddings";
    for (more, expected) in [
        (json!({}), yarn(default, true)),
        (json!({"finetuned": true, "truncate": false, "beta_fast": 0}), yarn(default, false)),
        (json!({"attention_factor": 1.5}), yarn(1.5, true)),
        (json!({"mscale": 1.0, "mscale_all_dim": 1.0}), yarn(1.0, true)),
        (json!({"mscale": 2.0, "mscale_all_dim": 0.0}), yarn(default, true)),
        (json!({"mscale": 2.0, "mscale_all_dim": 1.0}), yarn((0.2 * 4_f64.ln() + 1.0) / default, true)),
    ] {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0, original: 32});
        scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = llama(scaling);
        assert_eq!(config.model.rope.scaling, expected);
        let written = config.json(DType::F32);
        assert_eq!(parsed(&written).unwrap().model, config.model, "{written}");
    }
    let scaling = llama(json!({"rope_type": "yarn", "factor": 4.0}));
    assert!(scaling.notes[0].contains("is missing: max_position_embeddings, 128, is used"));

    let factors = |first| (0..16).map(|pair| first + f64::from(pair)).collect::<Vec<f64>>();
    for (more, factor) in [
        (json!({}), (1.0 + 4_f64.ln() / 32_f64.ln()).sqrt()),
        (json!({"factor": 2.0}), (1.0 + 2_f64.ln() / 32_f64.ln()).sqrt()),
        (json!({"attention_factor": 1.25}), 1.25),
    ] {
        let mut scaling = json!({"rope_type": "longrope", original: 32, "short_factor": factors(1.0),
            "long_factor": factors(2.0)});
        scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = llama(scaling);
        let expected = RopeScaling::Long {
            short: factors(1.0),
            long: factors(2.0),
            original_positions: 32,
            attention_factor: factor,
        };
        assert_eq!(config.model.rope.scaling, expected);
        let written = config.json(DType::F32);
        assert_eq!(parsed(&written).unwrap().model, config.model, "{written}");
    }
}

#[test]
fn shares_of_rotating_elements_are_those_of_transformers() {
    for (d, share, rotated) in
        [(128, 0.75, Some(96)), (128, 1.0, None), (100, 0.58, None), (100, 0.585, Some(58)), (6, 0.5, None)]
    {
        let more = json!({"head_dim": d, "partial_rotary_factor": share});
        let found = parsed(&keys("glm", [64, 96, 2, 4, 100, 128], more));
        match rotated {
            _ if share == 1.0 => assert_eq!(found.unwrap().model.rope.rotated, None),
            Some(rotated) => {
                let config = found.unwrap();
                assert_eq!(config.model.rope.rotated, Some(rotated));
                assert_eq!(parsed(&config.json(DType::F32)).unwrap().model, config.model);
            }
            // 57 and 3 are odd.
            None => assert!(found.unwrap_err().message().contains("elements of a head")),
        }
    }
}

#[test]
fn families_refuse_what_they_do_not_support() {
    let small = [64, 96, 3, 4, 100, 128];
    let nested = |full: Value, sliding: Value| json!({"rope_parameters": {"full_attention": full, "sliding_attention": sliding}});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
    let mut rounded = yarn.clone();
    rounded["truncate"] = json!(false);
    for (family, edit, words) in [
        ("gemma3_text", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping is 50.0; soft caps"),
        (
            "gemma3_text",
            json!({"final_logit_softcapping": 30.0}),
            "final_logit_softcapping is 30.0; soft caps",
        ),
        ("gemma3_text", json!({"use_bidirectional_attention": true}), "only causal attention"),
        ("gemma3_text", json!({"hidden_activation": "relu"}), "hidden_activation is \"relu\""),
        ("gemma3_text", json!({"hidden_act": "silu"}), "hidden_act is \"silu\""),
        (
            "gemma3_text",
            json!({"rope_parameters": {"rope_theta": 1e6}}),
            "full_attention and sliding_attention",
        ),
        ("gemma3_text", nested(json!({}), yarn.clone()), "has RoPE scaling"),
        ("gemma3_text", json!({"rope_parameters": {"full_attention": 3}}), "must be an object"),
        ("gemma3_text", json!({"query_pre_attn_scalar": 0}), "query_pre_attn_scalar is 0"),
        ("gemma3_text", json!({"sliding_window_pattern": 0}), "sliding_window_pattern is 0"),
        (
            "gemma3_text",
            json!({"sliding_window": null, "layer_types": types(&[true; 3])}),
            "there is no window",
        ),
        ("gemma3_text", json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}), "\"dynamic\""),
        ("olmo3", json!({"rope_theta": 10000.0}), "transformers 5 has 500000"),
        ("olmo3", nested(rounded, json!({})), "truncate is false"),
        ("olmo2", json!({"sliding_window": 32}), "does not support a sliding window"),
        ("olmo2", json!({"clip_qkv": 8.0}), "clip_qkv"),
        ("phi3", json!({"rope_scaling": yarn}), "supported are default, longrope"),
        ("phi3", json!({"resid_pdrop": 0.1}), "dropout"),
        ("phi3", json!({"partial_rotary_factor": 1.5}), "partial_rotary_factor is 1.5"),
        ("phi3", json!({"lm_head_bias": true}), "lm_head_bias is true"),
        ("smollm3", json!({"no_rope_layers": [1, 0]}), "no_rope_layers has 2 entries"),
        ("smollm3", json!({"no_rope_layers": [1, 0, 2]}), "a list of 0 and 1"),
        ("smollm3", json!({"no_rope_layer_interval": 0}), "no_rope_layer_interval is 0"),
        (
            "ministral3",
            json!({"rope_parameters": {"rope_type": "default"}}),
            "llama_4_scaling_beta is missing",
        ),
        ("ministral3", json!({"rope_theta": 5.0}), "they must agree"),
        (
            "glm",
            json!({"rope_parameters": {"partial_rotary_factor": 1}, "partial_rotary_factor": 0.5}),
            "must agree",
        ),
        (
            "gemma3_text",
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            "type is linear without rope_type",
        ),
        (
            "olmo3",
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "original_max_position_embeddings": 7}),
            "is missing here and 7 in the config",
        ),
        ("granite", json!({"logits_scaling": 0}), "logits_scaling is 0"),
        ("granite", json!({"residual_multiplier": 0.5, "mlp_bias": true}), "residual multiplier"),
        ("seed_oss", json!({"embd_pdrop": 0.1}), "dropout"),
        ("exaone4", json!({"sliding_window_pattern": "LLLG"}), "sliding_window_pattern is \"LLLG\""),
        ("exaone4", json!({"attention_bias": true}), "have no bias"),
        ("helium", json!({"head_dim": 16, "partial_rotary_factor": 0.5}), "partial RoPE"),
        ("helium", json!({"head_dim": 24}), "it must be hidden_size"),
        ("cwm", json!({"use_sliding_window": false}), "use_sliding_window is false"),
    ] {
        let error = parsed(&keys(family, small, edit.clone())).expect_err(&format!("{family}: {edit}"));
        assert!(error.message().contains(words), "{family}: {edit}: {error}");
    }
    for other in ["gemma2", "arcee", "apertus", "hunyuan_v1_dense", "gemma3", "mistral3"] {
        let error = parsed(&keys(other, small, json!({}))).unwrap_err();
        let families = FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ");
        assert!(error.message().ends_with(&format!("is not supported; supported are {families}")), "{error}");
    }
}

#[test]
fn no_family_is_found_for_features_that_none_combines() {
    let llama = || plain([64, 96, 2, 4, 100, 128], 2, 16);
    let window = || Some(Window { size: 8, layers: vec![true, false] });
    for (model, words) in [
        (ModelConfig { norms_plus_one: true, ..llama() }, "norms_plus_one = true"),
        (ModelConfig { norms: Norms::After, norms_plus_one: true, ..llama() }, "norms = After"),
        (ModelConfig { qk_norm: Some(NormSpan::AllHeads), ..llama() }, "QK norm over all heads"),
        (
            ModelConfig { rope: Rope { windowed_theta: Some(1.0), ..Rope::default() }, ..llama() },
            "windowed_theta",
        ),
        (
            ModelConfig {
                rope: Rope { without: Some(vec![true, false]), ..Rope::default() },
                norms: Norms::After,
                window: window(),
                qk_norm: Some(NormSpan::Head),
                ..llama()
            },
            "layers without RoPE",
        ),
        (
            ModelConfig {
                rope: Rope {
                    rotated: Some(8),
                    scaling: RopeScaling::Linear { factor: 2.0 },
                    ..Rope::default()
                },
                ..llama()
            },
            "partial RoPE",
        ),
        (
            ModelConfig {
                multipliers: Multipliers { residual: 0.5, ..Multipliers::default() },
                window: window(),
                ..llama()
            },
            "residual: 0.5",
        ),
        (
            ModelConfig {
                rope: Rope { queries: Some(QueryScaling { beta: 0.1, positions: 8 }), ..Rope::default() },
                window: window(),
                ..llama()
            },
            "scaled queries",
        ),
    ] {
        let error = FolderConfig::of(model).unwrap_err();
        assert!(error.status() == Status::Unsupported && error.message().contains(words), "{error}");
    }
}
