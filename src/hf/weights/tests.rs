use safetensors::tensor::TensorView;

use super::*;
use crate::base::{DType, Dims, master, unwatched};
use crate::hf::{ExportTarget, FAMILIES, FolderConfig, SHARD_BYTES, SINGLE, export, trainer_of};
use crate::model::ModelConfig;

mod families;

fn model(tied: bool) -> ModelConfig {
    let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 2 };
    ModelConfig { tied, positions_max: 64, ..ModelConfig::llama(dims) }
}

/// Returns values that are exact in bf16, f16 and f32.
fn value(name: &str, element: usize) -> f32 {
    let name: usize = name.bytes().zip(1..).map(|(byte, at)| usize::from(byte) * at).sum();
    ((element * 7 + name) % 64) as f32 / 8.0 - 4.0
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

fn tensor(name: &str, shape: &[usize], dtype: Dtype) -> Tensor {
    let values = (0..shape.iter().product()).map(|element| value(name, element));
    let bytes = match dtype {
        Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
        Dtype::BF16 => values.flat_map(|v| master::round(v).to_le_bytes()).collect(),
        Dtype::F16 => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::F64 => values.flat_map(|v| f64::from(v).to_le_bytes()).collect(),
        _ => unreachable!("the tests write no other dtype"),
    };
    Tensor { name: name.to_owned(), shape: shape.to_vec(), dtype, bytes }
}

fn tensors_of(model: &ModelConfig, dtype: Dtype) -> Vec<Tensor> {
    Layout::new(model).tensors().map(|(_, t)| tensor(&t.name, &t.shape, dtype)).collect()
}

fn save(path: &Path, tensors: &[Tensor]) {
    let views = tensors
        .iter()
        .map(|t| (t.name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn opened(folder: &Path, model: &ModelConfig) -> Result<Weights> {
    Weights::open(folder, &FAMILIES[0], &Layout::new(model))
}

/// Loads the weights into a trainer and returns all its tensors.
fn load(folder: &Path, model: &ModelConfig) -> Result<Vec<(String, Vec<f32>)>> {
    let weights = opened(folder, model)?;
    let mut trainer = trainer_of(model);
    weights.load(&mut trainer, &unwatched)?;
    let layout = trainer.layout().clone();
    layout
        .tensors()
        .map(|(_, tensor)| {
            let mut values = vec![f32::NAN; tensor.elements()];
            trainer.read_tensor(&tensor.name, &mut values)?;
            Ok((tensor.name.clone(), values))
        })
        .collect()
}

fn refusal(tensors: &[Tensor], model: &ModelConfig) -> Error {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join(SINGLE), tensors);
    load(dir.path(), model).unwrap_err()
}

#[test]
fn every_dtype_is_widened_exactly() {
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        for tied in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let model = model(tied);
            save(&dir.path().join(SINGLE), &tensors_of(&model, dtype));
            let loaded = load(dir.path(), &model).unwrap();
            assert_eq!(loaded.len(), Layout::new(&model).tensors().count());
            for ((name, values), (_, tensor)) in loaded.iter().zip(Layout::new(&model).tensors()) {
                assert_eq!(*name, tensor.name);
                assert_eq!(values.len(), tensor.elements());
                assert!(values.iter().enumerate().all(|(e, &v)| v == value(name, e)), "{dtype:?} {name}");
            }
        }
    }
}

#[test]
fn shards_are_found_by_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(false);
    let mut first = tensors_of(&model, Dtype::BF16);
    let second = first.split_off(7);
    let mut map = serde_json::Map::new();
    for (file, tensors) in [("a.safetensors", &first), ("b.safetensors", &second)] {
        save(&dir.path().join(file), tensors);
        map.extend(tensors.iter().map(|t| (t.name.clone(), file.into())));
    }
    let index = |map: &serde_json::Map<_, _>| {
        std::fs::write(dir.path().join(INDEX), serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    };
    index(&map);
    assert_eq!(load(dir.path(), &model).unwrap().len(), first.len() + second.len());

    for (name, file, status, word) in [
        ("model.norm.weight", "../b.safetensors", Status::BadFormat, "../b.safetensors"),
        ("model.norm.weight", "/etc/passwd", Status::BadFormat, "/etc/passwd"),
        ("model.norm.weight", "", Status::BadFormat, "is not the name of a file"),
        ("model.norm.weight", ".", Status::BadFormat, "is not the name of a file"),
        ("model.norm.weight", "..", Status::BadFormat, "is not the name of a file"),
        ("model.norm.weight", "./b.safetensors", Status::BadFormat, "is not the name of a file"),
        ("model.norm.weight", "a/../b.safetensors", Status::BadFormat, "is not the name of a file"),
        ("model.norm.weight", "b.safetensors/", Status::BadFormat, "is not the name of a file"),
        ("model.norm.weight", "b.safetensors\0", Status::BadFormat, "is not the name of a file"),
        ("model.norm.weight", "c.safetensors", Status::NotFound, "c.safetensors"),
    ] {
        let mut wrong = map.clone();
        wrong.insert(name.to_owned(), file.into());
        index(&wrong);
        let error = load(dir.path(), &model).unwrap_err();
        assert_eq!(error.status(), status, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
    // transformers needs only the model's tensors; an editor may have written a byte order mark.
    map.insert("model.rotary_emb.inv_freq".to_owned(), "a.safetensors".into());
    let text = format!("\u{feff}{}", serde_json::json!({ "weight_map": map }));
    std::fs::write(dir.path().join(INDEX), text).unwrap();
    assert_eq!(load(dir.path(), &model).unwrap().len(), first.len() + second.len());
    let notes = opened(dir.path(), &model).unwrap().notes().to_vec();
    let note = "model.safetensors.index.json lists tensors that its files do not have, e.g. model.rotary_emb.inv_freq";
    assert_eq!(notes, [note]);
    std::fs::write(dir.path().join(INDEX), "{\"weight_map\": 3}").unwrap();
    assert_eq!(load(dir.path(), &model).unwrap_err().status(), Status::BadFormat);
}

#[test]
fn a_truncated_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(true);
    let path = dir.path().join(SINGLE);
    save(&path, &tensors_of(&model, Dtype::BF16));
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 4, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = load(dir.path(), &model).unwrap_err();
        assert_eq!(error.status(), Status::BadFormat, "{length} bytes: {error}");
        assert!(error.message().contains(SINGLE) && error.message().contains(&length.to_string()), "{error}");
    }
    std::fs::write(&path, [&bytes[..], b"more"].concat()).unwrap();
    assert_eq!(load(dir.path(), &model).unwrap_err().status(), Status::BadFormat);
}

fn header(file: &[u8]) -> Result<Header> {
    Header::read(file.len() as u64, |offset, out| {
        out.copy_from_slice(&file[offset as usize..][..out.len()]);
        Ok(())
    })
}

#[test]
fn a_file_that_is_changed_after_it_was_opened_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(true);
    let path = dir.path().join(SINGLE);
    let changed = |change: &dyn Fn(&[u8])| {
        save(&path, &tensors_of(&model, Dtype::BF16));
        let mut trainer = trainer_of(&model);
        let weights = opened(dir.path(), &model).unwrap();
        change(&std::fs::read(&path).unwrap());
        weights.load(&mut trainer, &unwatched).unwrap_err().to_string()
    };
    let shortened = changed(&|bytes| std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap());
    assert!(shortened.contains("model.safetensors became shorter while it was read"), "{shortened}");
    let rewritten = changed(&|bytes| std::fs::write(&path, bytes).unwrap());
    assert!(rewritten.contains("model.safetensors was written to while it was read"), "{rewritten}");
}

