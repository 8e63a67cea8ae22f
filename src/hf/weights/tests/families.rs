//! The tensors of each family: loaded, and exported as they were.

use super::*;
use crate::hf::Family;
use crate::hf::tensors::TensorNames;
use crate::model::Norms;

/// A family with other tensors.
fn family(tensors: &'static TensorNames) -> &'static Family {
    Box::leak(Box::new(Family { tensors, ..FAMILIES[0] }))
}

/// One layer of each scheme, by hand: the name in the files, and the tensors of the library that are
/// its rows.
const PHI3: [(&str, &[&str]); 6] = [
    ("input_layernorm", &["input_layernorm"]),
    ("self_attn.qkv_proj", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("self_attn.o_proj", &["self_attn.o_proj"]),
    ("post_attention_layernorm", &["post_attention_layernorm"]),
    ("mlp.gate_up_proj", &["mlp.gate_proj", "mlp.up_proj"]),
    ("mlp.down_proj", &["mlp.down_proj"]),
];
const GLM: [(&str, &[&str]); 8] = [
    ("input_layernorm", &["input_layernorm"]),
    ("self_attn.q_proj", &["self_attn.q_proj"]),
    ("self_attn.k_proj", &["self_attn.k_proj"]),
    ("self_attn.v_proj", &["self_attn.v_proj"]),
    ("self_attn.o_proj", &["self_attn.o_proj"]),
    ("post_attention_layernorm", &["post_attention_layernorm"]),
    ("mlp.gate_up_proj", &["mlp.gate_proj", "mlp.up_proj"]),
    ("mlp.down_proj", &["mlp.down_proj"]),
];
const GLM4: [(&str, &[&str]); 10] = [
    ("input_layernorm", &["input_layernorm"]),
    ("self_attn.q_proj", &["self_attn.q_proj"]),
    ("self_attn.k_proj", &["self_attn.k_proj"]),
    ("self_attn.v_proj", &["self_attn.v_proj"]),
    ("self_attn.o_proj", &["self_attn.o_proj"]),
    ("post_self_attn_layernorm", &["post_attention_layernorm"]),
    ("post_attention_layernorm", &["pre_feedforward_layernorm"]),
    ("mlp.gate_up_proj", &["mlp.gate_proj", "mlp.up_proj"]),
    ("mlp.down_proj", &["mlp.down_proj"]),
    ("post_mlp_layernorm", &["post_feedforward_layernorm"]),
];

/// A naming scheme: the tensors of a layer, the table under test, and a model.
type Scheme = (&'static [(&'static str, &'static [&'static str])], &'static TensorNames, ModelConfig);

fn schemes() -> [Scheme; 3] {
    let around = ModelConfig { norms: Norms::Around, ..model(false) };
    [
        (&PHI3, &TensorNames::PHI3, model(true)),
        (&GLM, &TensorNames::GLM, model(false)),
        (&GLM4, &TensorNames::GLM4, around),
    ]
}

/// Joins tensors by rows under another name.
fn joined(name: &str, parts: &[Tensor]) -> Tensor {
    let rows = parts.iter().map(|part| part.shape[0]).sum();
    let shape = [&[rows], &parts[0].shape[1..]].concat();
    let bytes = parts.iter().flat_map(|part| part.bytes.iter().copied()).collect();
    Tensor { name: name.to_owned(), shape, dtype: parts[0].dtype, bytes }
}

/// Returns the tensors of a scheme's files.
fn files_of((layer, _, model): &Scheme, dtype: Dtype) -> Vec<Tensor> {
    let mut tensors = tensors_of(model, dtype);
    let mut take = |name: &str| {
        let at = tensors.iter().position(|tensor| tensor.name == name).expect("a tensor of the library");
        tensors.remove(at)
    };
    let mut files = Vec::new();
    for number in 0..model.dims.l {
        for (name, parts) in *layer {
            let full = |end: &&str| format!("model.layers.{number}.{end}.weight");
            let parts: Vec<_> = parts.iter().map(|part| take(&full(part))).collect();
            files.push(joined(&full(name), &parts));
        }
    }
    files.extend(tensors);
    files
}

/// Saves tensors in one file, opens them, and returns the notes.
fn opened_as(tensors: &[Tensor], (_, names, model): &Scheme) -> Result<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join(SINGLE), tensors);
    let mut trainer = trainer_of(model);
    let weights = Weights::open(dir.path(), family(names), trainer.layout())?;
    weights.load(&mut trainer, &unwatched)?;
    for (_, tensor) in trainer.layout().clone().tensors() {
        let mut values = vec![f32::NAN; tensor.elements()];
        trainer.read_tensor(&tensor.name, &mut values).unwrap();
        let expected = (0..values.len()).map(|element| value(&tensor.name, element));
        assert!(values.iter().copied().eq(expected), "{}", tensor.name);
    }
    Ok(weights.notes().to_vec())
}

