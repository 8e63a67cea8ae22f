//! Models and data as people have them: each row of a table is an input from a public bug report, or
//! one of the same kind, and what a user expects. Losses, tokens, masks and texts are those of
//! transformers, written by `generate.py`.

mod chats;
mod files;
mod models;
mod rows;
mod warnings;

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{Ran, horizon_in};

/// Bytes of the header of a token file.
const HEADER_BYTES: usize = 64;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/cases")
}

/// The values of transformers: `expected(&["losses", "base"])`.
fn expected(path: &[&str]) -> Value {
    let text = fs::read_to_string(here().join("expected.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    path.iter().fold(all, |value, key| {
        value.get(key).cloned().unwrap_or_else(|| panic!("expected.json has no {path:?}"))
    })
}

/// A conversation of user and assistant in turns.
fn turns(contents: &[&str]) -> Value {
    let role = |k: usize| ["user", "assistant"][k % 2];
    contents.iter().enumerate().map(|(k, content)| json!({"role": role(k), "content": content})).collect()
}

/// The row `hi`, `yo`, the document "hi yo".
fn hi_yo() -> String {
    json!({"messages": turns(&["hi", "yo"])}).to_string() + "\n"
}

/// A tensor of a safetensors file.
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn of(name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Tensor {
        Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
    }

    /// A bf16 tensor of one value.
    fn filled(name: &str, shape: &[usize], value: f32) -> Tensor {
        let bytes = half::bf16::from_f32(value).to_le_bytes();
        Tensor::of(name, Dtype::BF16, shape, bytes.repeat(shape.iter().product()))
    }

    /// The same values in f32 under another name.
    fn f32_copy(&self, name: &str) -> Tensor {
        let bytes = self.bytes.chunks_exact(2).flat_map(|bf16| [0, 0, bf16[0], bf16[1]]).collect();
        Tensor::of(name, Dtype::F32, &self.shape, bytes)
    }
}

/// A temporary folder with a copy of the model in `model`, which tests edit.
struct Case(TempDir);

