use super::*;
use crate::base::Status;
use crate::model::{Biases, RopeScaling, Window};
use crate::ops::NormSpan;

mod families;

/// As transformers 4.46 writes it.
const V4: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": [128001, 128009], "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 512, "initializer_range": 0.02, "intermediate_size": 1376,
    "max_position_embeddings": 4096, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 8,
    "num_hidden_layers": 3, "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": null, "rope_theta": 500000.0, "tie_word_embeddings": true,
    "torch_dtype": "bfloat16", "transformers_version": "4.46.0", "use_cache": true, "vocab_size": 1000}"#;

fn with(key: &str, value: Value) -> Result<FolderConfig> {
    let mut config: Value = serde_json::from_str(V4).unwrap();
    config[key] = value;
    FolderConfig::parse(config.to_string().as_bytes())
}

fn without(key: &str) -> Result<FolderConfig> {
    let mut config: Value = serde_json::from_str(V4).unwrap();
    config.as_object_mut().unwrap().remove(key);
    FolderConfig::parse(config.to_string().as_bytes())
}

#[test]
fn both_versions_of_transformers_are_read() {
    let v4 = FolderConfig::parse(V4.as_bytes()).unwrap();
    let model = &v4.model;
    assert_eq!(model.dims, Dims { c: 512, h: 8, g: 2, d: 64, f: 1376, v: 1000, l: 3 });
    assert_eq!((model.tied, model.norm_eps, model.rope.theta), (true, 1e-5, 500_000.0));
    assert_eq!(model.positions_max, 4096);
    assert_eq!(v4.carried["eos_token_id"], json!([128001, 128009]));

    let mut v5: Value = serde_json::from_str(V4).unwrap();
    let keys = v5.as_object_mut().unwrap();
    keys.remove("rope_theta");
    keys.remove("rope_scaling");
    keys.remove("torch_dtype");
    keys.insert("dtype".into(), json!("bfloat16"));
    keys.insert("rope_parameters".into(), json!({"rope_theta": 500000.0, "rope_type": "default"}));
    assert_eq!(FolderConfig::parse(v5.to_string().as_bytes()).unwrap(), v4);
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let model = |key| without(key).unwrap().model;
    assert_eq!(model("num_key_value_heads").dims.g, 8);
    assert_eq!(model("head_dim").dims.d, 64);
    assert_eq!(model("rms_norm_eps").norm_eps, 1e-6);
    assert_eq!(model("rope_theta").rope.theta, 10_000.0);
    assert!(!model("tie_word_embeddings").tied);
    assert_eq!(model("max_position_embeddings").positions_max, 2048);
    assert!(without("architectures").is_ok() && without("model_type").is_ok());
    assert_eq!(with("head_dim", json!(32)).unwrap().model.dims.d, 32);
}

