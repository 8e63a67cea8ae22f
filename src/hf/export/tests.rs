use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::*;
use crate::base::{Dims, master, unwatched};
use crate::hf::{SINGLE, Weights, trainer_of};
use crate::host::start_scoped_thread;
use crate::model::ModelConfig;

fn model() -> FolderConfig {
    let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 1 };
    FolderConfig::of(ModelConfig { tied: true, positions_max: 64, ..ModelConfig::llama(dims) }).unwrap()
}

/// Opens a trainer whose master weights increase from `first`, in each tensor.
fn counting(config: &FolderConfig, first: f32) -> Trainer {
    let mut trainer = trainer_of(&config.model);
    let tensors: Vec<_> =
        trainer.layout().tensors().map(|(_, tensor)| (tensor.name.clone(), tensor.elements())).collect();
    for (name, elements) in tensors {
        let values: Vec<f32> = (0..elements).map(|element| first + element as f32 / 3.0).collect();
        trainer.write_tensor(&name, &values).unwrap();
    }
    trainer
}

fn export_counting(folder: &Path, first: f32) -> Result<()> {
    let config = model();
    let mut trainer = counting(&config, first);
    let target = ExportTarget::check(folder, export_bytes(trainer.layout(), DType::F32))?;
    export(&target, &config, &mut trainer, DType::F32, SHARD_BYTES, &unwatched)
}

/// Returns the sorted names in a folder; none if the folder does not exist.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_file_equals_that_of_the_safetensors_library() {
    let (config, dir) = (model(), tempfile::tempdir().unwrap());
    let mut trainer = counting(&config, 1.0);
    for (dtype, theirs) in [(DType::F32, Dtype::F32), (DType::Bf16, Dtype::BF16)] {
        let target = ExportTarget::check(&dir.path().join(dtype.name()), 0).unwrap();
        export(&target, &config, &mut trainer, dtype, SHARD_BYTES, &unwatched).unwrap();
        let layout = trainer.layout().clone();
        let mut tensors = Vec::new();
        for (_, tensor) in layout.tensors() {
            let mut values = vec![0.0; tensor.elements()];
            trainer.read_tensor(&tensor.name, &mut values).unwrap();
            let bytes: Vec<u8> = match dtype {
                DType::F32 => values.into_iter().flat_map(f32::to_le_bytes).collect(),
                DType::Bf16 => values.into_iter().flat_map(|v| master::round(v).to_le_bytes()).collect(),
            };
            tensors.push((tensor, bytes));
        }
        let views = tensors.iter().map(|(tensor, bytes)| {
            (tensor.name.as_str(), TensorView::new(theirs, tensor.shape.clone(), bytes).unwrap())
        });
        let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
        let ours = fs::read(target.folder().join(SINGLE)).unwrap();
        assert!(ours == safetensors::serialize(views, Some(metadata)).unwrap(), "{dtype}");
    }
}

#[test]
fn a_large_model_is_cut_into_files() {
    let (config, dir) = (model(), tempfile::tempdir().unwrap());
    let mut trainer = counting(&config, 1.0);
    let layout = trainer.layout().clone();
    let elements = |name: &str| layout.find(name).unwrap().1.elements() as u64;
    let largest = layout.tensors().map(|(_, tensor)| tensor.elements() as u64).max().unwrap();
    for limit in [1, 4 * largest, 4 * largest + 256] {
        let target = ExportTarget::check(&dir.path().join(limit.to_string()), 0).unwrap();
        export(&target, &config, &mut trainer, DType::F32, limit, &unwatched).unwrap();
        let text = fs::read_to_string(target.folder().join(INDEX)).unwrap();
        let index: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(index["metadata"]["total_size"], 4 * layout.parameters());
        let map = index["weight_map"].as_object().unwrap();
        assert_eq!(map.len(), layout.tensors().count());
        let mut sizes = std::collections::BTreeMap::<&str, Vec<u64>>::new();
        for (name, file) in map {
            sizes.entry(file.as_str().unwrap()).or_default().push(4 * elements(name));
        }
        let count = sizes.len();
        for (number, (file, sizes)) in sizes.iter().enumerate() {
            assert_eq!(*file, format!("model-{:05}-of-{count:05}.safetensors", number + 1));
            assert!(sizes.len() == 1 || sizes.iter().sum::<u64>() <= limit, "{file}: {sizes:?}");
        }
        assert!(count > 1 && (limit > 1 || count == layout.tensors().count()), "{count} files");
        assert!(!target.folder().join(SINGLE).exists());

        let mut again = trainer_of(&config.model);
        Weights::open(target.folder(), config.family, &layout).unwrap().load(&mut again, &unwatched).unwrap();
        for (_, tensor) in layout.tensors() {
            let [mut ours, mut theirs] = [vec![0.0; tensor.elements()], vec![0.0; tensor.elements()]];
            trainer.read_tensor(&tensor.name, &mut ours).unwrap();
            again.read_tensor(&tensor.name, &mut theirs).unwrap();
            assert_eq!(ours, theirs, "{}", tensor.name);
        }
    }
}