/// The sizes in a header are checked against the length of the file.
#[test]
fn a_header_that_does_not_match_the_file_is_refused() {
    let file = |length: u64, json: &str| [&length.to_le_bytes()[..], json.as_bytes(), &[0; 16]].concat();
    let whole = |json: &str| file(json.len() as u64, json);
    let entry = |shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    assert!(header(&whole(&entry("[2,2]", "[0,16]"))).is_ok());
    for (shape, offsets) in [
        ("[2,3]", "[0,24]"),
        ("[2,2]", "[0,24]"),
        ("[2,2]", "[4,20]"),
        ("[2,2]", "[16,0]"),
        ("[4]", "[0,18446744073709551615]"),
        ("[4]", "[18446744073709551599,18446744073709551615]"),
        ("[4611686018427387904,4611686018427387904]", "[0,16]"),
        ("[9223372036854775808,2,4]", "[0,16]"),
        ("[-4]", "[0,16]"),
        ("[4.0]", "[0,16]"),
    ] {
        let error = header(&whole(&entry(shape, offsets))).expect_err(&format!("{shape} at {offsets}"));
        assert_eq!(error.status(), Status::BadFormat, "{error}");
    }
    let json = entry("[2,2]", "[0,16]");
    for length in
        [0, 1, json.len() as u64 - 1, json.len() as u64 + 17, 1 << 40, 1 << 63, u64::MAX, u64::MAX - 7]
    {
        let error = header(&file(length, &json)).expect_err(&format!("a header of {length} bytes"));
        assert_eq!(error.status(), Status::BadFormat, "{error}");
    }
    let twice = format!(
        "{},{}",
        entry("[2,2]", "[0,16]").trim_end_matches('}').to_owned() + "}",
        &entry("[2,2]", "[0,16]")[1..]
    );
    assert!(header(&whole(&twice.replacen("\"a\"", "\"b\"", 1))).is_err(), "two tensors have the same bytes");
}