#[test]
fn unsupported_values_are_refused_with_the_key() {
    for (key, value) in [
        ("architectures", json!(["MixtralForCausalLM"])),
        ("model_type", json!("gemma2")),
        ("model_type", json!("qwen2")),
        ("hidden_act", json!("gelu")),
        ("attention_dropout", json!(0.1)),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
        ("rope_scaling", json!({"rope_type": "dynamic", "factor": 0.5})),
        ("rope_scaling", json!({"rope_type": "dynamic", "factor": 8.0, "alpha": 1000.0})),
        ("rope_scaling", json!({"type": "yarn"})),
        ("rope_scaling", json!({"type": "yarn", "factor": 8.0, "alpha": 1.0})),
        ("rope_scaling", json!({"type": "ntk", "factor": 8.0})),
        ("rope_scaling", json!({"type": "linear", "rope_type": "default"})),
        ("rope_scaling", json!({"rope_type": "longrope", "short_factor": [1.0]})),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 8.0, "attention_factor": 1.2})),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 0.5})),
        ("rope_scaling", json!({"rope_type": "default", "alpha": 8.0})),
        ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 500000.0})),
        ("rope_parameters", json!({"full_attention": {"rope_type": "default", "rope_theta": 500000.0}})),
        ("rope_local_base_freq", json!(10000.0)),
        ("no_rope_layers", json!([1, 1, 0])),
        ("final_logit_softcapping", json!(30.0)),
        ("use_bidirectional_attention", json!(true)),
        ("attention_out_bias", json!(true)),
        ("query_pre_attn_scalar", json!(256)),
        ("hidden_activation", json!("gelu_pytorch_tanh")),
        ("sliding_window_pattern", json!(6)),
        ("rope_parameters", json!({"partial_rotary_factor": 0.5, "rope_theta": 500000.0})),
        ("rope_parameters", json!([1])),
        ("rope_parameters", json!({"rope_theta": 1.0})),
        ("partial_rotary_factor", json!(0.5)),
        ("sliding_window", json!(4096)),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!(["full_attention", "sliding_attention", "full_attention"])),
        ("layer_types", json!(["full_attention", "full_attention", "chunked_attention"])),
        ("quantization_config", json!({"quant_method": "gptq"})),
        ("quantization", json!({"group_size": 64, "bits": 4})),
        ("hidden_dropout_prob", json!(0.1)),
        ("rope_scaling_factor", json!(2.0)),
        ("experts_per_token", json!(4)),
        ("num_local_experts", json!(8)),
        ("attn_logit_softcapping", json!(50.0)),
        ("logit_scale", json!(0.5)),
        ("is_causal", json!(false)),
        ("is_causal", Value::Null),
        ("causal", json!(false)),
        ("scale_attn_weights", json!(false)),
        ("use_rope", json!(false)),
        ("use_rmsnorm", json!(false)),
        ("position_embedding_type", json!("alibi")),
        ("rope_ratio", json!(2.0)),
        ("rotary_percent", json!(0.25)),
        ("rotary_dim", json!(32)),
        ("num_key_value_groups", json!(2)),
        ("embedding_multiplier", json!(12.0)),
        ("num_nextn_predict_layers", json!(1)),
        ("label_smoothing", json!(0.1)),
    ] {
        let error = with(key, value.clone()).expect_err(&format!("{key}: {value}"));
        let subject = if key == "architectures" { "Mixtral" } else { key.split('.').next().unwrap() };
        let named = error.message().contains(subject) || error.message().contains("rope_theta");
        assert!(named, "{key}: {error}");
    }
    // Harmless, absent or switched off.
    for (key, value) in [
        ("rope_scaling", json!({"rope_type": "default"})),
        ("sliding_window", Value::Null),
        ("use_qk_norm", json!(false)),
        ("_name_or_path", json!("somewhere")),
        ("pad_token_id", json!(0)),
        ("hidden_act", json!("swish")),
        ("is_causal", json!(true)),
        ("position_embedding_type", json!("rope")),
        ("rope_ratio", json!(1.0)),
        ("rotary_percent", json!(1.0)),
        ("rotary_dim", json!(64)),
        ("num_key_value_groups", json!(4)),
        ("embedding_multiplier", json!(1)),
        ("logits_scaling", json!(1.0)),
        ("residual_multiplier", json!(1.0)),
        ("logit_scale", json!(1.0)),
        ("scale_emb", json!(1)),
        ("num_experts", json!(0)),
        ("num_nextn_predict_layers", json!(0)),
        ("num_mtp_layers", json!(0)),
        ("mtp", json!(false)),
        ("first_k_dense_replace", json!(0)),
        ("label_smoothing", json!(0.0)),
        ("z_loss", json!(0.0)),
        ("layerdrop", json!(0.0)),
    ] {
        with(key, value.clone()).unwrap_or_else(|error| panic!("{key}: {value}: {error}"));
    }
}

/// Keys of PretrainedConfig and GenerationConfig of transformers 4 and 5, and of public models,
/// that no model's arithmetic reads.
#[test]
fn keys_without_arithmetic_are_accepted_in_silence() {
    for (key, value) in [
        ("auto_map", json!({"AutoModelForCausalLM": "modeling_x.X"})),
        ("unk_token_id", json!(0)),
        ("image_token_id", json!(7)),
        ("eos_token_ids", json!([1, 2])),
        ("pad_token", json!("<pad>")),
        ("_attn_implementation_autoset", json!(true)),
        ("gradient_checkpointing", json!(true)),
        ("bad_words_ids", json!([[3]])),
        ("forced_eos_token_id", json!(2)),
        ("min_p", json!(0.1)),
        ("suppress_tokens", json!([1])),
        ("summary_use_proj", json!(true)),
        ("task_specific_params", json!({"x": 1})),
        ("pruned_heads", json!({})),
        ("model_max_length", json!(4096)),
        ("seq_length", json!(2048)),
        ("use_flash_attn", json!(true)),
        ("tokenizer_padding_side", json!("right")),
        ("unsloth_fixed", json!(true)),
        ("paddlenlp_version", json!("2.7")),
        ("fuse_attention_qkv", json!(true)),
        ("quantization_config", Value::Null),
        ("embd_pdrop", json!(0.0)),
        ("loss_type", json!("ForCausalLM")),
        ("trust_remote_code", json!(true)),
        ("add_bos_token", json!(true)),
        ("add_eos_token", json!(true)),
        ("add_prefix_space", json!(true)),
        ("ignore_index", json!(-100)),
        ("keys_to_ignore_at_inference", json!(["past_key_values"])),
        ("chat_template", json!("x")),
        ("max_context_length", json!(4096)),
        ("description", json!("x")),
        ("author", json!("x")),
        ("mergekit", json!({"a": 1})),
    ] {
        let config = with(key, value).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert!(config.notes.is_empty() && config.json(DType::Bf16).get(key).is_none(), "{key}");
    }
}

