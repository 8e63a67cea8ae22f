//! Recorded runs: tiny models trained for a few steps, whose f32 master weights must have the
//! recorded SHA-256.
//!
//! A course is a model with options and data, and has one digest. Each course runs under several
//! placements and in several manners, which must not change a bit. Matmuls on the CPU depend on the
//! instruction set, so digests are recorded per [`Trainer::arithmetic`]. `HZ_RECORD=1` records
//! those of this machine in `recorded.json` in this folder.

use horizon::base::{DType, Dims, Result, Shape};
use horizon::engine::{AdamOptions, Batch, TensorOptions, Trainer, TrainerOptions};
use horizon::model::{Biases, ModelConfig, RopeScaling, Window};
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Recompute};
use serde_json::{Map, Value, json};
use support::sha256::sha256;

use crate::resumes::restore;
use crate::saves::state;

const DIMS: Dims = Dims { c: 24, h: 4, g: 2, d: 6, f: 40, v: 67, l: 4 };
const MICROS: usize = 3;
const STEPS: usize = 4;
/// The step after which a run is saved, and resumed by another trainer.
const STOP: usize = 2;

/// SplitMix64 (Steele et al. 2014): random numbers that do not depend on the version of a library.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An integer in 0 … `end` − 1.
    fn below(&mut self, end: usize) -> i32 {
        (self.next() % end as u64) as i32
    }

    /// A multiple of 2⁻²⁴ in [0, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }
}

/// A micro-batch.
struct Data {
    tokens: Vec<i32>,
    targets: Vec<i32>,
    weights: Option<Vec<f32>>,
    starts: Option<Vec<i32>>,
}

impl Data {
    fn batch(&self) -> Batch<'_> {
        Batch {
            weights: self.weights.as_deref(),
            starts: self.starts.as_deref(),
            ..Batch::new(&self.tokens, &self.targets)
        }
    }
}

/// Everything that determines the bits of a run.
#[derive(Clone)]
struct Course {
    name: &'static str,
    config: ModelConfig,
    options: TrainerOptions,
    /// Ignore a fifth of the targets.
    masked: bool,
    /// Give targets weights.
    weighted: bool,
    /// Pack several documents into a sequence.
    packed: bool,
    /// Options of single tensors.
    tensors: Vec<(&'static str, TensorOptions)>,
    /// Replace cross-entropy by a custom loss, a square of log-probabilities.
    squares: bool,
}

impl Course {
    /// A small Llama in mode exact with clipping; masked, weighted and packed.
    fn new(name: &'static str) -> Course {
        Course {
            name,
            config: ModelConfig { positions_max: 64, ..ModelConfig::llama(DIMS) },
            options: TrainerOptions {
                shape: Shape { b: 2, t: 21 },
                micros_max: MICROS,
                logits_chunk: Some(16),
                threads: Some(2),
                clip: 0.5,
                ..TrainerOptions::default()
            },
            masked: true,
            weighted: true,
            packed: true,
            tensors: Vec::new(),
            squares: false,
        }
    }

    fn model(mut self, change: impl FnOnce(&mut ModelConfig)) -> Course {
        change(&mut self.config);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut TrainerOptions)) -> Course {
        change(&mut self.options);
        self
    }

    fn data(&self, masked: bool, weighted: bool, packed: bool) -> Course {
        Course { masked, weighted, packed, ..self.clone() }
    }

    /// The micro-batches of a step; their number varies.
    fn batches(&self, step: usize) -> Vec<Data> {
        let (shape, micros) = (self.options.shape, self.options.micros_max);
        let batch = |micro| {
            let mut numbers = Numbers((1000 * step + micro) as u64);
            let rows = shape.n();
            let mut column = |value: &mut dyn FnMut(&mut Numbers) -> i32| -> Vec<i32> {
                (0..rows).map(|_| value(&mut numbers)).collect()
            };
            let tokens = column(&mut |numbers| numbers.below(self.config.dims.v));
            let mut targets = column(&mut |numbers| numbers.below(self.config.dims.v));
            let ignored = column(&mut |numbers| numbers.below(5));
            let begins = column(&mut |numbers| numbers.below(10));
            if self.masked {
                targets
                    .iter_mut()
                    .zip(ignored)
                    .filter(|(_, ignored)| *ignored == 0)
                    .for_each(|(t, _)| *t = -100);
            }
            let mut starts = vec![0; rows];
            for row in 0..rows {
                let at = row % shape.t;
                starts[row] = if at == 0 || begins[row] == 0 { at as i32 } else { starts[row - 1] };
            }
            Data {
                tokens,
                targets,
                weights: self.weighted.then(|| (0..rows).map(|_| 2.0 * numbers.unit()).collect()),
                starts: self.packed.then_some(starts),
            }
        };
        (0..1 + step % micros).map(batch).collect()
    }

