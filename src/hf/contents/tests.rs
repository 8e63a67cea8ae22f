use super::*;
use crate::base::Dims;
use crate::hf::{FAMILIES, FolderConfig, Weights};
use crate::model::{Layout, ModelConfig};

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";

/// Makes a folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// The error of opening the folder's config, and that of opening its weights.
fn errors(folder: &Path) -> [Error; 2] {
    let model = ModelConfig::llama(Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 2 });
    [
        FolderConfig::open(folder).unwrap_err(),
        Weights::open(folder, &FAMILIES[0], &Layout::new(&model)).unwrap_err(),
    ]
}

#[test]
fn folders_of_other_formats_are_called_by_their_names() {
    let adapter = r#"{"base_model_name_or_path": "org/base", "peft_type": "LORA"}"#;
    for (file, text, words) in [
        ("adapter_config.json", adapter, ["is an adapter (LoRA) of org/base", "merge_and_unload()"]),
        ("adapter_config.json", "{}", ["of a model that is not named", "merge_and_unload()"]),
        ("adapter_model.safetensors", "", ["an adapter (LoRA), not a model", "merge_and_unload()"]),
        ("model-q8.gguf", "GGUF", ["has model-q8.gguf: GGUF", "gguf_file"]),
        ("m.GGUF", "GGUF", ["has m.GGUF: GGUF", "gguf_file"]),
        ("consolidated.safetensors", "", ["Mistral's own format", "convert_mistral_weights_to_hf.py"]),
        ("consolidated-00001-of-00002.safetensors", "", ["Mistral's own format", "model*.safetensors"]),
        ("consolidated.00.pth", "", ["Meta's own format", "convert_llama_weights_to_hf.py"]),
        ("weights.npz", "", ["MLX", "folder for transformers"]),
        ("weights.00.safetensors", "", ["MLX", "folder for transformers"]),
        ("zero_to_fp32.py", "", ["DeepSpeed", "has zero_to_fp32.py"]),
        ("__0_0.distcp", "", ["FSDP", "accelerate merge-weights"]),
        ("pytorch_model_fsdp_0/x", "", ["FSDP", "accelerate merge-weights"]),
        ("model_index.json", "{}", ["diffusers", "language model"]),
        ("model.onnx", "", ["ONNX", "folder for transformers"]),
        ("lit_model.pth", "", ["LitGPT", "convert_from_litgpt"]),
        ("model.nemo", "", ["NeMo", "scripts"]),
    ] {
        let dir = folder(&[(file, text)]);
        for error in errors(dir.path()) {
            assert_eq!(error.status(), Status::Unsupported, "{error}");
            assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
        }
    }
}

#[test]
fn weight_files_of_other_formats_are_named_with_the_remedy() {
    for (file, remedy) in [
        ("pytorch_model.bin", "save_pretrained"),
        ("pytorch_model-00001-of-00002.bin", "save_pretrained"),
        ("pytorch_model.bin.index.json", "save_pretrained"),
        ("tf_model.h5", "save_pretrained"),
        ("flax_model.msgpack", "save_pretrained"),
        ("model.pth", "save_pretrained"),
        ("last.ckpt", "save_pretrained"),
        ("model.fp16.safetensors", "rename it"),
        ("llama.safetensors", "rename it"),
        ("weights-2-of-3.safetensors", "one file of a set"),
    ] {
        let [config, weights] = errors(folder(&[(file, "")]).path());
        let words = format!("has no config.json (it has {file}): copy the config.json of these weights");
        assert!(config.message().contains(&words) && config.status() == Status::NotFound, "{config}");
        assert_eq!(weights.status(), Status::Unsupported);
        assert!(weights.message().contains(&format!("has its weights in {file}, not in model.safetensors")));
        assert!(weights.message().contains(remedy), "{weights}");
    }
    let [_, none] = errors(folder(&[("optimizer.pt", ""), ("rng_state.pth", "")]).path());
    assert!(none.message().contains("has neither model.safetensors nor"), "{none}");
}

