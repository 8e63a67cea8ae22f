//! Folders and files that are not a model, or not yet: each is called by its name, with what to do.

use std::fs;
use std::path::{Path, PathBuf};

use crate::base::{Error, Name, Result, Status, json, placeholder};
use crate::hf::family::unsupported;
use crate::hf::{CONFIG_BYTES_MAX, INDEX, SINGLE};
use crate::host::input;

/// Name of the file that describes an adapter of PEFT.
pub const ADAPTER: &str = "adapter_config.json";

/// Ways from another format to safetensors.
const SAVE: &str = "load it with AutoModelForCausalLM of transformers and save it with save_pretrained";
const LLAMA: &str = "take the model's folder for transformers, or convert this one with transformers' \
                     convert_llama_weights_to_hf.py";
const MISTRAL: &str = "download the model's files for transformers, too (config.json, model*.safetensors), or convert \
                       these with transformers' convert_mistral_weights_to_hf.py";
const GGUF: &str = "take the model's folder with safetensors, or load this one in transformers (from_pretrained with \
                    gguf_file) and save it with save_pretrained";
const ZERO: &str = "run that script with its option safe_serialization, and copy config.json and the tokenizer to \
                    the new folder";
const FSDP: &str = "merge it with `accelerate merge-weights`";
const OTHER: &str = "take the model's folder for transformers";

const MERGE: &str = "merge it first into its model, with merge_and_unload() of peft and then save_pretrained";

/// Files of other formats (`*` stands for any text, capitals count as small letters), the format's
/// name, and what to do.
const FORMATS: [(&str, &str, &str); 14] = [
    ("adapter_model*.safetensors", "an adapter (LoRA), not a model", MERGE),
    ("adapter_model*.bin", "an adapter (LoRA), not a model", MERGE),
    ("*.gguf", "GGUF, the format of llama.cpp", GGUF),
    ("consolidated*.safetensors", "Mistral's own format", MISTRAL),
    ("consolidated*.pth", "Meta's own format", LLAMA),
    ("weights.npz", "the format of MLX", OTHER),
    ("weights.*.safetensors", "the format of MLX", OTHER),
    ("zero_to_fp32.py", "a checkpoint of DeepSpeed", ZERO),
    ("*.distcp", "a checkpoint of FSDP", FSDP),
    ("pytorch_model_fsdp*", "a checkpoint of FSDP", FSDP),
    ("model_index.json", "a pipeline of diffusers", "take a language model"),
    ("*.onnx", "the format ONNX", OTHER),
    ("lit_model.pth", "the format of LitGPT", "convert it with `litgpt convert_from_litgpt`"),
    ("*.nemo", "the format of NeMo", "convert it with NeMo's scripts for Hugging Face"),
];

/// Files of weights next to a `config.json`, and what to do.
const WEIGHT_FILES: [(&str, &str); 7] = [
    ("pytorch_model*.bin*", SAVE),
    ("tf_model*.h5*", SAVE),
    ("flax_model*.msgpack*", SAVE),
    ("model*.pt*", SAVE),
    ("*.ckpt", SAVE),
    ("*-of-*.safetensors", "it is one file of a set; download them all, with model.safetensors.index.json"),
    ("*.safetensors", "rename it to model.safetensors if it has all weights"),
];

/// Files of a folder that is not a model, and what to do.
const OTHER_FILES: [(&str, &str); 9] = [
    ("tokenizer*", TOKENIZER),
    ("vocab.*", TOKENIZER),
    ("*.jsonl*", DATA),
    ("*.parquet", DATA),
    ("*.csv", DATA),
    ("*.tsv", DATA),
    ("*.txt", DATA),
    ("*.arrow", DATA),
    ("*.bin", DATA),
];
const TOKENIZER: &str = "it has a tokenizer alone; copy the model's config.json and model*.safetensors, too";
const DATA: &str = "it looks like data; give the folder of a model, and this one as data";

/// Names of the files and folders in a folder, sorted; none if it cannot be read.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// First bytes of a file of weights that show another format.
pub const HEAD_BYTES: u64 = 4096;

/// Refuses what takes the place of a file.
pub fn refuse_placeholder(path: &Path, bytes: &[u8]) -> Result<()> {
    match placeholder(bytes) {
        Some(what) => Err(Error::new(Status::BadFormat, format!("{} is {what}", path.display()))),
        None => Ok(()),
    }
}

/// Refuses weights of another format under the name of safetensors, by their first bytes.
pub fn refuse_weights(path: &Path, head: &[u8]) -> Result<()> {
    refuse_placeholder(path, head)?;
    let (format, remedy) = match head {
        [b'G', b'G', b'U', b'F', ..] => ("GGUF, the format of llama.cpp", GGUF),
        // A header of 640 bytes has a length that begins as a pickle; `{` follows it.
        [0x80, 2..=5, _, _, _, _, _, _, b'{', ..] => return Ok(()),
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => ("a file of PyTorch", SAVE),
        _ => return Ok(()),
    };
    Err(unsupported(format!("{} is {format}; {remedy}", path.display())))
}