#[test]
fn tensors_that_do_not_fit_the_model_are_named() {
    let model = model(false);
    let change = |edit: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = tensors_of(&model, Dtype::BF16);
        edit(&mut tensors);
        refusal(&tensors, &model).to_string()
    };
    let gone = change(&|tensors| tensors.retain(|t| t.name != "model.layers.1.mlp.up_proj.weight"));
    assert!(gone.contains("model.layers.1.mlp.up_proj.weight is missing"), "{gone}");
    let extra =
        change(&|tensors| tensors.push(tensor("model.layers.0.self_attn.q_proj.bias", &[8], Dtype::F32)));
    assert!(extra.contains("q_proj.bias is not a tensor of the model"), "{extra}");
    let shape = change(&|tensors| tensors[2] = tensor(&tensors[2].name, &[4, 16], Dtype::F32));
    assert!(shape.contains("[4, 16]") && shape.contains("[8, 8]"), "{shape}");
    let dtype = change(&|tensors| tensors[2] = tensor(&tensors[2].name, &[8, 8], Dtype::F64));
    assert!(dtype.contains("F64"), "{dtype}");
    let nan = change(&|tensors| tensors[3].bytes[4..6].copy_from_slice(&0x7fc0u16.to_le_bytes()));
    assert!(nan.contains("element 2 of model.layers.0.self_attn.k_proj.weight is NaN"), "{nan}");
}

/// Returns the notes after loading tensors of a model under other names and with others. All values
/// must be those of the original names.
fn notes(model: &ModelConfig, rename: impl Fn(&str) -> String, extra: Vec<Tensor>) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = tensors_of(model, Dtype::BF16);
    tensors.iter_mut().for_each(|tensor| tensor.name = rename(&tensor.name));
    tensors.extend(extra);
    save(&dir.path().join(SINGLE), &tensors);
    for (name, values) in load(dir.path(), model).unwrap() {
        assert!(values.iter().enumerate().all(|(e, &found)| found == value(&name, e)), "{name}");
    }
    opened(dir.path(), model).unwrap().notes().to_vec()
}