#[test]
fn folders_that_are_not_a_model_are_called_so() {
    for (files, words) in [
        (&[][..], "has no config.json or other file of a model: give the folder with config.json"),
        (&["notes.md"], "has no config.json or other file of a model"),
        (&["tokenizer.json", "tokenizer_config.json"], "(it has tokenizer.json): it has a tokenizer alone"),
        (&["a.jsonl", "b.jsonl.gz"], "(it has a.jsonl): it looks like data"),
        (&["train/a.parquet", "c.csv"], "(it has c.csv): it looks like data"),
        (&["model-00002-of-00003.safetensors"], "copy the config.json of these weights"),
    ] {
        let named: Vec<_> = files.iter().map(|file| (*file, "")).collect();
        let error = FolderConfig::open(folder(&named).path()).unwrap_err();
        assert_eq!(error.status(), Status::NotFound);
        assert!(error.message().contains(words), "{error}");
    }
    let error = FolderConfig::open(folder(&[("original/consolidated.00.pth", "")]).path()).unwrap_err();
    assert!(error.message().contains("original has consolidated.00.pth: Meta's own format"), "{error}");
}

#[test]
fn weights_of_other_formats_under_the_name_of_safetensors_are_refused() {
    for (bytes, words) in [
        (&b"GGUF\x03\0\0\0\0\0\0\0"[..], "is GGUF, the format of llama.cpp"),
        (b"PK\x03\x04\0\0\0\0\0\0\0\0", "is a file of PyTorch"),
        (b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20", "is a file of PyTorch"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
    ] {
        let dir = folder(&[]);
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let [_, error] = errors(dir.path());
        assert!(error.message().contains(&format!("model.safetensors {words}")), "{error}");
    }
}

#[test]
fn git_lfs_pointers_are_called_so() {
    for file in ["config.json", "model.safetensors", "model.safetensors.index.json"] {
        let error = errors(folder(&[(file, POINTER)]).path())
            .into_iter()
            .find(|error| error.message().contains("LFS"));
        let error = error.expect(file);
        assert_eq!(error.status(), Status::BadFormat);
        assert!(error.message().contains(&format!("{file} is a Git LFS pointer")), "{error}");
    }
    let tokenizer = folder(&[("tokenizer.json", POINTER)]);
    let error = crate::hf::Companions::read(tokenizer.path()).unwrap_err();
    assert!(error.message().contains("tokenizer.json is a Git LFS pointer"), "{error}");
}

#[test]
fn folders_above_a_model_name_it() {
    let snapshot = "snapshots/0a1b/config.json";
    let cached = format!("{}/{snapshot}", ["models", "org", "name"].join("--"));
    for (files, words) in [
        (&["model/config.json"][..], "the model is in "),
        (
            &["checkpoint-500/config.json", "checkpoint-1000/config.json", "runs/x"],
            "2 folders below have one",
        ),
        (&[snapshot, "refs/main", "blobs/0"], "the model is in "),
        (&[&cached], "the model is in "),
        (&["runs/final/config.json"], "the model is in "),
    ] {
        let named: Vec<_> = files.iter().map(|file| (*file, "{}")).collect();
        let dir = folder(&named);
        let error = FolderConfig::open(dir.path()).unwrap_err();
        assert_eq!(error.status(), Status::NotFound);
        let model = files.iter().rfind(|file| file.ends_with("config.json")).unwrap();
        let model = dir.path().join(model.trim_end_matches("/config.json"));
        assert!(error.message().contains("has no config.json") && error.message().contains(words), "{error}");
        assert!(error.message().contains(model.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_pattern_matches_in_order() {
    for (name, pattern, expected) in [
        ("a.gguf", "*.gguf", true),
        ("a.gguf.txt", "*.gguf", false),
        ("pytorch_model.bin", "pytorch_model*.bin*", true),
        ("pytorch_model.bin.index.json", "pytorch_model*.bin*", true),
        ("my_pytorch_model.bin", "pytorch_model*.bin*", false),
        ("ünï.ckpt", "*.ckpt", true),
        ("model", "model", true),
        ("models", "model", false),
    ] {
        assert_eq!(matches(name, pattern), expected, "{name} {pattern}");
    }
}

#[test]
fn templates_that_an_export_does_not_have_are_noted() {
    let dir = folder(&[("additional_chat_templates/tool_use.jinja", "")]);
    assert!(note_of_templates(dir.path()).unwrap().contains("not in exports"));
    assert_eq!(note_of_templates(folder(&[]).path()), None);
}