/// The tensors of a layer differ in the first values, so that two that are exchanged are noticed.
#[test]
fn tensors_of_every_family_are_read_as_those_of_the_library() {
    for scheme in schemes() {
        let tensors = tensors_of(&scheme.2, Dtype::F32);
        let layer = tensors.iter().filter(|tensor| names::layer(&tensor.name) == Some(1));
        let first: Vec<_> = layer.map(|tensor| value(&tensor.name, 0).to_bits()).collect();
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), first.len(), "{first:?}");
        for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
            assert_eq!(opened_as(&files_of(&scheme, dtype), &scheme).unwrap(), [""; 0]);
        }
    }
}

#[test]
fn names_of_every_family_may_have_wrappers() {
    for scheme in schemes() {
        let renamed = |rename: &dyn Fn(&str) -> String| {
            let mut tensors = files_of(&scheme, Dtype::BF16);
            tensors.iter_mut().for_each(|tensor| tensor.name = rename(&tensor.name));
            opened_as(&tensors, &scheme).unwrap()
        };
        let without = renamed(&|name| name.trim_start_matches("model.").to_owned());
        assert_eq!(without, ["names without `model.` are read as those with it"]);
        let wrapped = renamed(&|name| format!("_orig_mod.{name}"));
        assert_eq!(wrapped, ["`_orig_mod.` in names of tensors is left out (saved from torch.compile)"]);
    }
}

#[test]
fn tensors_that_a_family_stores_as_one_may_be_separate() {
    let scheme = &schemes()[0];
    let library = tensors_of(&scheme.2, Dtype::BF16);
    let note = "model.layers.0.self_attn.qkv_proj.weight is read from model.layers.0.self_attn.q_proj.weight, \
                model.layers.0.self_attn.k_proj.weight, model.layers.0.self_attn.v_proj.weight; exports have one \
                tensor";
    assert_eq!(opened_as(&library, scheme).unwrap(), [note]);
    let mut mixed = files_of(scheme, Dtype::BF16);
    mixed.retain(|tensor| tensor.name != "model.layers.1.mlp.gate_up_proj.weight");
    mixed.extend(library.into_iter().filter(|tensor| {
        ["gate_proj", "up_proj"].iter().any(|end| tensor.name == format!("model.layers.1.mlp.{end}.weight"))
    }));
    let note = "model.layers.1.mlp.gate_up_proj.weight is read from model.layers.1.mlp.gate_proj.weight, \
                model.layers.1.mlp.up_proj.weight; exports have one tensor";
    assert_eq!(opened_as(&mixed, scheme).unwrap(), [note]);
}