#[test]
fn progress_counts_every_byte_once_and_its_error_ends_the_export() {
    let (config, dir) = (model(), tempfile::tempdir().unwrap());
    let mut trainer = counting(&config, 1.0);
    let target = ExportTarget::check(&dir.path().join("out"), 0).unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    let watch = |done, total| {
        seen.lock().unwrap().push((done, total));
        Ok(())
    };
    export(&target, &config, &mut trainer, DType::Bf16, SHARD_BYTES, &watch).unwrap();
    let total = export_bytes(trainer.layout(), DType::Bf16);
    let mut seen = seen.into_inner().unwrap();
    seen.sort();
    assert!(seen.iter().all(|&(_, of)| of == total) && seen.last() == Some(&(total, total)), "{seen:?}");
    assert_eq!(seen.len(), trainer.layout().tensors().count());

    let stopped = |_, _| Err(Error::new(Status::InvalidState, "stopped"));
    let weights = Weights::open(target.folder(), config.family, trainer.layout()).unwrap();
    assert_eq!(weights.load(&mut trainer, &stopped).unwrap_err().message(), "stopped");
}

#[test]
fn companion_files_are_exported() {
    let dir = tempfile::tempdir().unwrap();
    let [source, out] = ["source", "out"].map(|name| dir.path().join(name));
    export_counting(&source, 1.0).unwrap();
    let files = [
        ("generation_config.json", "{\"temperature\": 0.6}"),
        ("tokenizer.json", "{\"tokens\": 1}"),
        ("chat_template.jinja", "{{ messages }}"),
        ("merges.txt", "a b"),
        ("README.md", "not carried"),
    ];
    for (name, content) in files {
        fs::write(source.join(name), content).unwrap();
    }
    let config = FolderConfig::open(&source).unwrap();
    let target = ExportTarget::check(&out, 0).unwrap();
    // The export does not need the source folder any more.
    fs::remove_dir_all(&source).unwrap();
    for _ in 0..2 {
        export(&target, &config, &mut counting(&config, 2.0), DType::Bf16, SHARD_BYTES, &unwatched).unwrap();
        for (name, content) in &files[..4] {
            assert_eq!(fs::read_to_string(out.join(name)).unwrap(), *content);
        }
    }
    assert!(!out.join("README.md").exists());
}

#[test]
fn an_export_is_complete_and_replaces_only_exports() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/b/out");
    export_counting(&folder, 1.0).unwrap();
    let all = ["config.json", "generation_config.json", "horizon.json", "model.safetensors"];
    assert_eq!(names(&folder), all);
    let first = fs::read(folder.join(SINGLE)).unwrap();
    export_counting(&folder, 2.0).unwrap();
    assert_eq!(names(&folder), all);
    assert_ne!(fs::read(folder.join(SINGLE)).unwrap(), first);
    assert_eq!(names(folder.parent().unwrap()), ["out"]);

    // An export with an additional file, and a folder that is not an export.
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let error = export_counting(&folder, 3.0).unwrap_err();
    assert!(error.message().contains("notes.txt"), "{error}");
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("config.json"), "{}").unwrap();
    assert!(export_counting(&foreign, 3.0).unwrap_err().message().contains("config.json"));
    assert_eq!(names(&foreign), ["config.json"]);

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    export_counting(&empty, 1.0).unwrap();
    assert_eq!(names(&empty), all);
}