/// transformers chooses the class by `model_type` alone.
#[test]
fn architectures_that_end_with_the_family_are_accepted_with_a_note() {
    let plain = FolderConfig::parse(V4.as_bytes()).unwrap();
    assert_eq!(plain.notes, [""; 0]);
    for name in ["FSDPLlamaForCausalLM", "LLaMAForCausalLM", "UnslothLlamaForCausalLM"] {
        let found = with("architectures", json!([name])).unwrap();
        let note =
            format!("the architecture \"{name}\" is read as LlamaForCausalLM, since model_type is \"llama\"");
        assert_eq!((found.model, found.notes), (plain.model.clone(), vec![note]));
    }
    // The model is tied: its embedding is the head.
    assert_eq!(with("architectures", json!(["LlamaModel"])).unwrap().model, plain.model);
    let untied = V4.replace("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    let error = FolderConfig::parse(untied.replace("LlamaForCausalLM", "LlamaModel").as_bytes()).unwrap_err();
    assert!(error.message().contains("LlamaModel is the model without its LM head"), "{error}");
    for (names, words) in [
        (json!(["LlamaForSequenceClassification"]), "is a classifier"),
        (json!(["LlamaForTokenClassification"]), "is a classifier"),
        (json!(["LlamaForQuestionAnswering"]), "marks answers"),
        (json!(["LlavaForConditionalGeneration"]), "its language model"),
        (json!(["MistralModel"]), "set architectures to [\"LlamaForCausalLM\"]"),
        (json!(["Phi3ForCausalLM"]), "set architectures to [\"LlamaForCausalLM\"]"),
        (json!(["GPT2LMHeadModel"]), "set architectures to"),
        (json!(["LlamaForCausalLM", "FSDPLlamaForCausalLM"]), "one architecture"),
        (json!([3]), "must agree"),
    ] {
        let error = with("architectures", names.clone()).expect_err(&names.to_string());
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains(words), "{error}");
    }
    assert!(with("model_type", Value::Null).is_ok());
}