#[test]
fn stored_tensors_that_do_not_fit_the_model_are_named_as_in_the_files() {
    for scheme in schemes() {
        let change = |edit: &dyn Fn(&mut Vec<Tensor>)| {
            let mut tensors = files_of(&scheme, Dtype::BF16);
            edit(&mut tensors);
            opened_as(&tensors, &scheme).unwrap_err().to_string()
        };
        let name = "model.layers.1.mlp.gate_up_proj.weight";
        let index = |tensors: &[Tensor]| tensors.iter().position(|tensor| tensor.name == name).unwrap();
        let gone = change(&|tensors| tensors.retain(|tensor| tensor.name != name));
        assert!(gone.ends_with(&format!("tensor {name} is missing from the weights")), "{gone}");
        let half = change(&|tensors| {
            let at = index(tensors);
            tensors[at] = tensor("model.layers.1.mlp.gate_proj.weight", &[12, 8], Dtype::BF16);
        });
        let instead = "; they have model.layers.1.mlp.gate_proj.weight, which is not of the model";
        assert!(half.ends_with(&format!("{name} is missing from the weights{instead}")), "{half}");
        let shape = change(&|tensors| {
            let at = index(tensors);
            tensors[at] = tensor(name, &[12, 8], Dtype::BF16);
        });
        assert!(shape.contains(&format!("{name} has shape [12, 8]")) && shape.contains("[24, 8]"), "{shape}");
        let both = change(&|tensors| {
            tensors.push(tensor("model.layers.1.mlp.up_proj.weight", &[12, 8], Dtype::F32))
        });
        assert!(both.contains("model.layers.1.mlp.up_proj.weight is not a tensor of the model"), "{both}");
        // In the second of two parts, counted in the file's tensor.
        let nan = change(&|tensors| {
            let at = index(tensors);
            tensors[at].bytes[2 * 100..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
        });
        assert!(nan.contains(&format!("element 100 of {name} is NaN")), "{nan}");
    }
    // A tensor of the library that GLM-4's files name otherwise.
    let scheme = &schemes()[2];
    let mut tensors = files_of(scheme, Dtype::BF16);
    let layer = |end: &str| format!("model.layers.0.{end}.weight");
    let at = tensors.iter().position(|tensor| tensor.name == layer("post_mlp_layernorm")).unwrap();
    tensors[at].name = layer("post_feedforward_layernorm");
    let error = opened_as(&tensors, scheme).unwrap_err().to_string();
    let message = format!(
        "tensor {} is missing from the weights; they have {}, which is not of the model",
        layer("post_mlp_layernorm"),
        layer("post_feedforward_layernorm")
    );
    assert!(error.ends_with(&message), "{error}");
}

/// Returns the bytes of all tensors of a folder, by name.
fn data(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = sources(folder).unwrap().paths.into_iter().map(|path| WeightFile::open(path).unwrap());
    files
        .flat_map(|file| {
            let whole = std::fs::read(&file.path).unwrap();
            let range = |name: &String| file.header.tensor(name).unwrap().0;
            let bytes = |name: &String| whole[range(name).start as usize..range(name).end as usize].to_vec();
            file.header.names().map(|name| (name.clone(), bytes(&name))).collect::<Vec<_>>()
        })
        .collect()
}

/// Loading bf16 or f32 weights and exporting them in the same dtype gives the same bytes in every
/// tensor, in one or several files.
#[test]
fn an_export_has_the_bytes_of_the_loaded_weights() {
    let dir = tempfile::tempdir().unwrap();
    let llama = |tied| -> Scheme { (&[], &TensorNames::LLAMA, model(tied)) };
    let all = [llama(false), llama(true)].into_iter().chain(schemes());
    for (number, scheme) in all.enumerate() {
        let (_, names, model) = &scheme;
        let config = config_of(&scheme);
        for (stored, dtype) in [(Dtype::BF16, DType::Bf16), (Dtype::F32, DType::F32)] {
            for shard_bytes in [SHARD_BYTES, 1000] {
                let mut trainer = trainer_of(model);
                let name = |role: &str| dir.path().join(format!("{role}-{number}-{dtype}-{shard_bytes}"));
                let (from, to) = (name("from"), name("to"));
                std::fs::create_dir(&from).unwrap();
                let mut tensors = files_of(&scheme, stored);
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
                let weights = Weights::open(&from, config.family, trainer.layout()).unwrap();
                weights.load(&mut trainer, &unwatched).unwrap();
                let target = ExportTarget::check(&to, 0).unwrap();
                export(&target, &config, &mut trainer, dtype, shard_bytes, &unwatched).unwrap();
                assert_eq!(to.join(INDEX).exists(), shard_bytes == 1000);
                assert!(data(&from) == data(&to), "{}", to.display());
                if **names == TensorNames::LLAMA {
                    assert_eq!(FolderConfig::open(&to).unwrap().model, *model);
                }
            }
        }
    }
}

fn config_of((_, names, model): &Scheme) -> FolderConfig {
    let llama = FolderConfig::of(super::model(false)).unwrap();
    FolderConfig { model: model.clone(), family: family(names), ..llama }
}

/// The shapes in an export are those of the files, its index has every tensor, and no shard exceeds
/// the limit.
#[test]
fn shards_have_the_tensors_of_the_family() {
    for scheme in schemes() {
        let dir = tempfile::tempdir().unwrap();
        let config = config_of(&scheme);
        let mut trainer = trainer_of(&scheme.2);
        let target = ExportTarget::check(&dir.path().join("out"), 0).unwrap();
        export(&target, &config, &mut trainer, DType::F32, 1000, &unwatched).unwrap();
        let index = Index::parse(&std::fs::read(target.folder().join(INDEX)).unwrap()).unwrap();
        let expected = files_of(&scheme, Dtype::F32);
        let names: BTreeSet<_> = expected.iter().map(|tensor| &tensor.name).collect();
        assert_eq!(index.names().collect::<BTreeSet<_>>(), names);
        for path in sources(target.folder()).unwrap().paths {
            let file = WeightFile::open(path).unwrap();
            let held: Vec<_> = file.header.names().collect();
            let bytes = |name: &String| length(&file.header.tensor(name).unwrap().0);
            assert!(held.len() == 1 || held.iter().map(bytes).sum::<u64>() <= 1000, "{held:?}");
            for name in &held {
                let tensor = expected.iter().find(|tensor| tensor.name == *name).unwrap();
                assert_eq!(file.header.tensor(name).unwrap().2, tensor.shape, "{name}");
            }
        }
    }
}

#[test]
fn a_changed_tensor_changes_only_its_rows_in_an_export() {
    let dir = tempfile::tempdir().unwrap();
    let scheme = &schemes()[0];
    let config = config_of(scheme);
    let mut trainer = trainer_of(&scheme.2);
    let exported = |name: &str, trainer: &mut Trainer| {
        let target = ExportTarget::check(&dir.path().join(name), 0).unwrap();
        export(&target, &config, trainer, DType::F32, SHARD_BYTES, &unwatched).unwrap();
        data(target.folder())
    };
    let mut before = exported("before", &mut trainer);
    trainer.write_tensor("model.layers.1.self_attn.k_proj.weight", &[1.5; 32]).unwrap();
    let after = exported("after", &mut trainer);
    let qkv = before.get_mut("model.layers.1.self_attn.qkv_proj.weight").unwrap();
    for value in qkv[4 * 64..][..4 * 32].as_chunks_mut().0 {
        *value = 1.5f32.to_le_bytes();
    }
    assert!(before == after);
}