/// Without `model.`, and with one more, as transformers does; wrappers, which transformers does not
/// know, as their origin wrote them.
#[test]
fn other_spellings_of_names_are_read_with_a_note() {
    let without = |name: &str| name.trim_start_matches("model.").to_owned();
    for tied in [false, true] {
        let model = model(tied);
        assert_eq!(notes(&model, str::to_owned, vec![]), [""; 0]);
        assert_eq!(notes(&model, without, vec![]), ["names without `model.` are read as those with it"]);
        let once_more = notes(&model, |name| format!("model.{name}"), vec![]);
        assert_eq!(once_more, ["`model.` in front of names is left out"]);
        let saved = |wrapper: &str, origin| {
            format!("`{wrapper}` in names of tensors is left out (saved from {origin})")
        };
        for (wrapper, origin) in [
            ("_orig_mod.", "torch.compile"),
            ("_fsdp_wrapped_module.", "FSDP"),
            ("_checkpoint_wrapped_module.", "activation checkpointing"),
            ("_forward_module.", "Lightning"),
            ("module.", "DataParallel"),
            ("policy.", "a policy of RLHF"),
            ("actor.", "a policy of RLHF"),
            ("base_model.model.", "PEFT"),
            ("pretrained_model.", "TRL"),
            ("language_model.", "a multimodal model"),
            ("model.language_model.", "a multimodal model"),
        ] {
            let expected = [saved(wrapper, origin)];
            assert_eq!(notes(&model, |name| format!("{wrapper}{name}"), vec![]), expected);
            assert_eq!(notes(&model, |name| format!("{wrapper}{}", without(name)), vec![]), expected);
        }
        // The head, `base_model.lm_head.weight`, shows that the model was not in `base_model.model`.
        let found = notes(&model, |name| format!("base_model.{name}"), vec![]);
        assert_eq!(found.contains(&saved("base_model.", "PEFT")), !tied);
        let inner = |name: &str| name.replace("layers.1.", "layers.1._fsdp_wrapped_module._orig_mod.");
        let expected = [saved("_fsdp_wrapped_module.", "FSDP"), saved("_orig_mod.", "torch.compile")];
        assert_eq!(notes(&model, inner, vec![]), expected);
        // Newer multimodal models have the head outside.
        let multimodal = |name: &str| match name.strip_prefix("model.") {
            Some(name) => format!("model.language_model.{name}"),
            None => name.to_owned(),
        };
        assert_eq!(notes(&model, multimodal, vec![]), [saved("model.language_model.", "a multimodal model")]);
    }
}

#[test]
fn two_spellings_of_one_tensor_are_refused() {
    let model = model(false);
    let mut tensors = tensors_of(&model, Dtype::BF16);
    tensors.push(tensor("_orig_mod.model.norm.weight", &[8], Dtype::BF16));
    let error = refusal(&tensors, &model);
    assert!(error.message().contains("model.norm.weight is _orig_mod.model.norm.weight in "), "{error}");
}

/// Tensors that transformers ignores, with a warning or without.
#[test]
fn tensors_of_training_and_of_other_heads_are_left_out_with_a_note() {
    let one = |name: &str| tensor(name, &[2], Dtype::F32);
    for (names, note) in [
        (
            &["model.layers.0.self_attn._extra_state"][..],
            "1 tensor is left out: model.layers.0.self_attn._extra_state (state of TransformerEngine)",
        ),
        (
            &["v_head.summary.bias", "v_head.summary.weight"],
            "2 tensors are left out, e.g. v_head.summary.bias (part of a value head; an export has none)",
        ),
        (
            &["score.weight"],
            "1 tensor is left out: score.weight (the head of a classifier; an export has none)",
        ),
        (
            &["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.1.self_attn.rotary_emb.inv_freq"],
            "2 tensors are left out, e.g. model.layers.0.self_attn.rotary_emb.inv_freq (rotary frequencies are \
             computed from config.json)",
        ),
        (
            &["model.layers.0.self_attn.masked_bias"],
            "1 tensor is left out: model.layers.0.self_attn.masked_bias (a constant of attention)",
        ),
    ] {
        let extra = names.iter().map(|name| one(name)).collect();
        assert_eq!(notes(&model(true), str::to_owned, extra), [note]);
    }
}

#[test]
fn a_copy_of_the_tied_embedding_is_accepted_in_every_dtype() {
    let model = model(true);
    let head = |dtype| {
        let mut head = tensor("model.embed_tokens.weight", &[16, 8], dtype);
        head.name = HEAD.to_owned();
        head
    };
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        assert_eq!(notes(&model, str::to_owned, vec![head(dtype)]), [""; 0]);
        let mut tensors = tensors_of(&model, Dtype::BF16);
        let mut other = head(dtype);
        *other.bytes.last_mut().unwrap() ^= 1;
        tensors.push(other);
        assert!(refusal(&tensors, &model).message().contains("lm_head.weight differs"));
    }
    let mut tensors = tensors_of(&model, Dtype::BF16);
    tensors.push(tensor(HEAD, &[15, 8], Dtype::F32));
    assert!(refusal(&tensors, &model).message().contains("lm_head.weight differs"));
}