#[test]
fn text_as_editors_and_python_write_it_is_read() {
    let plain = FolderConfig::parse(V4.as_bytes()).unwrap();
    assert_eq!(FolderConfig::parse(&[b"\xef\xbb\xbf", V4.as_bytes()].concat()).unwrap(), plain);
    let utf16: Vec<u8> = V4.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let error = FolderConfig::parse(&[b"\xff\xfe", &utf16[..]].concat()).unwrap_err();
    assert!(error.message().contains("UTF-16"), "{error}");

    let extended =
        |members: &str| FolderConfig::parse(V4.replacen('{', &format!("{{{members},"), 1).as_bytes());
    for word in ["NaN", "Infinity", "-Infinity"] {
        let harmless =
            format!(r#""temperature": {word}, "_name_or_path": "a \"{word}\" b", "top_p": [{word}]"#);
        assert_eq!(extended(&harmless).unwrap(), plain);
        let error = FolderConfig::parse(V4.replace("1e-05", word).as_bytes()).unwrap_err();
        assert!(error.message().contains(&format!("rms_norm_eps is \"{word}\"")), "{error}");
    }
    let error = extended("\"top_p\": NaN, \"a\": nan").unwrap_err();
    assert!(error.message().contains("not a JSON object"), "{error}");
}

/// As `RotaryEmbeddingConfigMixin` of transformers 5.24 reads them.
#[test]
fn rope_is_read_where_transformers_reads_it() {
    let plain = FolderConfig::parse(V4.as_bytes()).unwrap().model;
    // Keys of other types have no effect with type `default`; a factor of 1 is not worth a note.
    let noted = |value| {
        let config = with("rope_scaling", value).unwrap();
        assert_eq!(config.model, plain);
        config.notes
    };
    assert_eq!(noted(json!({"type": "default", "rope_type": "default", "factor": 1.0})), [""; 0]);
    assert_eq!(
        noted(json!({"type": "default", "factor": 8.0, "mrope_section": [16, 24, 24]})),
        [
            "rope_scaling.factor has no effect with rope_type default",
            "rope_scaling.mrope_section has no effect with rope_type default"
        ]
    );
    // `dynamic` scales beyond max_position_embeddings, and an export keeps it.
    let dynamic = with("rope_scaling", json!({"type": "dynamic", "factor": 2.0})).unwrap();
    assert_eq!((&dynamic.model, &dynamic.notes[..]), (&plain, &[][..]));
    let written = dynamic.json(DType::Bf16);
    assert_eq!(written["rope_scaling"], json!({"rope_type": "dynamic", "factor": 2.0}));
    assert_eq!(FolderConfig::parse(written.to_string().as_bytes()).unwrap(), dynamic);

    let llama3 = |inner: Option<u64>, outer: Option<u64>| {
        let mut config: Value = serde_json::from_str(V4).unwrap();
        config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": inner});
        config["original_max_position_embeddings"] = json!(outer);
        FolderConfig::parse(config.to_string().as_bytes()).map(|config| config.model.rope.scaling)
    };
    let expected = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 64 };
    for (inner, outer) in [(Some(64), None), (None, Some(64)), (Some(64), Some(64))] {
        assert_eq!(llama3(inner, outer).unwrap(), expected);
    }
    assert!(llama3(Some(64), Some(128)).unwrap_err().message().contains("they must agree"));
    // `RotaryEmbeddingConfigMixin.standardize_rope_params` sets the default.
    assert_eq!(
        llama3(None, None).unwrap(),
        RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 4096 }
    );
}

/// transformers 5.24 has equal losses with and without these keys.
#[test]
fn keys_of_other_rope_types_are_ignored_where_transformers_ignores_them() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    for (rope, key, value, noted) in [
        (llama3, "attention_factor", json!(1.0), false),
        (json!({"rope_type": "linear", "factor": 4.0}), "original_max_position_embeddings", json!(64), true),
        (
            json!({"rope_type": "dynamic", "factor": 2.0}),
            "original_max_position_embeddings",
            json!(512),
            true,
        ),
    ] {
        let plain = with("rope_scaling", rope.clone()).unwrap();
        let mut more = rope.clone();
        more[key] = value;
        let found = with("rope_scaling", more).unwrap();
        let kind = rope["rope_type"].as_str().unwrap();
        let note = format!("rope_scaling.{key} has no effect with rope_type {kind}");
        assert_eq!(found.notes, if noted { vec![note] } else { vec![] });
        assert_eq!(FolderConfig { notes: vec![], ..found }, plain);
    }
}

#[test]
fn invalid_sizes_are_refused() {
    for (key, value) in [
        ("vocab_size", json!(-1)),
        ("vocab_size", json!("many")),
        ("vocab_size", json!(1e30)),
        ("num_hidden_layers", json!(2.5)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(65_537)),
        ("num_key_value_heads", json!(3)),
        ("hidden_size", json!(u64::MAX)),
        ("rms_norm_eps", json!(-1.0)),
        ("rope_theta", json!(0)),
    ] {
        let error = with(key, value.clone()).expect_err(&format!("{key}: {value}"));
        assert!(error.message().contains(key), "{error}");
    }
    assert!(without("vocab_size").unwrap_err().message().contains("vocab_size is missing"));
    assert_eq!(FolderConfig::parse(b"{\"a\": ").unwrap_err().status(), Status::BadFormat);
    assert_eq!(FolderConfig::parse(b"[]").unwrap_err().status(), Status::BadFormat);
    assert_eq!(FolderConfig::parse(b"{}").unwrap_err().status(), Status::BadFormat);
}

#[test]
fn a_written_config_is_read_back() {
    let config = FolderConfig::parse(V4.as_bytes()).unwrap();
    let json = config.json(DType::Bf16);
    assert_eq!(json["torch_dtype"], "bfloat16");
    assert_eq!(json["rms_norm_eps"].as_f64(), Some(1e-5));
    assert_eq!(FolderConfig::parse(json.to_string().as_bytes()).unwrap(), config);
    assert_eq!(config.generation_json()["eos_token_id"], json!([128001, 128009]));
}