    fn open(&self, options: &TrainerOptions) -> Trainer {
        let mut trainer = Trainer::open(&self.config, options).unwrap();
        for (name, options) in &self.tensors {
            trainer.set_tensor_options(name, options).unwrap();
        }
        trainer
    }

    /// Sets weights around 0, those of norms around 1.
    fn fill(&self, trainer: &mut Trainer) {
        let mut numbers = Numbers(7);
        for (name, elements) in tensors(trainer) {
            let centre = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
            let values: Vec<f32> = (0..elements).map(|_| centre + 0.3 * (numbers.unit() - 0.5)).collect();
            trainer.write_tensor(&name, &values).unwrap();
        }
    }

    /// Runs the course and returns the digest of the masters.
    fn run(&self, options: &TrainerOptions, manner: Manner) -> String {
        let mut trainer = self.open(options);
        self.fill(&mut trainer);
        for step in 0..STEPS {
            if manner == Manner::Resuming && step == STOP {
                let saved = state(&mut trainer);
                // Resumes under another placement.
                trainer = self.open(&self.options);
                restore(&mut trainer, STOP as u64, &saved);
            }
            let data = self.batches(step);
            let batches: Vec<Batch> = data.iter().map(Data::batch).collect();
            let lr = 1e-2 / (1 + step) as f64;
            if manner == Manner::Announcing {
                for data in self.batches(step + 1) {
                    trainer.announce(&data.tokens).unwrap();
                }
            }
            let report = if self.squares {
                trainer.step_with_loss(&batches, lr, &mut squares)
            } else if manner == Manner::CustomLoss {
                trainer.step_with_loss(&batches, lr, &mut cross_entropy(&data))
            } else if manner == Manner::Accumulating {
                batches.iter().for_each(|batch| trainer.accumulate(batch).unwrap());
                trainer.update(lr)
            } else {
                trainer.step(&batches, lr)
            };
            let report = report.unwrap();
            assert_eq!(report.step, step as u64 + 1, "{}", self.name);
            if manner == Manner::Accumulating {
                assert!(trainer.eval(&batches).unwrap().loss.is_finite());
            }
        }
        digest(&mut trainer)
    }
}

/// The calls by which a course is run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// `step`.
    Plain,
    /// `accumulate` and `update`, with evaluations between steps.
    Accumulating,
    /// `announce` before each `step`.
    Announcing,
    /// Saved in the middle, and resumed by another trainer.
    Resuming,
    /// Cross-entropy as a custom loss.
    CustomLoss,
}

/// Σ (logprob + 2)² / n, without functions of a math library.
fn squares(logprobs: &[f32], dlogprobs: &mut [f32]) -> Result<f64> {
    let scale = 1.0 / logprobs.len() as f32;
    let mut loss = 0.0;
    for (logprob, d) in logprobs.iter().zip(dlogprobs) {
        let off = logprob + 2.0;
        loss += f64::from(scale * off * off);
        *d = 2.0 * scale * off;
    }
    Ok(loss)
}

/// The loss of a plain step, with its gradient.
fn cross_entropy(batches: &[Data]) -> impl FnMut(&[f32], &mut [f32]) -> Result<f64> {
    let mut weights = Vec::new();
    for Data { targets, weights: given, .. } in batches {
        let weight = |row: usize| given.as_ref().map_or(1.0, |given| given[row]);
        weights.extend((0..targets.len()).map(|row| if targets[row] == -100 { 0.0 } else { weight(row) }));
    }
    move |logprobs, dlogprobs| {
        let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let scale = (1.0 / sum) as f32;
        for (&weight, d) in weights.iter().zip(dlogprobs) {
            *d = -(weight * scale);
        }
        Ok(-weights.iter().zip(logprobs).map(|(&w, &logprob)| f64::from(w) * f64::from(logprob)).sum::<f64>()
            / sum)
    }
}

