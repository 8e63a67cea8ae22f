//! Tests the training loop through the library: its records, exports and refusals.

mod failed;
mod resumed;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use horizon::base::{DType, Message, RunId, Shape, Status, unwatched};
use horizon::data::{Data, Documents, Encoder, Warnings};
use horizon::engine::{Trainer, TrainerOptions};
use horizon::hf::{ExportTarget, SHARD_BYTES, export};
use horizon::train::metrics::StepRecord;
use horizon::train::{LrShape, ModelSource, Observer, Run, RunOptions, StepTimes};
use serde_json::{Value, json};

const SEQ_LEN: usize = 24;

fn data() -> Data {
    let mut documents = Documents::default();
    for k in 0..40 {
        let text = format!("document {k} is {} times as long as it could be\n", k % 3 + 1).repeat(k % 3 + 1);
        documents.push(&Encoder::bytes().document(text.as_bytes(), &mut Warnings::default()).unwrap());
    }
    Data::from_documents(documents, SEQ_LEN).unwrap()
}

fn trainer_options(micro_batch: usize, grad_accum: usize) -> TrainerOptions {
    TrainerOptions {
        shape: Shape { b: micro_batch, t: SEQ_LEN },
        micros_max: grad_accum,
        threads: Some(1),
        grad_dtype: DType::F32,
        ..TrainerOptions::default()
    }
}

fn options(micro_batch: usize, grad_accum: usize) -> RunOptions {
    RunOptions {
        run: RunId::from_bits(1),
        trainer: trainer_options(micro_batch, grad_accum),
        steps: Some(4),
        lr_shape: LrShape::Linear,
        lr: 1e-3,
        min_lr: None,
        warmup: Some(2),
        seed: 3,
        shuffle: true,
        val_every: 2,
        val_micros_max: 3,
        out: None,
        export_dtype: DType::F32,
        log: None,
        predicted: None,
        trace: None,
        simulated: None,
        save: None,
        resume: None,
    }
}

#[derive(Default)]
struct Records(Vec<StepRecord>);

impl Observer for Records {
    fn stepped(&mut self, record: &StepRecord, _steps: u64, remaining: f64) {
        assert!(remaining >= 0.0);
        self.0.push(*record);
    }

    fn saved(&mut self, _step: u64, _folder: &Path) {}

    fn warned(&mut self, message: &Message) {
        panic!("unexpected warning: {message}");
    }
}

fn run(options: RunOptions) -> Vec<StepRecord> {
    let model = ModelSource::open("tiny", false).unwrap();
    let mut records = Records::default();
    let mut run = Run::open(model, data(), Some(data()), options, &unwatched).unwrap();
    let outcome = run.train(&mut records, &AtomicBool::new(false)).unwrap();
    assert!(!outcome.stopped && outcome.steps == records.0.len() as u64);
    records.0
}

/// Returns every tensor of a model, as f32 bits.
fn tensors(model: &ModelSource) -> Vec<(String, Vec<u32>)> {
    let mut trainer = Trainer::open(&model.config.model, &trainer_options(1, 1)).unwrap();
    model.fill(&mut trainer, 9, &unwatched).unwrap();
    let read = |(_, tensor): (_, &horizon::model::TensorLayout)| {
        let mut values = vec![0.0f32; tensor.elements()];
        trainer.read_tensor(&tensor.name, &mut values).unwrap();
        (tensor.name.clone(), values.into_iter().map(f32::to_bits).collect())
    };
    model.layout.tensors().map(read).collect()
}

