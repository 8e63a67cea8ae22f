//! Golden cases: tiny models that PyTorch trained for a few steps. See `tests/golden/README.md`.

use horizon::base::{Dims, Shape};
use horizon::engine::{AdamOptions, Batch, Trainer, TrainerOptions};
use horizon::hf::FolderConfig;
use horizon::model::{ModelConfig, Rope};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::root;

pub struct Case {
    pub config: ModelConfig,
    pub options: TrainerOptions,
    pub lr: Vec<f64>,
    bytes: Vec<u8>,
}

/// A micro-batch that owns its arrays.
pub struct OwnedBatch {
    tokens: Vec<i32>,
    targets: Vec<i32>,
    weights: Option<Vec<f32>>,
    starts: Option<Vec<i32>>,
}

impl OwnedBatch {
    pub fn view(&self) -> Batch<'_> {
        Batch {
            weights: self.weights.as_deref(),
            starts: self.starts.as_deref(),
            ..Batch::new(&self.tokens, &self.targets)
        }
    }
}

impl Case {
    pub fn read(name: &str) -> Case {
        let path = root().join(format!("tests/golden/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let case: Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["case"]).unwrap();
        let (config, optimizer) = (&case["config"], &case["optimizer"]);
        let size = |value: &Value| value.as_u64().unwrap() as usize;
        let real = |value: &Value| value.as_f64().unwrap();
        let shape = Shape { b: size(&case["batch"]), t: size(&case["seq"]) };
        let plain = || ModelConfig {
            tied: config["tie_word_embeddings"].as_bool().unwrap(),
            norm_eps: real(&config["rms_norm_eps"]) as f32,
            rope: Rope { theta: real(&config["rope_theta"]), ..Rope::default() },
            positions_max: shape.t,
            ..ModelConfig::llama(Dims {
                c: size(&config["hidden_size"]),
                h: size(&config["num_attention_heads"]),
                g: size(&config["num_key_value_heads"]),
                d: size(&config["head_dim"]),
                f: size(&config["intermediate_size"]),
                v: size(&config["vocab_size"]),
                l: size(&config["num_hidden_layers"]),
            })
        };
        // In cases of a family, the config is as written by transformers and is read like that of a folder.
        let read = |config: &Value| FolderConfig::parse(config.to_string().as_bytes()).unwrap().model;
        Case {
            config: case.get("hf_config").map_or_else(plain, read),
            options: TrainerOptions {
                grad_dtype: horizon::base::DType::F32,
                shape,
                micros_max: size(&case["micros"]),
                // Several chunks; the last one is shorter.
                logits_chunk: Some(shape.n() / 2 + 1),
                threads: Some(2),
                adam: AdamOptions {
                    beta1: real(&optimizer["beta1"]),
                    beta2: real(&optimizer["beta2"]),
                    eps: real(&optimizer["eps"]),
                    weight_decay: real(&optimizer["weight_decay"]),
                },
                clip: real(&optimizer["clip"]),
                ..TrainerOptions::default()
            },
            lr: optimizer["lr"].as_array().unwrap().iter().map(real).collect(),
            bytes,
        }
    }

    fn values<const SIZE: usize, T>(&self, name: &str, decode: fn([u8; SIZE]) -> T) -> Option<Vec<T>> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let data = tensors.tensor(name).ok()?.data();
        Some(data.chunks_exact(SIZE).map(|bytes| decode(bytes.try_into().unwrap())).collect())
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.values(name, f32::from_le_bytes).unwrap_or_else(|| panic!("the case has no {name}"))
    }

    pub fn f64(&self, name: &str) -> Vec<f64> {
        self.values(name, f64::from_le_bytes).unwrap_or_else(|| panic!("the case has no {name}"))
    }

    /// The micro-batches of a step, counted from 0.
    pub fn batches(&self, step: usize) -> Vec<OwnedBatch> {
        let t = self.options.shape.t;
        let micro = |micro: usize| {
            let name = |kind: &str| format!("{kind}.{step}.{micro}");
            let ints = |kind: &str| self.values(&name(kind), i32::from_le_bytes);
            let starts = ints("docs").map(|docs| {
                let mut starts = vec![0; docs.len()];
                for n in 0..docs.len() {
                    let new = n % t == 0 || docs[n] != docs[n - 1];
                    starts[n] = if new { (n % t) as i32 } else { starts[n - 1] };
                }
                starts
            });
            OwnedBatch {
                tokens: ints("tokens").unwrap(),
                targets: ints("targets").unwrap(),
                weights: self.values(&name("weights"), f32::from_le_bytes),
                starts,
            }
        };
        (0..self.options.micros_max).map(micro).collect()
    }

    /// For cases with logits: the T tokens and `[T, V]` logits of some sequences.
    pub fn logits(&self) -> Vec<(Vec<i32>, Vec<f32>)> {
        let (t, v) = (self.options.shape.t, self.config.dims.v);
        let Some(logits) = self.values("logits", f32::from_le_bytes) else { return Vec::new() };
        let tokens = self.batches(0).remove(0).tokens;
        let rows = tokens.chunks_exact(t).zip(logits.chunks_exact(t * v));
        rows.map(|(tokens, logits)| (tokens.to_vec(), logits.to_vec())).collect()
    }

    /// Opens a trainer with these options and the case's initial weights.
    pub fn open(&self, options: &TrainerOptions) -> Trainer {
        self.filled(Trainer::open(&self.config, options).unwrap())
    }

    /// Writes the case's initial weights to a trainer.
    pub fn filled(&self, mut trainer: Trainer) -> Trainer {
        for name in self.tensor_names() {
            trainer.write_tensor(&name, &self.f32(&format!("init.{name}"))).unwrap();
        }
        trainer
    }

    pub fn tensor_names(&self) -> Vec<String> {
        let layout = horizon::model::Layout::new(&self.config);
        layout.tensors().map(|(_, tensor)| tensor.name.clone()).collect()
    }
}
