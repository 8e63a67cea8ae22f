use safetensors::tensor::TensorView;

use super::*;
use crate::base::{DType, Dims};
use crate::model::ModelConfig;

fn layout(tied: bool) -> Layout {
    let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 2 };
    Layout::new(&ModelConfig { tied, positions_max: 64, ..ModelConfig::llama(dims) })
}

/// Exact in bf16, f16 and f32 alike.
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

fn whole(layout: &Layout, dtype: Dtype) -> Vec<Tensor> {
    layout.tensors().map(|(_, t)| tensor(&t.name, &t.shape, dtype)).collect()
}

fn save(path: &Path, tensors: &[Tensor]) {
    let views = tensors
        .iter()
        .map(|t| (t.name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn load(folder: &Path, layout: &Layout) -> Result<Vec<(String, Vec<f32>)>> {
    let mut loaded = Vec::new();
    Weights::open(folder, layout)?.load(|name, values| {
        loaded.push((name.to_owned(), values.to_vec()));
        Ok(())
    })?;
    Ok(loaded)
}

fn refusal(tensors: &[Tensor], layout: &Layout) -> Error {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join(SINGLE), tensors);
    load(dir.path(), layout).unwrap_err()
}

#[test]
fn every_dtype_is_widened_exactly() {
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        for tied in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let layout = layout(tied);
            save(&dir.path().join(SINGLE), &whole(&layout, dtype));
            let loaded = load(dir.path(), &layout).unwrap();
            assert_eq!(loaded.len(), layout.tensors().count());
            for ((name, values), (_, tensor)) in loaded.iter().zip(layout.tensors()) {
                assert_eq!(*name, tensor.name);
                assert_eq!(values.len(), tensor.elements());
                assert!(values.iter().enumerate().all(|(e, &v)| v == value(name, e)), "{dtype:?} {name}");
            }
        }
    }
}

#[test]
fn shards_are_found_through_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(false);
    let mut first = whole(&layout, Dtype::BF16);
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
    assert_eq!(load(dir.path(), &layout).unwrap().len(), first.len() + second.len());

    for (name, file, status, word) in [
        ("model.norm.weight", "../b.safetensors", Status::BadFormat, "../b.safetensors"),
        ("model.norm.weight", "/etc/passwd", Status::BadFormat, "/etc/passwd"),
        ("model.norm.weight", "c.safetensors", Status::NotFound, "c.safetensors"),
        ("model.extra.weight", "a.safetensors", Status::BadFormat, "model.extra.weight"),
    ] {
        let mut wrong = map.clone();
        wrong.insert(name.to_owned(), file.into());
        index(&wrong);
        let error = load(dir.path(), &layout).unwrap_err();
        assert_eq!(error.status(), status, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
    std::fs::write(dir.path().join(INDEX), "{\"weight_map\": 3}").unwrap();
    assert_eq!(load(dir.path(), &layout).unwrap_err().status(), Status::BadFormat);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(true);
    let path = dir.path().join(SINGLE);
    save(&path, &whole(&layout, Dtype::BF16));
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 4, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = load(dir.path(), &layout).unwrap_err();
        assert_eq!(error.status(), Status::BadFormat, "{length} bytes: {error}");
        assert!(error.message().contains(SINGLE) && error.message().contains(&length.to_string()), "{error}");
    }
    std::fs::write(&path, [&bytes[..], b"more"].concat()).unwrap();
    assert_eq!(load(dir.path(), &layout).unwrap_err().status(), Status::BadFormat);
}

#[test]
fn tensors_that_do_not_fit_the_model_are_named() {
    let layout = layout(false);
    let change = |edit: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = whole(&layout, Dtype::BF16);
        edit(&mut tensors);
        refusal(&tensors, &layout).to_string()
    };
    let gone = change(&|tensors| tensors.retain(|t| t.name != "model.layers.1.mlp.up_proj.weight"));
    assert!(gone.contains("model.layers.1.mlp.up_proj.weight is missing"), "{gone}");
    let extra =
        change(&|tensors| tensors.push(tensor("model.layers.0.self_attn.q_proj.bias", &[8], Dtype::F32)));
    assert!(extra.contains("q_proj.bias is no tensor of the model"), "{extra}");
    let shape = change(&|tensors| tensors[2] = tensor(&tensors[2].name, &[4, 16], Dtype::F32));
    assert!(shape.contains("[4, 16]") && shape.contains("[8, 8]"), "{shape}");
    let dtype = change(&|tensors| tensors[2] = tensor(&tensors[2].name, &[8, 8], Dtype::F64));
    assert!(dtype.contains("F64"), "{dtype}");
    let nan = change(&|tensors| tensors[3].bytes[4..6].copy_from_slice(&0x7fc0u16.to_le_bytes()));
    assert!(nan.contains("element 2 of model.layers.0.self_attn.k_proj.weight is NaN"), "{nan}");
}

#[test]
fn what_old_folders_carry_along_may_stay() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(true);
    let mut tensors = whole(&layout, Dtype::BF16);
    tensors.push(tensor("model.layers.0.self_attn.rotary_emb.inv_freq", &[2], Dtype::F32));
    let mut head = tensor("model.embed_tokens.weight", &[16, 8], Dtype::BF16);
    head.name = "lm_head.weight".to_owned();
    tensors.push(head);
    save(&dir.path().join(SINGLE), &tensors);
    assert_eq!(load(dir.path(), &layout).unwrap().len(), layout.tensors().count());
    tensors.last_mut().unwrap().bytes[0] ^= 1;
    assert!(refusal(&tensors, &layout).message().contains("lm_head.weight differs"));
}

#[test]
fn a_folder_without_safetensors_says_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let error = Weights::open(dir.path(), &layout(true)).unwrap_err();
    assert_eq!(error.status(), Status::NotFound);
    std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    let error = Weights::open(dir.path(), &layout(true)).unwrap_err();
    assert!(error.status() == Status::Unsupported && error.message().contains("pytorch_model.bin"));
}

#[test]
fn loading_undoes_exporting() {
    let dir = tempfile::tempdir().unwrap();
    let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 2 };
    let model = ModelConfig { positions_max: 64, ..ModelConfig::llama(dims) };
    let layout = Layout::new(&model);
    let config = crate::train::hf::FolderConfig::of(model).unwrap();
    for (dtype, name) in [(DType::Bf16, "bf16"), (DType::F32, "f32")] {
        let folder = dir.path().join(name);
        let target = crate::train::hf::ExportTarget::check(&folder, 0).unwrap();
        // Not exact in bf16: the exported value is the master rounded.
        let master = |name: &str, element: usize| value(name, element) * 1.001;
        crate::train::hf::export(&target, &config, &layout, dtype, |name, out| {
            out.iter_mut().enumerate().for_each(|(element, v)| *v = master(name, element));
            Ok(())
        })
        .unwrap();
        assert_eq!(crate::train::hf::FolderConfig::open(&folder).unwrap().model, config.model);
        for (name, values) in load(&folder, &layout).unwrap() {
            for (element, &found) in values.iter().enumerate() {
                let expected = match dtype {
                    DType::Bf16 => master::widen(master::round(master(&name, element))),
                    DType::F32 => master(&name, element),
                };
                assert_eq!(found.to_bits(), expected.to_bits(), "{name} {element}");
            }
        }
    }
}
