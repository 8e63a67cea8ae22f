use safetensors::tensor::TensorView;

use super::*;
use crate::base::{DType, Dims, master, unwatched};
use crate::hf::{ExportTarget, FolderConfig, SHARD_BYTES, SINGLE, export, trainer_of};
use crate::model::ModelConfig;

fn model(tied: bool) -> ModelConfig {
    let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 2 };
    ModelConfig { tied, positions_max: 64, ..ModelConfig::llama(dims) }
}

/// Returns values that are exact in bf16, f16 and f32.
fn value(name: &str, element: usize) -> f32 {
    ((element * 7 + name.len() * 3) % 64) as f32 / 8.0 - 4.0
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

/// Loads the weights into a trainer and returns all its tensors.
fn load(folder: &Path, model: &ModelConfig) -> Result<Vec<(String, Vec<f32>)>> {
    let weights = Weights::open(folder, &Layout::new(model))?;
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
        ("model.extra.weight", "a.safetensors", Status::BadFormat, "model.extra.weight"),
    ] {
        let mut wrong = map.clone();
        wrong.insert(name.to_owned(), file.into());
        index(&wrong);
        let error = load(dir.path(), &model).unwrap_err();
        assert_eq!(error.status(), status, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
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

/// The sizes in a header are checked against the length of the file.
#[test]
fn a_header_that_does_not_match_the_file_is_refused() {
    let file = |length: u64, json: &str| [&length.to_le_bytes()[..], json.as_bytes(), &[0; 16]].concat();
    let whole = |json: &str| file(json.len() as u64, json);
    let entry = |shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    assert!(Header::parse(&whole(&entry("[2,2]", "[0,16]"))).is_ok());
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
        let error =
            Header::parse(&whole(&entry(shape, offsets))).expect_err(&format!("{shape} at {offsets}"));
        assert_eq!(error.status(), Status::BadFormat, "{error}");
    }
    let json = entry("[2,2]", "[0,16]");
    for length in
        [0, 1, json.len() as u64 - 1, json.len() as u64 + 17, 1 << 40, 1 << 63, u64::MAX, u64::MAX - 7]
    {
        let error = Header::parse(&file(length, &json)).expect_err(&format!("a header of {length} bytes"));
        assert_eq!(error.status(), Status::BadFormat, "{error}");
    }
    let twice = format!(
        "{},{}",
        entry("[2,2]", "[0,16]").trim_end_matches('}').to_owned() + "}",
        &entry("[2,2]", "[0,16]")[1..]
    );
    assert!(
        Header::parse(&whole(&twice.replacen("\"a\"", "\"b\"", 1))).is_err(),
        "two tensors have the same bytes"
    );
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

#[test]
fn extra_tensors_of_old_folders_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(true);
    let mut tensors = tensors_of(&model, Dtype::BF16);
    tensors.push(tensor("model.layers.0.self_attn.rotary_emb.inv_freq", &[2], Dtype::F32));
    let mut head = tensor("model.embed_tokens.weight", &[16, 8], Dtype::BF16);
    head.name = "lm_head.weight".to_owned();
    tensors.push(head);
    save(&dir.path().join(SINGLE), &tensors);
    assert_eq!(load(dir.path(), &model).unwrap().len(), Layout::new(&model).tensors().count());
    tensors.last_mut().unwrap().bytes[0] ^= 1;
    assert!(refusal(&tensors, &model).message().contains("lm_head.weight differs"));
}

#[test]
fn an_error_names_weight_files_of_another_format() {
    let dir = tempfile::tempdir().unwrap();
    let error = Weights::open(dir.path(), &Layout::new(&model(true))).unwrap_err();
    assert_eq!(error.status(), Status::NotFound);
    std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    let error = Weights::open(dir.path(), &Layout::new(&model(true))).unwrap_err();
    assert!(error.status() == Status::Unsupported && error.message().contains("pytorch_model.bin"));
}

/// Returns the bytes of all tensors of a folder, by name.
fn data(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let (paths, _) = sources(folder).unwrap();
    let files = paths.into_iter().map(|path| WeightFile::open(path).unwrap());
    files
        .flat_map(|file| {
            let bytes = |name: &String| file.bytes[file.header.tensor(name).unwrap().0].to_vec();
            file.header.names().map(|name| (name.clone(), bytes(&name))).collect::<Vec<_>>()
        })
        .collect()
}

/// Loading bf16 or f32 weights and exporting them in the same dtype gives the same bytes in every
/// tensor, in one or several files.
#[test]
fn an_export_has_the_bytes_of_the_loaded_weights() {
    let dir = tempfile::tempdir().unwrap();
    for tied in [false, true] {
        let model = model(tied);
        let config = FolderConfig::of(model.clone()).unwrap();
        for (stored, dtype) in [(Dtype::BF16, DType::Bf16), (Dtype::F32, DType::F32)] {
            for shard_bytes in [SHARD_BYTES, 1000] {
                let mut trainer = trainer_of(&model);
                let name = |role: &str| dir.path().join(format!("{role}-{tied}-{dtype}-{shard_bytes}"));
                let (from, to) = (name("from"), name("to"));
                std::fs::create_dir(&from).unwrap();
                let mut tensors = tensors_of(&model, stored);
                if stored == Dtype::F32 {
                    // Arbitrary finite bits, including subnormals.
                    let mut bits = 0x8000_0001u32;
                    for four in tensors.iter_mut().flat_map(|tensor| tensor.bytes.chunks_exact_mut(4)) {
                        bits = bits.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                        let finite = if f32::from_bits(bits).is_finite() { bits } else { bits & 0x8000_ffff };
                        four.copy_from_slice(&finite.to_le_bytes());
                    }
                }
                save(&from.join(SINGLE), &tensors);
                Weights::open(&from, trainer.layout()).unwrap().load(&mut trainer, &unwatched).unwrap();
                let target = ExportTarget::check(&to, 0).unwrap();
                export(&target, &config, &mut trainer, dtype, shard_bytes, &unwatched).unwrap();
                assert!(data(&from) == data(&to), "{}", to.display());
                assert_eq!(FolderConfig::open(&to).unwrap().model, model);
            }
        }
    }
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