impl Case {
    fn new() -> Case {
        let case = Case(tempfile::tempdir().unwrap());
        fs::create_dir(case.path("model")).unwrap();
        for folder in [here().join("model"), here().join("../../data/chat/byte_level")] {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                fs::copy(entry.path(), case.path("model").join(entry.file_name())).unwrap();
            }
        }
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn json(&self, name: &str) -> Map<String, Value> {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// Sets keys of a JSON file.
    fn set(&self, name: &str, keys: Value) {
        let Value::Object(keys) = keys else { panic!("{keys} is no object") };
        let mut file = self.json(name);
        file.extend(keys);
        self.write(name, Value::Object(file).to_string());
    }

    fn config(&self, keys: Value) {
        self.set("model/config.json", keys);
    }

    fn tensors(&self) -> Vec<Tensor> {
        let bytes = self.read("model/model.safetensors");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (String, TensorView)| {
            Tensor::of(&name, view.dtype(), view.shape(), view.data().to_vec())
        };
        file.tensors().into_iter().map(tensor).collect()
    }

    /// Writes the weights: `name` is a file of the model folder.
    fn write_tensors(&self, name: &str, tensors: &[Tensor]) {
        let views = tensors.iter().map(|tensor| {
            (&tensor.name, TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap())
        });
        self.write(&format!("model/{name}"), safetensors::serialize(views, None).unwrap());
    }

    fn edit_tensors(&self, edit: impl FnOnce(Vec<Tensor>) -> Vec<Tensor>) {
        self.write_tensors("model.safetensors", &edit(self.tensors()));
    }

    fn rename_tensors(&self, name: impl Fn(&str) -> String) {
        self.edit_tensors(|mut tensors| {
            tensors.iter_mut().for_each(|tensor| tensor.name = name(&tensor.name));
            tensors
        });
    }

    fn add_tensors(&self, more: Vec<Tensor>) {
        self.edit_tensors(|tensors| tensors.into_iter().chain(more).collect());
    }

    /// Runs the command; `line` has no argument with a space.
    fn run(&self, line: &str) -> Ran {
        horizon_in(self.0.path(), &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Trains a step with lr 0 on the rows of `tok.jsonl`.
    fn step(&self) -> Ran {
        self.run(
            "train --model model --data tok.jsonl --seq-len 16 --micro-batch 4 --steps 1 --lr 0 --warmup 0 \
             --clip 0 --no-shuffle --threads 1 -q --log log.jsonl",
        )
    }

    /// The loss that the step has logged.
    fn loss(&self) -> f64 {
        self.json("log.jsonl")["loss"].as_f64().unwrap()
    }

    fn tokenize(&self, data: &str) -> Ran {
        self.run(&format!("tokenize --model model --data {data} --out out.bin --threads 1"))
    }

    /// The documents that `tokenize` has written.
    fn documents(&self) -> Vec<Document> {
        let bytes = self.read("out.bin");
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let (tokens, documents) = (long(16), long(24));
        assert_eq!(bytes[12], 2, "bytes per token");
        let starts_at = HEADER_BYTES + (2 * tokens).next_multiple_of(8);
        let bits_at = starts_at + 8 * documents;
        let start = |k: usize| if k < documents { long(starts_at + 8 * k) } else { tokens };
        let token = |t: usize| {
            u64::from(bytes[HEADER_BYTES + 2 * t]) + 256 * u64::from(bytes[HEADER_BYTES + 2 * t + 1])
        };
        let trained = |t: usize| u64::from(bytes[bits_at + t / 8] >> (t % 8) & 1);
        let document = |k: usize| {
            let range = start(k)..start(k + 1);
            Document::new(range.clone().map(token).collect(), range.map(trained).collect())
        };
        (0..documents).map(document).collect()
    }

    /// Checks that data has these documents, named as in `expected.json`.
    fn has(&self, data: &str, documents: &[&str]) -> Outcome {
        done(&self.tokenize(data))?;
        equal(self.documents(), documents.iter().map(|name| Document::expected(name)).collect())
    }
}

/// The error text of a case that differs.
type Outcome = Result<(), String>;

/// Asserts that all cases of a table are as expected, else names all that are not.
fn assert_all<'a>(outcomes: impl IntoIterator<Item = (&'a str, Outcome)>) {
    let wrong = outcomes
        .into_iter()
        .filter_map(|(name, outcome)| outcome.err().map(|error| format!("{name}: {error}")));
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn equal<T: std::fmt::Debug + PartialEq>(got: T, want: T) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("found\n  {got:?}\nexpected\n  {want:?}")) }
}

/// Checks that a run succeeded.
fn done(ran: &Ran) -> Outcome {
    if ran.code == Some(0) { Ok(()) } else { Err(ran.err.clone()) }
}

/// Tokens, and for each 1 if it is trained on.
#[derive(Debug, PartialEq)]
struct Document {
    tokens: Vec<u64>,
    trained: Vec<u64>,
}

impl Document {
    /// Nothing predicts the first token, so that its mask has no meaning.
    fn new(tokens: Vec<u64>, mut trained: Vec<u64>) -> Document {
        trained[0] = 0;
        Document { tokens, trained }
    }

    fn expected(name: &str) -> Document {
        let document = expected(&["documents", name]);
        let list = |key: &str| serde_json::from_value(document[key].clone()).unwrap();
        Document::new(list("tokens"), list("trained"))
    }
}

/// Checks that a run was refused with a message that has every word, in any case of letters.
fn refused(ran: &Ran, words: &[&str]) -> Outcome {
    let message = ran.err.to_lowercase();
    if ran.code != Some(1) || !message.contains("error: ") || message.contains("panicked") {
        return Err(format!("ended with {:?}: {message}", ran.code));
    }
    match words.iter().find(|word| !message.contains(&word.to_lowercase())) {
        None => Ok(()),
        Some(word) => Err(format!("no {word:?} in: {message}")),
    }
}
