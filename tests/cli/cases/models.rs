//! Weights, configs and folders.

use safetensors::Dtype;
use serde_json::{Value, json};

use super::{Case, Outcome, Tensor, assert_all, done, expected, refused};

/// The expectation of a user who gives a folder.
enum Expected {
    /// The loss of transformers for the folder, by its name in `expected.json`.
    Loss(&'static str),
    /// An error with these words.
    Refused(&'static [&'static str]),
    /// Either: transformers does not read the folder, but what is meant is clear.
    LossOr(&'static str, &'static [&'static str]),
}
use Expected::{Loss, LossOr, Refused};

type Edit = fn(&Case);

/// Asserts what is expected of each folder: its name, the edit of the model, the expectation.
///
/// Weights are bf16, computed in f32 by both: losses agree within 1e-5, as in `tests/model/golden`.
fn check(cases: &[(&str, Edit, Expected)]) {
    let rows: Vec<Value> = serde_json::from_value(expected(&["rows"])).unwrap();
    let lines: String = rows.iter().map(|row| json!({"tokens": row}).to_string() + "\n").collect();
    assert_all(cases.iter().map(|(name, edit, expectation)| {
        let case = Case::new();
        case.write("tok.jsonl", &lines);
        edit(&case);
        let ran = case.step();
        let outcome = match expectation {
            Refused(words) => refused(&ran, words),
            LossOr(_, words) if ran.code != Some(0) => refused(&ran, words),
            Loss(loss) | LossOr(loss, _) => done(&ran).and_then(|()| has_loss(&case, loss)),
        };
        (*name, outcome)
    }));
}

/// Checks the loss that a step has logged.
fn has_loss(case: &Case, name: &str) -> Outcome {
    let (got, want) = (case.loss(), expected(&["losses", name]).as_f64().unwrap());
    if (got - want).abs() <= 1e-5 * want {
        Ok(())
    } else {
        Err(format!("loss {got}, in transformers {want}"))
    }
}

fn without_prefix(case: &Case) {
    case.rename_tensors(|name| name.trim_start_matches("model.").to_owned());
}

fn prefixed(case: &Case, prefix: &str) {
    case.rename_tensors(|name| format!("{prefix}{name}"));
}

fn without_head(case: &Case) {
    case.edit_tensors(|tensors| {
        tensors.into_iter().filter(|tensor| tensor.name != "lm_head.weight").collect()
    });
}

fn copy_of(case: &Case, name: &str) -> Tensor {
    let all = case.tensors();
    all.iter().find(|tensor| tensor.name == name).unwrap().f32_copy("lm_head.weight")
}

/// Makes a Qwen 3 of the Llama: it has norms of queries and keys.
fn qwen3(case: &Case) {
    case.config(json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}));
    let norm = |x| Tensor::filled(&format!("model.layers.0.self_attn.{x}_norm.weight"), &[8], 1.0);
    case.add_tensors(vec![norm("q"), norm("k")]);
}

/// Makes a Qwen 2 of the Llama: it has biases, here 0.
fn qwen2(case: &Case) {
    case.config(json!({"model_type": "qwen2", "attention_bias": null, "mlp_bias": null}));
    let bias = |(x, size)| Tensor::filled(&format!("model.layers.0.self_attn.{x}_proj.bias"), &[size], 0.0);
    case.add_tensors([("q", 16), ("k", 8), ("v", 8)].map(bias).into());
}

fn rope(case: &Case, scaling: Value) {
    let mut config = case.json("model/config.json");
    config.remove("rope_parameters");
    case.write("model/config.json", Value::Object(config).to_string());
    case.config(json!({"rope_theta": 10000.0, "rope_scaling": scaling}));
}