/// A remark about the chat templates of a folder that exports and checkpoints do not have.
pub fn note_of_templates(folder: &Path) -> Option<String> {
    const NAME: &str = "additional_chat_templates";
    folder.join(NAME).is_dir().then(|| {
        format!("{NAME} is read, but not in exports and checkpoints: copy the folder into them for rows with tools")
    })
}

/// The error for a folder without `config.json`.
pub fn no_config(folder: &Path) -> Error {
    let within = || children(folder).iter().find_map(|child| another_format(child));
    another_format(folder).or_else(|| below(folder)).or_else(within).unwrap_or_else(|| {
        let found = |files: &[(&str, &'static str)]| {
            files.iter().find_map(|(pattern, remedy)| Some((first(folder, pattern)?, *remedy)))
        };
        let weights = || Some((found(&WEIGHT_FILES)?.0, "copy the config.json of these weights to it"));
        let what = match weights().or_else(|| found(&OTHER_FILES)) {
            Some((file, remedy)) => format!("(it has {file}): {remedy}"),
            None => {
                "or other file of a model: give the folder with config.json and model*.safetensors".into()
            }
        };
        Error::new(Status::NotFound, format!("{} has no config.json {what}", folder.display()))
    })
}

/// The error for a folder without safetensors of transformers.
pub fn no_weights(folder: &Path) -> Error {
    let legacy = || {
        let (file, remedy) = WEIGHT_FILES.iter().find_map(|(p, remedy)| Some((first(folder, p)?, remedy)))?;
        Some(unsupported(format!(
            "{} has its weights in {file}, not in {SINGLE}: {remedy}",
            folder.display()
        )))
    };
    another_format(folder).or_else(legacy).unwrap_or_else(|| {
        Error::new(
            Status::NotFound,
            format!(
                "{} has neither {SINGLE} nor {INDEX}; to start from random weights, use {}",
                folder.display(),
                Name::Fresh
            ),
        )
    })
}

/// The error for a folder of another format.
fn another_format(folder: &Path) -> Option<Error> {
    if let Ok(text) = input::read_whole(&folder.join(ADAPTER), CONFIG_BYTES_MAX) {
        let keys = json::value(&text).unwrap_or_default();
        let base = keys["base_model_name_or_path"].as_str().unwrap_or("a model that is not named");
        return Some(unsupported(format!(
            "{} is an adapter (LoRA) of {base}, not a model: {MERGE}",
            folder.display()
        )));
    }
    let (file, format, remedy) =
        FORMATS.iter().find_map(|&(p, format, remedy)| Some((first(folder, p)?, format, remedy)))?;
    Some(unsupported(format!("{} has {file}: {format}; {remedy}", folder.display())))
}

/// The error for a folder above a model, by one or two levels: of Trainer's checkpoints, the Hugging
/// Face cache, or a download.
fn below(folder: &Path) -> Option<Error> {
    let is_model = |path: &PathBuf| path.join("config.json").is_file();
    let nested = |path: &PathBuf| children(&path.join("snapshots"));
    let level = children(folder);
    let second = level.iter().flat_map(|path| children(path)).collect();
    let mut levels =
        [level.clone(), nested(&folder.to_owned()), level.iter().flat_map(nested).collect(), second]
            .into_iter()
            .map(|level| level.into_iter().filter(is_model).collect::<Vec<_>>());
    let mut models = levels.find(|models| !models.is_empty())?;
    models.sort_by_key(|path| trailing_number(path));
    let last = models.last()?.display();
    let message = match models.len() {
        1 => format!("the model is in {last}; give that folder"),
        count => format!("{count} folders below have one; give one of them, e.g. {last}"),
    };
    Some(Error::new(Status::NotFound, format!("{} has no config.json: {message}", folder.display())))
}

/// The files and folders in a folder, sorted.
fn children(folder: &Path) -> Vec<PathBuf> {
    names(folder).into_iter().map(|name| folder.join(name)).collect()
}

/// The number at the end of a name, as in `checkpoint-500`.
fn trailing_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name[name.trim_end_matches(|c: char| c.is_ascii_digit()).len()..].parse().ok()
}

/// The first file of a folder that matches a pattern.
fn first(folder: &Path, pattern: &str) -> Option<String> {
    names(folder).into_iter().find(|name| matches(&name.to_lowercase(), pattern))
}

/// Matches the parts of a pattern between its `*` in order, the first at the beginning and the last
/// at the end.
fn matches(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            tail.char_indices().map(|(at, _)| at).chain([tail.len()]).any(|at| matches(&tail[at..], rest))
        }),
    }
}

#[cfg(test)]
mod tests;