#[test]
fn exports_to_one_folder_at_the_same_time_all_work() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let export = &|first: f32| (0..3).for_each(|_| export_counting(&folder, first).unwrap());
    std::thread::scope(|scope| {
        let started =
            [1.0, 2.0, 3.0].map(|first| start_scoped_thread(scope, "export", move || export(first)).unwrap());
        started.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(names(dir.path()), ["out"]);
    assert_eq!(names(&folder).len(), 4);
    let layout = counting(&model(), 0.0).layout().clone();
    Weights::open(&folder, model().family, &layout)
        .unwrap()
        .load(&mut trainer_of(&model().model), &unwatched)
        .unwrap();
}

#[test]
fn a_failed_export_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let config = model();
    let mut trainer = counting(&config, 1.0);
    let tensors = trainer.layout().tensors().count();
    let mut fail_at = |number: usize| {
        let target = ExportTarget::check(&folder, 0).unwrap();
        let calls = AtomicUsize::new(1);
        export(&target, &config, &mut trainer, DType::Bf16, SHARD_BYTES, &|_, _| {
            let fails = calls.fetch_add(1, Relaxed) == number;
            if fails { Err(Error::new(Status::DeviceFailed, "gone")) } else { Ok(()) }
        })
    };
    for number in 1..=tensors {
        assert_eq!(fail_at(number).unwrap_err().status(), Status::DeviceFailed);
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    }
    export_counting(&folder, 1.0).unwrap();
    let before = fs::read(folder.join(SINGLE)).unwrap();
    assert!(fail_at(tensors).is_err());
    assert_eq!(names(dir.path()), ["out"]);
    assert!(fs::read(folder.join(SINGLE)).unwrap() == before);
}

#[test]
fn weights_that_are_not_finite_are_not_exported() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let config = model();
    let mut trainer = counting(&config, 1.0);
    let export = |trainer: &mut Trainer, dtype| {
        let target = ExportTarget::check(&folder, 0).unwrap();
        export(&target, &config, trainer, dtype, SHARD_BYTES, &unwatched)
    };
    let refused = |trainer: &mut Trainer, dtype, words: &str| {
        let error = export(trainer, dtype).unwrap_err();
        assert_eq!(error.status(), Status::NonFinite);
        assert!(error.message().contains(words), "{error}");
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    };
    let tensors: Vec<_> = trainer.layout().tensors().map(|(_, tensor)| tensor.name.clone()).collect();
    let poison = |trainer: &mut Trainer, index, value| {
        let write = |slice: &mut TensorSlice| {
            slice.write(3, &[value]);
            Ok(())
        };
        trainer.each_slice(&[index], &write).unwrap();
    };
    poison(&mut trainer, 2, f32::NEG_INFINITY);
    poison(&mut trainer, 5, f32::NEG_INFINITY);
    // Files have their tensors in the order of names.
    let first = std::cmp::min(&tensors[2], &tensors[5]);
    for dtype in [DType::Bf16, DType::F32] {
        refused(&mut trainer, dtype, &format!("element 3 of {first} is -inf"));
    }
    // Finite, and infinite when rounded to bf16.
    let mut trainer = counting(&config, 1.0);
    poison(&mut trainer, 4, f32::MAX);
    refused(&mut trainer, DType::Bf16, &format!("element 3 of {} is inf", tensors[4]));
    export(&mut trainer, DType::F32).unwrap();
}

#[test]
fn unusable_targets_are_refused_before_the_export() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for bad in [file.clone(), file.join("out"), std::path::PathBuf::from("/")] {
        let error = ExportTarget::check(&bad, 0).unwrap_err();
        assert!(error.message().contains(bad.to_str().unwrap()), "{error}");
    }
    let error = ExportTarget::check(&dir.path().join("out"), u64::MAX).unwrap_err();
    assert_eq!(error.status(), Status::DiskFull);
    assert_eq!(names(dir.path()), ["file"]);
}
