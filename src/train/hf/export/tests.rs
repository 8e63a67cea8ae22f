use super::*;
use crate::base::Dims;
use crate::model::ModelConfig;

fn model() -> (FolderConfig, Layout) {
    let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 1 };
    let model = ModelConfig { tied: true, positions_max: 64, ..ModelConfig::llama(dims) };
    let layout = Layout::new(&model);
    (FolderConfig::of(model).unwrap(), layout)
}

fn export_ones(folder: &Path, value: f32) -> Result<()> {
    let (config, layout) = model();
    let target = ExportTarget::check(folder, export_bytes(&layout, DType::F32))?;
    export(&target, &config, &layout, DType::F32, |_, out| {
        out.fill(value);
        Ok(())
    })
}

/// Names in a folder, sorted; an empty list if there is none.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_header_is_what_the_library_writes() {
    let (_, layout) = model();
    let mut ours = Vec::new();
    let fill = |out: &mut [f32]| out.iter_mut().enumerate().for_each(|(e, v)| *v = e as f32);
    let result = write_weights(&mut ours, &layout, DType::F32, |_, out| {
        fill(out);
        Ok(())
    });
    assert!(result.is_ok());
    let tensors: Vec<_> = layout
        .tensors()
        .map(|(_, t)| {
            let mut values = vec![0.0; t.elements()];
            fill(&mut values);
            (t, values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
        })
        .collect();
    let views = tensors.iter().map(|(t, bytes)| {
        (t.name.as_str(), safetensors::tensor::TensorView::new(Dtype::F32, t.shape.clone(), bytes).unwrap())
    });
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    assert!(ours == safetensors::serialize(views, Some(metadata)).unwrap());
}

#[test]
fn an_export_is_whole_and_replaces_only_exports() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/b/out");
    export_ones(&folder, 1.0).unwrap();
    let all = ["config.json", "generation_config.json", "horizon.json", "model.safetensors"];
    assert_eq!(names(&folder), all);
    let first = fs::read(folder.join(WEIGHTS)).unwrap();
    export_ones(&folder, 2.0).unwrap();
    assert_eq!(names(&folder), all);
    assert_ne!(fs::read(folder.join(WEIGHTS)).unwrap(), first);
    assert_eq!(names(folder.parent().unwrap()), ["out"]);

    // A folder somebody put something into, and one that was never ours.
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let error = export_ones(&folder, 3.0).unwrap_err();
    assert!(error.message().contains("notes.txt"), "{error}");
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("config.json"), "{}").unwrap();
    assert!(export_ones(&foreign, 3.0).unwrap_err().message().contains("config.json"));
    assert_eq!(names(&foreign), ["config.json"]);

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    export_ones(&empty, 1.0).unwrap();
    assert_eq!(names(&empty), all);
}

#[test]
fn a_failed_export_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let (config, layout) = model();
    let fail_at = |number: usize| {
        let target = ExportTarget::check(&folder, 0).unwrap();
        let mut calls = 0;
        export(&target, &config, &layout, DType::Bf16, |_, _| {
            calls += 1;
            if calls == number { Err(Error::new(Status::DeviceFailed, "gone")) } else { Ok(()) }
        })
    };
    let tensors = layout.tensors().count();
    for number in 1..=tensors {
        assert_eq!(fail_at(number).unwrap_err().status(), Status::DeviceFailed);
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    }
    export_ones(&folder, 1.0).unwrap();
    let before = fs::read(folder.join(WEIGHTS)).unwrap();
    assert!(fail_at(tensors).is_err());
    assert_eq!(names(dir.path()), ["out"]);
    assert!(fs::read(folder.join(WEIGHTS)).unwrap() == before);
}

#[test]
fn targets_that_cannot_be_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for bad in [file.clone(), file.join("out"), PathBuf::from("/")] {
        let error = ExportTarget::check(&bad, 0).unwrap_err();
        assert!(error.message().contains(bad.to_str().unwrap()), "{error}");
    }
    let error = ExportTarget::check(&dir.path().join("out"), u64::MAX).unwrap_err();
    assert_eq!(error.status(), Status::DiskFull);
    assert_eq!(names(dir.path()), ["file"]);
}