fn export_again(model: &ModelSource, folder: &Path, dtype: DType) -> Vec<u8> {
    let mut trainer = Trainer::open(&model.config.model, &trainer_options(1, 1)).unwrap();
    model.fill(&mut trainer, 9, &unwatched).unwrap();
    let target = ExportTarget::check(folder, 0).unwrap();
    export(&target, &model.config, &mut trainer, dtype, SHARD_BYTES, &unwatched).unwrap();
    fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn records_have_steps_tokens_learning_rates_and_losses() {
    let records = run(options(2, 2));
    let lrs: Vec<f64> = records.iter().map(|r| r.lr).collect();
    assert_eq!(lrs, [0.5e-3, 1e-3, 1e-3, 1e-3 - 0.9e-3 * 0.5]);
    for (k, record) in records.iter().enumerate() {
        assert_eq!((record.step, record.tokens), (k as u64 + 1, 4 * SEQ_LEN as u64));
        assert_eq!(record.tokens_per_second, record.tokens as f64 / record.step_seconds);
        assert_eq!(record.val_loss.is_some(), k % 2 == 1);
    }
}

/// The first step is excluded: no AdamW overlaps with it. Nothing is saved, so the disk lane is
/// idle.
#[test]
fn records_have_measured_and_predicted_times_of_the_lanes() {
    let busy = |record: &StepRecord| record.lanes.map(|lane| lane.busy_seconds);
    for record in &run(options(2, 2))[1..] {
        let [compute, h2d, d2h, host, disk] = busy(record);
        assert!(compute > 0.0 && h2d > 0.0 && d2h > 0.0 && host > 0.0 && disk == 0.0, "{record:?}");
        assert!(record.lanes.iter().all(|lane| lane.predicted_seconds.is_none()));
        let text = serde_json::to_string(record).unwrap();
        assert!(!text.contains("predicted"), "there is no prediction: {text}");
    }

    let predicted = StepTimes { step_seconds: 0.5, busy_seconds: [0.25, 0.125, 0.0, 2.0, 0.0] };
    for record in run(RunOptions { predicted: Some(predicted), ..options(2, 2) }) {
        let log: Value = serde_json::to_value(record).unwrap();
        assert_eq!(log["predicted_step_seconds"], 0.5);
        let names = ["compute", "h2d", "d2h", "host", "disk"];
        assert!(log["lanes"].as_object().unwrap().keys().all(|name| names.contains(&&name[..])));
        for (name, (busy, predicted)) in names.iter().zip(busy(&record).iter().zip(predicted.busy_seconds)) {
            let lane = json!({ "busy_seconds": busy, "predicted_seconds": predicted });
            assert_eq!(log["lanes"][name], lane);
        }
    }
}

/// The same windows in other micro-batches: in the first step the loss differs by the order of
/// additions only. AdamW's first step changes every weight by ±lr, so weights with gradients near
/// zero may then differ by 2·lr.
#[test]
fn gradient_accumulation_equals_a_larger_batch() {
    let (large, accumulated) = (run(options(4, 1)), run(options(1, 4)));
    for (k, (a, b)) in large.iter().zip(&accumulated).enumerate() {
        let bound = if k == 0 { 1e-6 } else { 1e-2 };
        let close = |a: f64, b: f64| (a - b).abs() <= bound * a.abs();
        assert!(close(a.loss, b.loss), "step {k}: {} and {}", a.loss, b.loss);
        assert!(close(a.grad_norm, b.grad_norm), "step {k}: {} and {}", a.grad_norm, b.grad_norm);
        assert_eq!((a.lr, a.tokens), (b.lr, b.tokens));
    }
}

#[test]
fn an_exported_folder_has_the_exact_model() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    let model = ModelSource::open("tiny", false).unwrap();
    let fresh = tensors(&model);
    let once = export_again(&model, &first, DType::F32);
    let again = ModelSource::open(first.to_str().unwrap(), false).unwrap();
    assert!(!again.is_fresh() && again.config.model == model.config.model);
    // An f32 export includes the residual, so every bit is equal.
    assert!(tensors(&again) == fresh);
    assert!(export_again(&again, &dir.path().join("second"), DType::F32) == once);
    // A bf16 export of bf16 weights is exact.
    let half = dir.path().join("half");
    let once = export_again(&again, &half, DType::Bf16);
    let again = ModelSource::open(half.to_str().unwrap(), false).unwrap();
    assert!(export_again(&again, &dir.path().join("halves"), DType::Bf16) == once);
    // With `fresh` only the config of the folder is used.
    let blank = ModelSource::open(half.to_str().unwrap(), true).unwrap();
    assert!(blank.is_fresh() && tensors(&blank) == fresh);
}

#[test]
fn a_run_stopped_before_its_first_step_exports_its_initial_weights() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let model = ModelSource::open("tiny", false).unwrap();
    let options = RunOptions { out: Some(out.clone()), ..options(1, 1) };
    let mut run = Run::open(model, data(), None, options, &unwatched).unwrap();
    let outcome = run.train(&mut Records::default(), &AtomicBool::new(true)).unwrap();
    assert!(outcome.stopped && outcome.steps == 0);
    assert!(ModelSource::open(out.to_str().unwrap(), false).is_ok());
}

#[test]
fn invalid_options_are_refused_before_the_first_step() {
    let refusal = |change: &dyn Fn(&mut RunOptions)| {
        let mut options = options(1, 1);
        change(&mut options);
        let model = ModelSource::open("tiny", false).unwrap();
        Run::open(model, data(), None, options, &unwatched).err().expect("the options must be refused")
    };
    for (error, word) in [
        (refusal(&|o| o.steps = Some(0)), "0 steps"),
        (refusal(&|o| o.trainer.micros_max = 0), "0 micro-batches"),
        (refusal(&|o| o.trainer.shape.b = 0), "0 sequences"),
        (refusal(&|o| o.lr = f64::NAN), "learning rate"),
        (refusal(&|o| o.warmup = Some(5)), "warmup"),
    ] {
        assert_eq!(error.status(), Status::InvalidArgument, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
    assert_eq!(ModelSource::open("nowhere", false).unwrap_err().status(), Status::NotFound);
}
