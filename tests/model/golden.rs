//! Tiny models against PyTorch: loss, norm and gradients of a step, and weights after five steps.

use horizon::base::{DType, Shape, master as split, unwatched};
use horizon::engine::{Trainer, TrainerOptions};
use horizon::train::ModelSource;
use safetensors::SafeTensors;
use support::golden::Case;
use support::root;

/// All cases in `tests/golden`.
const CASES: [&str; 50] = [
    "base_gqa",
    "tied_mha",
    "mqa_odd",
    "accumulate",
    "clipped",
    "ignored",
    "weighted",
    "documents",
    "head_dim_wide",
    "head_dim_narrow",
    "together",
    "llama_linear",
    "llama_llama3",
    "llama_biases",
    "mistral",
    "mistral_documents",
    "qwen2",
    "qwen2_tied",
    "qwen3",
    "qwen3_windows",
    "gemma3",
    "gemma3_documents",
    "phi3",
    "phi3_long",
    "olmo2",
    "olmo2_documents",
    "olmo3",
    "olmo3_documents",
    "smollm3",
    "smollm3_biases",
    "ministral3",
    "ministral3_documents",
    "glm",
    "glm_documents",
    "glm4",
    "glm4_documents",
    "granite",
    "granite_biases",
    "seed_oss",
    "seed_oss_documents",
    "exaone4",
    "exaone4_plain",
    "helium",
    "helium_biases",
    "cwm",
    "cwm_documents",
    "heads_64",
    "heads_96",
    "heads_128",
    "heads_256",
];

/// A tensor's f32 master.
fn master(trainer: &mut Trainer, name: &str) -> Vec<f32> {
    let (_, tensor) = trainer.layout().find(name).unwrap();
    let mut values = vec![f32::NAN; tensor.elements()];
    trainer.read_tensor(name, &mut values).unwrap();
    values
}

fn close(what: &str, got: f64, want: f64, bound: f64) {
    assert!(
        (got - want).abs() <= bound,
        "{what}: got {got}, PyTorch has {want}, allowed difference {bound:e}"
    );
}

/// Compares the gradient of step 1 element by element: |d| ≤ 1e-4·|g| + 1e-5·max|g|, plus one ulp
/// for bf16.
fn gradients_agree(name: &str, grad_dtype: DType) {
    let case = Case::read(name);
    let mut options = case.options.clone();
    options.grad_dtype = grad_dtype;
    let mut trainer = case.open(&options);
    let batches = case.batches(0);
    let views: Vec<_> = batches.iter().map(|batch| batch.view()).collect();
    trainer.step(&views, case.lr[0]).unwrap();
    for tensor in case.tensor_names() {
        let want = case.f32(&format!("grad.{tensor}"));
        let mut got = vec![f32::NAN; want.len()];
        trainer.read_gradient(&tensor, &mut got).unwrap();
        let largest = want.iter().fold(0.0f32, |max, g| max.max(g.abs()));
        for (index, (&got, &want)) in got.iter().zip(&want).enumerate() {
            let ulp = if grad_dtype == DType::Bf16 { f64::from(want.abs()) / 128.0 } else { 0.0 };
            let bound = 1e-4 * f64::from(want.abs()) + 1e-5 * f64::from(largest) + ulp;
            close(&format!("{name}, gradient of {tensor}[{index}]"), got.into(), want.into(), bound);
            if grad_dtype == DType::Bf16 {
                assert_eq!(split::widen(split::round(got)), got, "{tensor}[{index}] must be stored as bf16");
            }
        }
    }
}

#[test]
fn gradients_of_the_first_step_match() {
    for name in CASES {
        gradients_agree(name, DType::F32);
        gradients_agree(name, DType::Bf16);
    }
}