/// transformers ties them, too, when it loads both in the narrower dtype.
#[test]
fn a_rounded_copy_of_the_tied_embedding_is_accepted_with_a_note() {
    let model = model(true);
    let (narrow, wide) = (tensors_of(&model, Dtype::BF16), tensors_of(&model, Dtype::F32));
    // Halfway above an even bf16, which rounds to it.
    let inexact = |dtype| {
        let mut tensor = tensor(&wide[0].name, &[16, 8], Dtype::F32);
        for value in tensor.bytes.as_chunks_mut::<4>().0 {
            let low = if dtype == Dtype::BF16 && value[2] % 2 == 0 { 0x8000u16 } else { 1 };
            value[..2].copy_from_slice(&low.to_le_bytes());
        }
        tensor
    };
    let with = |embedding: &Tensor, head: &Tensor| {
        let dir = tempfile::tempdir().unwrap();
        let mut tensors = tensors_of(&model, Dtype::BF16);
        let copy = |tensor: &Tensor, name: &str| Tensor {
            name: name.to_owned(),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
            bytes: tensor.bytes.clone(),
        };
        tensors[0] = copy(embedding, &embedding.name);
        tensors.push(copy(head, HEAD));
        save(&dir.path().join(SINGLE), &tensors);
        let weights = opened(dir.path(), &model);
        weights.map(|weights| weights.notes().to_vec()).map_err(|error| error.to_string())
    };
    let note = "lm_head.weight has the values of model.embed_tokens.weight, rounded; it is left out, since config.json \
                ties them";
    for dtype in [Dtype::BF16, Dtype::F16] {
        let other = tensor(&narrow[0].name, &[16, 8], dtype);
        assert_eq!(with(&inexact(dtype), &other).unwrap(), [note]);
        assert_eq!(with(&other, &inexact(dtype)).unwrap(), [note]);
    }
    // 3.0 is not a rounded 2.9.
    let mut far = tensor(&wide[0].name, &[16, 8], Dtype::F32);
    far.bytes[0..4].copy_from_slice(&2.9f32.to_le_bytes());
    assert!(with(&far, &narrow[0]).unwrap_err().contains("remove lm_head.weight"));
    let zeros = |bits: u16| Tensor {
        bytes: bits.to_le_bytes().repeat(128),
        ..tensor(&narrow[0].name, &[16, 8], Dtype::BF16)
    };
    assert_eq!(with(&zeros(0), &zeros(0x8000)).unwrap(), [""; 0]);
}

#[test]
fn the_head_of_a_tied_model_may_stand_for_its_embedding() {
    let model = model(true);
    let rename = |name: &str| name.replace("model.embed_tokens.weight", HEAD);
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = tensors_of(&model, Dtype::BF16);
    tensors[0].name = rename(&tensors[0].name);
    save(&dir.path().join(SINGLE), &tensors);
    let (name, values) = load(dir.path(), &model).unwrap().remove(0);
    assert!(values.iter().enumerate().all(|(e, &found)| found == value(&name, e)), "{name}");
    let notes = opened(dir.path(), &model).unwrap().notes().to_vec();
    assert_eq!(notes, ["lm_head.weight is read as model.embed_tokens.weight, since config.json ties them"]);
}

#[test]
fn missing_tensors_are_counted_and_explained() {
    let model = model(false);
    let change = |edit: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = tensors_of(&model, Dtype::BF16);
        edit(&mut tensors);
        refusal(&tensors, &model).to_string()
    };
    let head = change(&|tensors| tensors.retain(|t| t.name != HEAD));
    assert!(head.contains("lm_head.weight is missing") && head.contains("tie_word_embeddings"), "{head}");
    let fused = change(&|tensors| {
        tensors.retain(|t| !t.name.contains("gate_proj") && !t.name.contains("up_proj"));
        tensors.push(tensor("model.layers.0.mlp.gate_up_proj.weight", &[24, 8], Dtype::BF16));
    });
    assert!(
        fused.contains(
            "4 of the model's 21 tensors are missing from the weights, e.g. model.layers.0.mlp.gate_proj.weight; \
             they have model.layers.0.mlp.gate_up_proj.weight"
        ),
        "{fused}"
    );
    let fewer = change(&|tensors| tensors.retain(|t| !t.name.contains("layers.1.")));
    assert!(fewer.contains("have 1 layer, but num_hidden_layers of config.json is 2"), "{fewer}");
    let more =
        change(&|tensors| tensors.push(tensor("model.layers.2.mlp.up_proj.weight", &[12, 8], Dtype::BF16)));
    assert!(more.contains("have 3 layers, but num_hidden_layers of config.json is 2"), "{more}");
}