/// Published configs of each family, and the models they describe.
#[test]
fn published_configs_are_read_and_written_back() {
    let llama = |c, h, g, d, f, v, l| ModelConfig::llama(Dims { c, h, g, d, f, v, l });
    let qwen2 = Biases { qkv: true, o: false, mlp: false };
    let llama3 = |factor| RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original_positions: 8192 };
    let theta = |theta| Rope { theta, ..Rope::default() };
    let cases = [
        (
            "Llama 3.2 1B, transformers 4.45",
            json!({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu",
                "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
                "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
                "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
                "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
                "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
                "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
                "transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256}),
            ModelConfig {
                tied: true,
                rope: Rope { theta: 500_000.0, scaling: llama3(32.0), ..Rope::default() },
                positions_max: 131_072,
                ..llama(2048, 32, 8, 64, 8192, 128_256, 16)
            },
        ),
        (
            "a Llama with linear scaling in the old spelling, as DeepSeek Coder's",
            json!({"architectures": ["LlamaForCausalLM"], "bos_token_id": 32013, "eos_token_id": 32014,
                "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5504,
                "max_position_embeddings": 16384, "model_type": "llama", "num_attention_heads": 16,
                "num_hidden_layers": 24, "num_key_value_heads": 16, "pretraining_tp": 1, "rms_norm_eps": 1e-06,
                "rope_scaling": {"factor": 4.0, "type": "linear"}, "rope_theta": 100000,
                "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.33.1",
                "use_cache": true, "vocab_size": 32256}),
            ModelConfig {
                norm_eps: 1e-6,
                rope: Rope {
                    theta: 100_000.0,
                    scaling: RopeScaling::Linear { factor: 4.0 },
                    ..Rope::default()
                },
                positions_max: 16384,
                ..llama(2048, 16, 16, 128, 5504, 32256, 24)
            },
        ),
        (
            "a Llama with every bias and its own head dimension",
            json!({"architectures": ["LlamaForCausalLM"], "attention_bias": true, "head_dim": 48,
                "hidden_size": 64, "intermediate_size": 99, "mlp_bias": true, "model_type": "llama",
                "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": null, "vocab_size": 61,
                "temperature": 0.6, "is_llama_config": true, "rope_interleaved": false,
                "rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
                "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}}),
            ModelConfig {
                norm_eps: 1e-6,
                rope: Rope { scaling: llama3(8.0), ..Rope::default() },
                biases: Biases { qkv: true, o: true, mlp: true },
                ..llama(64, 4, 4, 48, 99, 61, 2)
            },
        ),
        (
            "Mistral 7B v0.1",
            json!({"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
                "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
                "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
                "num_hidden_layers": 2, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
                "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
                "transformers_version": "4.34.0.dev0", "use_cache": true, "vocab_size": 32000}),
            ModelConfig {
                positions_max: 32768,
                window: Some(Window { size: 4096, layers: vec![true; 2] }),
                ..llama(4096, 32, 8, 128, 14336, 32000, 2)
            },
        ),
        (
            "Mistral 7B v0.3, which has no window, as transformers 5 writes it",
            json!({"architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
                "dtype": "bfloat16", "eos_token_id": 2, "head_dim": 128, "hidden_act": "silu",
                "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
                "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
                "num_key_value_heads": 8, "pad_token_id": null, "rms_norm_eps": 1e-05,
                "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}, "sliding_window": null,
                "tie_word_embeddings": false, "transformers_version": "5.23.0", "use_cache": true,
                "vocab_size": 32768}),
            ModelConfig {
                rope: theta(1e6),
                positions_max: 32768,
                ..llama(4096, 32, 8, 128, 14336, 32768, 32)
            },
        ),
        (
            "Qwen2.5 0.5B",
            json!({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
                "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
                "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
                "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
                "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
                "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
                "use_cache": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 151936}),
            ModelConfig {
                tied: true,
                norm_eps: 1e-6,
                rope: theta(1e6),
                positions_max: 32768,
                biases: qwen2,
                ..llama(896, 14, 2, 64, 4864, 151_936, 24)
            },
        ),
        (
            "a Qwen2 whose last layers have a window, as transformers 4 writes it",
            json!({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 32, "intermediate_size": 43,
                "max_window_layers": 1, "model_type": "qwen2", "num_attention_heads": 4, "num_hidden_layers": 3,
                "num_key_value_heads": 2, "sliding_window": 5, "use_sliding_window": true, "vocab_size": 61}),
            ModelConfig {
                norm_eps: 1e-6,
                positions_max: 32768,
                biases: qwen2,
                window: Some(Window { size: 5, layers: vec![false, true, true] }),
                ..llama(32, 4, 2, 8, 43, 61, 3)
            },
        ),
        (
            "Qwen3 0.6B, as transformers 5 writes it",
            json!({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                "bos_token_id": 151643, "dtype": "bfloat16", "eos_token_id": 151645, "head_dim": 128,
                "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072,
                "layer_types": ["full_attention", "full_attention"], "max_position_embeddings": 40960,
                "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16,
                "num_hidden_layers": 2, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
                "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}, "sliding_window": null,
                "tie_word_embeddings": true, "transformers_version": "5.23.0", "use_cache": true,
                "use_sliding_window": false, "vocab_size": 151936}),
            ModelConfig {
                tied: true,
                norm_eps: 1e-6,
                rope: theta(1e6),
                positions_max: 40960,
                qk_norm: Some(NormSpan::Head),
                ..llama(1024, 16, 8, 128, 3072, 151_936, 2)
            },
        ),
        (
            "a Qwen3 whose layers differ, with biases",
            json!({"architectures": ["Qwen3ForCausalLM"], "attention_bias": true, "hidden_size": 32,
                "intermediate_size": 43, "layer_types": ["sliding_attention", "full_attention",
                "sliding_attention"], "model_type": "qwen3", "num_attention_heads": 4, "num_hidden_layers": 3,
                "num_key_value_heads": 2, "sliding_window": 5, "use_sliding_window": true, "vocab_size": 61}),
            ModelConfig {
                norm_eps: 1e-6,
                positions_max: 32768,
                biases: Biases { qkv: true, o: true, mlp: false },
                qk_norm: Some(NormSpan::Head),
                window: Some(Window { size: 5, layers: vec![true, false, true] }),
                ..llama(32, 4, 2, 128, 43, 61, 3)
            },
        ),
    ];
    for (name, keys, expected) in cases {
        let config = FolderConfig::parse(keys.to_string().as_bytes())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config.model, expected, "{name}");
        assert_eq!(json!([config.family.architecture]), keys["architectures"]);
        let written = config.json(DType::Bf16);
        let again = FolderConfig::parse(written.to_string().as_bytes()).unwrap();
        assert_eq!((again.model, again.family), (config.model.clone(), config.family), "{name}: {written}");
        assert!(Family::of(&config.model).is_ok(), "{name}");
    }
}

#[test]
fn families_refuse_features_they_do_not_have() {
    let qwen = |edit: Value| {
        let mut keys = json!({"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 43,
            "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 61});
        keys.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        FolderConfig::parse(keys.to_string().as_bytes())
    };
    assert!(qwen(json!({})).is_ok());
    for (edit, word) in [
        (json!({"attention_bias": false}), "attention_bias"),
        (json!({"mlp_bias": true}), "mlp_bias"),
        (json!({"model_type": "mistral", "attention_bias": true}), "attention_bias"),
        (json!({"model_type": "mistral", "use_sliding_window": false}), "use_sliding_window"),
        (
            json!({"model_type": "mistral", "layer_types": ["full_attention", "sliding_attention"]}),
            "layer_types",
        ),
        (json!({"model_type": "qwen3", "mlp_bias": true}), "mlp_bias"),
        (json!({"model_type": "qwen3_moe"}), "qwen3_moe"),
        (json!({"architectures": ["Qwen3ForCausalLM"]}), "must agree"),
        (json!({"architectures": ["Qwen2ForCausalLM", "Qwen3ForCausalLM"]}), "one architecture"),
        (json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
        (json!({"layer_types": ["full_attention"], "use_sliding_window": true}), "layer"),
        (
            json!({"layer_types": ["sliding_attention"], "use_sliding_window": true}),
            "layer_types has 1 entries",
        ),
        (json!({"layer_types": "sliding_attention"}), "layer_types"),
        (json!({"sliding_window": 0, "use_sliding_window": true, "max_window_layers": 0}), "sliding_window"),
        (json!({"num_experts": 8}), "num_experts"),
    ] {
        let error = qwen(edit.clone()).expect_err(&edit.to_string());
        assert!(error.message().contains(word), "{edit}: {error}");
    }
    let mixed = ModelConfig {
        qk_norm: Some(NormSpan::Head),
        biases: Biases { qkv: false, o: false, mlp: true },
        ..ModelConfig::llama(Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 1 })
    };
    let error = FolderConfig::of(mixed).unwrap_err();
    assert!(error.status() == Status::Unsupported && error.message().contains("qk_norm = true"), "{error}");
}