/// Compares logits of all positions, for the cases of families, element by element: |d| ≤ 1e-4·|x|
/// + 1e-5·max|x|.
#[test]
fn logits_of_initial_weights_match() {
    let mut families = 0;
    for name in CASES {
        let case = Case::read(name);
        let sequences = case.logits();
        families += usize::from(!sequences.is_empty());
        let mut trainer = case.open(&case.options);
        for (tokens, want) in sequences {
            let largest = want.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            for (position, want) in want.chunks_exact(case.config.dims.v).enumerate() {
                let got = trainer.logits(&tokens[..=position]).unwrap();
                for (id, (&got, &want)) in got.iter().zip(want).enumerate() {
                    let bound = 1e-4 * f64::from(want.abs()) + 1e-5 * f64::from(largest);
                    close(&format!("{name}, logit {id} at {position}"), got.into(), want.into(), bound);
                }
            }
        }
    }
    assert!(families >= 20, "only {families} cases have logits");
}

/// Compares losses (1e-5 relative) and norms (1e-4) of every step; and weights, to 1e-4·|w| +
/// 0.02·lr for all but 1 in 10⁴ elements and to lr for all.
#[test]
fn five_steps_match() {
    for name in CASES {
        let case = Case::read(name);
        let mut trainer = case.open(&case.options);
        let (losses, norms) = (case.f64("loss"), case.f64("grad_norm"));
        for (step, &lr) in case.lr.iter().enumerate() {
            let batches = case.batches(step);
            let views: Vec<_> = batches.iter().map(|batch| batch.view()).collect();
            let report = trainer.step(&views, lr).unwrap();
            close(&format!("{name}, loss of step {step}"), report.loss, losses[step], 1e-5 * losses[step]);
            close(&format!("{name}, norm of step {step}"), report.grad_norm, norms[step], 1e-4 * norms[step]);
        }
        let lr = case.lr.iter().fold(0.0f64, |max, lr| max.max(*lr));
        let (mut elements, mut beyond) = (0, Vec::new());
        for tensor in case.tensor_names() {
            let want = case.f32(&format!("final.{tensor}"));
            for (index, (got, want)) in master(&mut trainer, &tensor).into_iter().zip(want).enumerate() {
                let (got, want) = (f64::from(got), f64::from(want));
                let weight = format!("{name}, weight {tensor}[{index}] after five steps");
                close(&weight, got, want, lr);
                elements += 1;
                if (got - want).abs() > 1e-4 * want.abs() + 0.02 * lr {
                    beyond.push(format!("{weight}: {got}, PyTorch has {want}"));
                }
            }
        }
        assert!(
            beyond.len() * 10_000 <= elements,
            "{} of {elements} differ:\n{}",
            beyond.len(),
            beyond.join("\n")
        );
    }
}

/// Folders as written by transformers 4 and 5: compares the logits of all positions of both
/// sequences.
#[test]
fn folders_of_both_formats_match() {
    let golden = root().join("tests/golden");
    let bytes = std::fs::read(golden.join("hf_llama.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let read = |name: &str| reference.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
    let tokens: Vec<i32> = read("tokens").into_iter().map(i32::from_le_bytes).collect();
    let logits: Vec<f32> = read("logits").into_iter().map(f32::from_le_bytes).collect();
    let (t, v) = (17, 61);
    for folder in ["hf4", "hf5"] {
        let source = ModelSource::open(golden.join(folder).to_str().unwrap(), false).unwrap();
        let options = TrainerOptions { shape: Shape { b: 1, t }, ..TrainerOptions::default() };
        let mut trainer = Trainer::open(&source.config.model, &options).unwrap();
        source.fill(&mut trainer, 0, &unwatched).unwrap();
        for (sequence, want) in tokens.chunks_exact(t).zip(logits.chunks_exact(t * v)) {
            for (position, want) in want.chunks_exact(v).enumerate() {
                let got = trainer.logits(&sequence[..=position]).unwrap();
                for (token, (&got, &want)) in got.iter().zip(want).enumerate() {
                    let logit = format!("{folder}, position {position}, logit {token}");
                    close(&logit, got.into(), want.into(), 1e-5 * f64::from(want.abs()) + 1e-5);
                }
            }
        }
    }
}