#[test]
fn unmerged_and_quantized_weights_are_refused_with_the_remedy() {
    let model = model(false);
    let with = |name: &str, dtype| {
        let mut tensors = tensors_of(&model, Dtype::BF16);
        let bytes = vec![0; 64 * dtype_bytes(dtype)];
        tensors.push(Tensor { name: name.to_owned(), shape: vec![8, 8], dtype, bytes });
        refusal(&tensors, &model)
    };
    for name in [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight",
        "base_model.model.lm_head.modules_to_save.default.weight",
    ] {
        let error = with(name, Dtype::F32);
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains(name) && error.message().contains("merge_and_unload"), "{error}");
    }
    for name in
        ["qweight", "weight_packed", "scales", "weight_scale_inv", "weight.quant_state.bitsandbytes__nf4"]
    {
        let name = format!("model.layers.0.self_attn.q_proj.{name}");
        let error = with(&name, Dtype::I32);
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains(&name) && error.message().contains("dequantize()"), "{error}");
    }
    for dtype in [Dtype::U8, Dtype::I8, Dtype::F8_E4M3] {
        let mut tensors = tensors_of(&model, Dtype::BF16);
        tensors[2] = Tensor { name: tensors[2].name.clone(), shape: vec![8, 8], dtype, bytes: vec![0; 64] };
        let error = refusal(&tensors, &model);
        assert!(error.message().contains(&format!("has dtype {dtype:?}")), "{error}");
        assert!(error.message().contains("dequantize()"), "{error}");
    }
}

fn dtype_bytes(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// A complete set is read; of an incomplete one, the missing files are listed.
#[test]
fn shards_without_an_index_are_read_if_all_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(false);
    let mut tensors = tensors_of(&model, Dtype::BF16);
    let shard = |number: usize, count: usize| format!("model-{number:05}-of-{count:05}.safetensors");
    for number in (1..=3).rev() {
        save(&dir.path().join(shard(number, 3)), &tensors.split_off((number - 1) * 7));
    }
    assert_eq!(load(dir.path(), &model).unwrap().len(), 21);
    let notes = opened(dir.path(), &model).unwrap().notes().to_vec();
    assert_eq!(
        notes,
        ["model.safetensors.index.json is missing; the complete set of 3 weight files is read"]
    );
    let one = tempfile::tempdir().unwrap();
    save(&one.path().join(shard(1, 1)), &tensors_of(&model, Dtype::BF16));
    assert_eq!(load(one.path(), &model).unwrap().len(), 21);

    let refused = |words: &str| {
        let error = load(dir.path(), &model).unwrap_err();
        assert_eq!(error.status(), Status::NotFound);
        assert!(error.message().contains(words), "{error}");
    };
    std::fs::remove_file(dir.path().join(shard(2, 3))).unwrap();
    refused(
        "has no model.safetensors.index.json, and 1 of 3 weight files are missing: model-00002-of-00003.safetensors",
    );
    save(&dir.path().join(shard(2, 4)), &[]);
    refused("has weight files of several sets");
}

#[test]
fn an_adapter_next_to_weights_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(true);
    save(&dir.path().join(SINGLE), &tensors_of(&model, Dtype::BF16));
    std::fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    let notes = opened(dir.path(), &model).unwrap().notes().to_vec();
    assert_eq!(
        notes,
        [
            "adapter_config.json describes an adapter, which is not applied: only the folder's own weights are read"
        ]
    );
}

/// Loads a tensor larger than a slice, without and with a value after its first slice that is not
/// finite.
#[test]
fn tensors_of_several_slices_are_loaded_completely() {
    let dims = Dims { c: 64, h: 2, g: 1, d: 4, f: 12, v: 40_000, l: 1 };
    let model = ModelConfig { tied: true, positions_max: 64, ..ModelConfig::llama(dims) };
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = tensors_of(&model, Dtype::F32);
    save(&dir.path().join(SINGLE), &tensors);
    for (name, values) in load(dir.path(), &model).unwrap() {
        assert!(values.iter().enumerate().all(|(element, &found)| found == value(&name, element)), "{name}");
    }
    let at = 2_500_123;
    tensors[0].bytes[4 * at..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let error = refusal(&tensors, &model).to_string();
    assert!(error.contains("element 2500123 of model.embed_tokens.weight is inf"), "{error}");
}