fn llama3(more: Value) -> Value {
    let mut rope = json!({"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                          "high_freq_factor": 4.0});
    rope.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rope
}

/// Writes the weights as three shards without an index.
fn shards(case: &Case) {
    let mut shards = [Vec::new(), Vec::new(), Vec::new()];
    for (k, tensor) in case.tensors().into_iter().enumerate() {
        shards[k % 3].push(tensor);
    }
    for (k, shard) in shards.iter().enumerate() {
        case.write_tensors(&format!("model-0000{}-of-00003.safetensors", k + 1), shard);
    }
    case.remove("model/model.safetensors");
}

/// The weights under another name.
fn renamed(case: &Case, name: &str) {
    std::fs::rename(case.path("model/model.safetensors"), case.path("model").join(name)).unwrap();
}

const LFS_POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
                           oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n\
                           size 12345\n";

#[test]
fn weights_load_as_in_transformers_or_their_names_are_named() {
    check(&[
        ("the model itself", |_| {}, Loss("base")),
        ("w_no_model_prefix", |case| (qwen3(case), without_prefix(case)).1, Loss("qwen3")),
        ("w_no_model_prefix, Llama", without_prefix, Loss("base")),
        (
            "w_no_model_prefix_tied",
            |case| {
                qwen3(case);
                case.config(json!({"tie_word_embeddings": true}));
                without_head(case);
                without_prefix(case);
            },
            Loss("qwen3 tied"),
        ),
        ("w_orig_mod", |case| prefixed(case, "_orig_mod."), LossOr("base", &["_orig_mod."])),
        ("the prefix of DataParallel", |case| prefixed(case, "module."), LossOr("base", &["module."])),
        (
            "the prefix of FSDP",
            |case| prefixed(case, "_fsdp_wrapped_module."),
            LossOr("base", &["_fsdp_wrapped_module."]),
        ),
        ("w_lang_model", |case| prefixed(case, "language_model."), LossOr("base", &["language_model."])),
        (
            "w_extra_state",
            |case| {
                let state = "model.layers.0.self_attn._extra_state";
                case.add_tensors(vec![Tensor::of(state, Dtype::F32, &[0], Vec::new())]);
            },
            Loss("base"),
        ),
        (
            "w_value_head",
            |case| {
                let head = |name, shape: &[usize]| {
                    Tensor::of(name, Dtype::F32, shape, vec![0; 4 * shape.iter().product::<usize>()])
                };
                let more = vec![head("v_head.summary.weight", &[1, 16]), head("v_head.summary.bias", &[1])];
                case.add_tensors(more);
            },
            Loss("base"),
        ),
        (
            "rotary_emb.inv_freq of old Llamas",
            |case| {
                case.add_tensors(vec![Tensor::filled(
                    "model.layers.0.self_attn.rotary_emb.inv_freq",
                    &[4],
                    1.0,
                )])
            },
            Loss("base"),
        ),
        (
            "a tensor of a part that the model does not have",
            |case| {
                case.add_tensors(vec![Tensor::filled("model.layers.0.mlp.experts.0.gate.weight", &[1], 1.0)])
            },
            Refused(&["model.layers.0.mlp.experts.0.gate.weight"]),
        ),
        (
            "w_tied_with_lm_head_copy_f32",
            |case| {
                case.config(json!({"tie_word_embeddings": true}));
                let copy = copy_of(case, "model.embed_tokens.weight");
                without_head(case);
                case.add_tensors(vec![copy]);
            },
            Loss("tied"),
        ),
        (
            "a copy in f32 that differs",
            |case| {
                case.config(json!({"tie_word_embeddings": true}));
                let copy = copy_of(case, "lm_head.weight");
                without_head(case);
                case.add_tensors(vec![copy]);
            },
            LossOr("base", &["lm_head.weight", "tie_word_embeddings"]),
        ),
        ("w_untied_no_lm_head", without_head, Refused(&["lm_head.weight", "tie_word_embeddings"])),
    ]);
}

#[test]
fn configs_are_taken_as_in_transformers() {
    check(&[
        (
            "w_arch_FSDP",
            |case| {
                qwen2(case);
                case.config(json!({"architectures": ["FSDPQwen2ForCausalLM"]}));
            },
            Loss("base"),
        ),
        ("w_arch_LLaMA", |case| case.config(json!({"architectures": ["LLaMAForCausalLM"]})), Loss("base")),
        ("no architectures", |case| case.config(json!({"architectures": null})), Loss("base")),
        (
            "cfg_auto_map",
            |case| {
                let map = json!({"AutoConfig": "conf.X", "AutoModelForCausalLM": "modeling.X"});
                case.config(json!({"auto_map": map}));
            },
            Loss("base"),
        ),
        (
            "cfg_misc_harmless",
            |case| {
                case.config(json!({"unk_token_id": 0, "model_max_length": 4096, "seq_length": 2048,
                                   "use_flash_attn": true}));
            },
            Loss("base"),
        ),
        (
            "a key that changes the arithmetic",
            |case| case.config(json!({"final_logit_softcapping": 30.0})),
            Refused(&["final_logit_softcapping"]),
        ),
        (
            "cfg_bom",
            |case| {
                case.write(
                    "model/config.json",
                    [&b"\xef\xbb\xbf"[..], &case.read("model/config.json")].concat(),
                )
            },
            LossOr("base", &["config.json", "byte order mark"]),
        ),
        (
            "config.json in UTF-16",
            |case| {
                let text = String::from_utf8(case.read("model/config.json")).unwrap();
                case.write("model/config.json", utf16(&text, u16::to_le_bytes));
            },
            Refused(&["config.json", "UTF-16"]),
        ),
        (
            "cfg_rope_default_factor1",
            |case| rope(case, json!({"type": "default", "rope_type": "default", "factor": 1.0})),
            Loss("base"),
        ),
        ("cfg_rope_dynamic", |case| rope(case, json!({"type": "dynamic", "factor": 2.0})), Loss("base")),
        (
            "p_llama3_no_original",
            |case| {
                case.config(
                    json!({"rope_parameters": llama3(json!({})), "original_max_position_embeddings": 8}),
                );
            },
            Loss("llama3"),
        ),
        (
            "the original length in both places",
            |case| {
                let inside = llama3(json!({"original_max_position_embeddings": 512}));
                case.config(json!({"rope_parameters": inside, "original_max_position_embeddings": 8}));
            },
            LossOr("llama3", &["original_max_position_embeddings"]),
        ),
    ]);
}

/// Text in UTF-16 with a byte order mark.
pub fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(bytes).collect()
}

#[test]
fn folders_without_weights_are_called_what_they_are() {
    check(&[
        (
            "f_adapter_no_config",
            |case| {
                case.remove("model/config.json");
                renamed(case, "adapter_model.safetensors");
                case.write("model/adapter_config.json", r#"{"peft_type": "LORA"}"#);
            },
            Refused(&["adapter", "merge"]),
        ),
        (
            "f_adapter_only",
            |case| {
                let lora = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
                case.write_tensors("adapter_model.safetensors", &[Tensor::filled(lora, &[4, 16], 0.0)]);
                case.remove("model/model.safetensors");
                case.write(
                    "model/adapter_config.json",
                    r#"{"peft_type": "LORA", "base_model_name_or_path": "x"}"#,
                );
            },
            Refused(&["adapter", "merge"]),
        ),
        (
            "f_gguf",
            |case| {
                case.remove("model/model.safetensors");
                case.write("model/model-q8.gguf", "GGUF");
            },
            Refused(&["GGUF", "model-q8.gguf"]),
        ),
        (
            "GGUF under the name of the weights",
            |case| case.write("model/model.safetensors", [&b"GGUF\x03\0\0\0"[..], &[0; 64]].concat()),
            Refused(&["GGUF", "model.safetensors"]),
        ),
        (
            "f_lfs_pointer",
            |case| case.write("model/model.safetensors", LFS_POINTER),
            Refused(&["model.safetensors", "git lfs pull"]),
        ),
        (
            "config.json is a pointer",
            |case| case.write("model/config.json", LFS_POINTER),
            Refused(&["config.json", "git lfs pull"]),
        ),
        (
            "tokenizer.json is a pointer",
            |case| {
                case.write("model/tokenizer.json", LFS_POINTER);
                case.write("tok.jsonl", super::hi_yo());
            },
            Refused(&["tokenizer.json", "git lfs pull"]),
        ),
        (
            "the data is a pointer",
            |case| case.write("tok.jsonl", LFS_POINTER),
            Refused(&["tok.jsonl", "git lfs pull"]),
        ),
        ("f_shards_no_index", shards, LossOr("base", &["model-00001-of-00003.safetensors", "index"])),
        (
            "a shard is missing",
            |case| {
                shards(case);
                case.remove("model/model-00002-of-00003.safetensors");
            },
            Refused(&["model-0000", "-of-00003.safetensors"]),
        ),
        (
            "Mistral's consolidated weights",
            |case| {
                renamed(case, "consolidated.safetensors");
                case.write("model/params.json", r#"{"dim": 16, "n_layers": 1}"#);
            },
            Refused(&["consolidated.safetensors"]),
        ),
        (
            "weights of PyTorch",
            |case| {
                case.remove("model/model.safetensors");
                case.write("model/pytorch_model.bin", "PK\x03\x04");
            },
            Refused(&["pytorch_model.bin", "safetensors"]),
        ),
    ]);
}

#[test]
fn token_rows_need_no_tokenizer() {
    check(&[(
        "t_pretokenized_sentencepiece",
        |case| {
            case.remove("model/tokenizer.json");
            case.write("model/tokenizer.model", "\n\x0e");
            case.config(json!({"model_type": "mistral", "architectures": ["MistralForCausalLM"],
                               "sliding_window": null}));
        },
        Loss("base"),
    )]);
}

#[test]
fn padding_changes_no_loss() {
    let row: Vec<u64> = serde_json::from_value(expected(&["rows"])[0].clone()).unwrap();
    let (pad, ones, zeros) = ([423; 4], [1; 12], [0; 4]);
    let mut labels: Vec<i64> = row.iter().map(|&token| token as i64).collect();
    labels[..3].fill(-100);
    let right =
        json!({"input_ids": ([&row[..], &pad].concat()), "attention_mask": ([&ones[..], &zeros].concat())});
    let left = json!({"input_ids": ([&pad[..], &row].concat()),
                      "attention_mask": ([&zeros[..], &ones].concat()),
                      "labels": ([&[-100; 4][..], &labels].concat())});
    assert_all([("padded right", right), ("padded left", left)].map(|(name, row)| {
        let case = Case::new();
        case.write("tok.jsonl", row.to_string());
        (name, done(&case.step()).and_then(|()| has_loss(&case, name)))
    }));
}