/// Names and lengths, in layout order.
fn tensors(trainer: &Trainer) -> Vec<(String, usize)> {
    trainer.layout().tensors().map(|(_, tensor)| (tensor.name.clone(), tensor.elements())).collect()
}

/// SHA-256 of every tensor's name and f32 master, in layout order.
fn digest(trainer: &mut Trainer) -> String {
    let mut bytes = Vec::new();
    for (name, elements) in tensors(trainer) {
        let mut values = vec![f32::NAN; elements];
        trainer.read_tensor(&name, &mut values).unwrap();
        bytes.extend(name.bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    sha256(&bytes)
}

/// Every course.
fn courses() -> Vec<Course> {
    let new = Course::new;
    let tied = |config: &mut ModelConfig| config.tied = true;
    let qwen2 = |config: &mut ModelConfig| config.biases.qkv = true;
    let qwen3 = |config: &mut ModelConfig| (config.qk_norm, config.dims.d, config.norm_eps) = (true, 8, 1e-6);
    let all_biases = |config: &mut ModelConfig| config.biases = Biases { qkv: true, o: true, mlp: true };
    let window = |layers: [bool; 4]| {
        move |config: &mut ModelConfig| config.window = Some(Window { size: 5, layers: layers.to_vec() })
    };
    let wide = |options: &mut TrainerOptions| options.grad_dtype = DType::F32;
    let unclipped = |options: &mut TrainerOptions| options.clip = 0.0;
    let compact = |options: &mut TrainerOptions| options.mode = Mode::Compact;
    let chunk = |rows: usize| move |options: &mut TrainerOptions| options.logits_chunk = Some(rows);
    let micros = |most: usize| move |options: &mut TrainerOptions| options.micros_max = most;
    let adam = |options: &mut TrainerOptions| {
        options.adam = AdamOptions { beta1: 0.8, beta2: 0.95, eps: 1e-6, weight_decay: 0.0 };
    };
    let tuned =
        |name, tensors: &[(&'static str, TensorOptions)]| Course { tensors: tensors.to_vec(), ..new(name) };
    let plain = TensorOptions::default();
    let frozen = TensorOptions { frozen: true, ..plain };
    let slower = TensorOptions { lr_scale: 0.25, weight_decay: Some(0.2), ..plain };
    let still = TensorOptions { lr_scale: 0.0, ..plain };
    let (embedding, up, norm) =
        ("model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight", "model.norm.weight");
    let linear = RopeScaling::Linear { factor: 2.5 };
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 16 };
    vec![
        // Families.
        new("llama"),
        new("llama tied").model(tied),
        new("llama with all biases").model(all_biases),
        new("llama with all biases, tied").model(all_biases).model(tied),
        new("llama with biases of o").model(|c| c.biases.o = true),
        new("llama with biases of mlp").model(|c| c.biases.mlp = true),
        new("llama with linear scaling").model(|c| c.rope_scaling = linear),
        new("llama 3 scaling").model(|c| (c.rope_scaling, c.rope_theta) = (llama3, 500_000.0)),
        new("llama, one group of heads").model(|c| (c.dims.h, c.dims.g, c.dims.d) = (3, 1, 10)),
        new("llama, as many groups as heads").model(|c| c.dims.g = 4),
        new("llama, odd sizes").model(|c| (c.dims.c, c.dims.f, c.dims.v, c.dims.l) = (23, 37, 71, 3)),
        new("qwen2").model(qwen2),
        new("qwen2 tied").model(qwen2).model(tied),
        new("qwen3").model(qwen3),
        new("qwen3 tied").model(qwen3).model(tied),
        new("window in all layers").model(window([true; 4])),
        new("window in some layers, qk norm, tied")
            .model(window([false, true, true, false]))
            .model(qwen3)
            .model(tied),
        // Numeric options.
        new("f32 gradients").with(wide),
        new("f32 gradients, tied").model(tied).with(wide),
        new("no clipping").with(unclipped),
        new("no clipping, tied").model(tied).with(unclipped),
        new("no clipping, f32 gradients").with(unclipped).with(wide),
        new("compact").with(compact),
        new("compact, tied").with(compact).model(tied),
        new("compact, f32 gradients").with(compact).with(wide),
        new("compact, no clipping").with(compact).with(unclipped),
        new("compact, qwen3 tied").with(compact).model(qwen3).model(tied),
        new("other constants of AdamW").with(adam),
        new("logits in chunks of 1 row").with(chunk(1)),
        new("logits in chunks of 25 rows").with(chunk(25)),
        new("logits in one chunk, f32 gradients").with(chunk(1000)).with(wide),
        new("one micro-batch").with(micros(1)),
        new("four micro-batches, qwen2").with(micros(4)).model(qwen2),
        new("one long sequence").with(|o| o.shape = Shape { b: 1, t: 64 }),
        // Data.
        new("plain data").data(false, false, false),
        new("masked data").data(true, false, false),
        new("weighted data").data(false, true, false),
        new("packed data").data(false, false, true),
        // Options of single tensors.
        tuned("frozen tensors", &[(embedding, frozen), (up, frozen), (norm, frozen)]),
        tuned("frozen tied embedding", &[(embedding, frozen), (up, still)]).model(tied),
        tuned("tensors with learning rates and decay", &[(embedding, slower), (up, slower), (norm, still)]),
        tuned("compact, tensors with learning rates", &[(up, slower), (embedding, frozen)]).with(compact),
        // Custom losses.
        Course { squares: true, ..new("loss of squares") },
        Course { squares: true, ..new("loss of squares, compact, tied") }.with(compact).model(tied),
        // Gradients of embedding and head in several chunks, with norms of several blocks.
        new("several chunks").model(|c| c.dims.v = 6007).with(micros(2)),
        new("several chunks, tied").model(|c| c.dims.v = 6007).model(tied).with(micros(2)),
        new("several chunks, compact, no clipping")
            .model(|c| c.dims.v = 6007)
            .with(compact)
            .with(unclipped)
            .with(micros(2)),
    ]
}

/// Placements that must not change a bit of a course, each with a name and a manner.
fn placements(course: &Course) -> Vec<(&'static str, TrainerOptions, Manner)> {
    let layer = LayerPlacement::default();
    let selective = LayerPlacement { recompute: Recompute::Selective, ..layer };
    let none = LayerPlacement { recompute: Recompute::None, ..layer };
    let linears = LayerPlacement { recompute: Recompute::Linears, ..layer };
    let mlp = LayerPlacement { recompute: Recompute::Mlp, ..layer };
    let spilled = LayerPlacement { boundary: Boundary::Spilled, ..layer };
    let resident = LayerPlacement { resident: true, ..selective };
    let own = LayerPlacement { accumulator: Accumulator::OnDevice, recompute: Recompute::None, ..spilled };
    let place = |change: &dyn Fn(&mut TrainerOptions)| {
        let mut options = course.options.clone();
        change(&mut options);
        options.layers.truncate(course.config.dims.l);
        options
    };
    let mut all = vec![
        ("selective recompute", place(&|o| o.layers = vec![selective; 4]), Manner::Plain),
        (
            "recompute of linears and of MLPs",
            place(&|o| o.layers = vec![linears, mlp, linears, mlp]),
            Manner::Plain,
        ),
        (
            "no recompute, 3 slots",
            place(&|o| (o.layers, o.weight_slots) = (vec![none; 4], 3)),
            Manner::Announcing,
        ),
        (
            "spilled boundaries, 3 slabs",
            place(&|o| (o.layers, o.slabs) = (vec![spilled; 4], 3)),
            Manner::Resuming,
        ),
        (
            "resident layers",
            place(&|o| o.layers = vec![resident, layer, resident, layer]),
            Manner::Accumulating,
        ),
        ("gradients wait on the device", place(&|o| o.grad_wait = GradWait::Device), Manner::Plain),
    ];
    let swept = place(&|o| (o.sweeps, o.layers) = (2, vec![own, spilled, resident, none]));
    let most = place(&|o| (o.sweeps, o.threads) = (o.micros_max, Some(1)));
    if course.squares {
        all.push(("1 thread", place(&|o| o.threads = Some(1)), Manner::Plain));
        return all.into_iter().filter(|(.., manner)| *manner != Manner::Accumulating).collect();
    }
    all.push(("2 sweeps, all placements", swept, Manner::Resuming));
    all.push(("as many sweeps as micro-batches, 1 thread", most, Manner::Announcing));
    all.push(("custom loss", place(&|o| o.layers = vec![none, spilled]), Manner::CustomLoss));
    if course.options.mode == Mode::Exact {
        let waits = |o: &mut TrainerOptions| (o.mode, o.grad_wait) = (Mode::Streamed, GradWait::Device);
        all.push(("streamed, gradients wait on the device", place(&waits), Manner::Resuming));
    }
    if course.options.clip == 0.0 {
        let under = |o: &mut TrainerOptions| o.adam_when = Some(AdamWhen::UnderBackward);
        all.push(("AdamW under backward", place(&under), Manner::Plain));
        if course.options.mode == Mode::Exact {
            let streamed =
                |o: &mut TrainerOptions| (o.mode, o.layers) = (Mode::Streamed, vec![spilled, selective]);
            all.push(("streamed", place(&streamed), Manner::Accumulating));
        }
    }
    all
}

/// Digests by arithmetic, then by course.
const RECORDED: &str = include_str!("recorded.json");

#[test]
fn courses_have_the_recorded_digests_in_every_placement() {
    let courses = courses();
    assert!(courses.len() >= 40);
    let mut found = Map::new();
    for course in &courses {
        let digest = course.run(&course.options, Manner::Plain);
        // Layers split into two units.
        let mut split = course.clone();
        split.config.split_layers = true;
        assert_eq!(split.run(&course.options, Manner::Plain), digest, "{}, split", course.name);
        for (number, (what, options, manner)) in placements(course).into_iter().enumerate() {
            let course = if number % 2 == 0 { course } else { &split };
            assert_eq!(course.run(&options, manner), digest, "{}: {what} changed a bit", course.name);
        }
        let same = found.iter().find(|(_, other)| **other == json!(digest)).map(|(name, _)| name.clone());
        // Sums by chunks of rows may have the order of the sum over all rows, as with AVX-512.
        let may_be_equal = course.name.starts_with("logits in chunks");
        assert!(may_be_equal || same.is_none(), "{} has the digest of {same:?}", course.name);
        assert_eq!(found.insert(course.name.into(), json!(digest)), None, "two courses: {}", course.name);
    }
    let arithmetic = courses[0].open(&courses[0].options).arithmetic();
    let mut recorded: Map<String, Value> = serde_json::from_str(RECORDED).unwrap();
    if std::env::var_os("HZ_RECORD").is_some_and(|value| value == "1") {
        recorded.insert(arithmetic, Value::Object(found));
        let text = serde_json::to_string_pretty(&recorded).unwrap() + "\n";
        std::fs::write(support::root().join("tests/engine/recorded.json"), text).unwrap();
        return;
    }
    let Some(recorded) = recorded.get(&arithmetic).and_then(Value::as_object) else {
        // Written to stderr directly, since cargo hides the output of passing tests.
        let note = format!(
            "\nno digests are recorded for \"{arithmetic}\": placements agree; HZ_RECORD=1 records them\n"
        );
        std::io::Write::write_all(&mut std::io::stderr(), note.as_bytes()).unwrap();
        return;
    };
    let names = |map: &Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&found),
        names(recorded),
        "courses and recorded digests differ in names; HZ_RECORD=1 records them"
    );
    let differ: Vec<_> = found.iter().filter(|(name, digest)| recorded[*name] != **digest).collect();
    assert!(differ.is_empty(), "digests under {arithmetic} differ from the recorded ones: {differ:#?}");
}

#[test]
fn sha256_gives_the_published_digests() {
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
    assert_eq!(sha256(b""), nothing);
    assert_eq!(sha256(b"abc"), abc);
    assert_eq!(sha256(&vec![b'a'; 1_000_000]), million);
}
