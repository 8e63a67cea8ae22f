//! PyTorch's golden models, those with supported head sizes: at most three times as far from
//! PyTorch's f32 run as PyTorch's own bf16 run. If `HZ_GOLDEN_OUT` names a folder, loss and
//! gradients of the first step are written there for `pytorch.py`.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::rig;
use support::golden::Case;

const CASES: [&str; 4] = ["heads_64", "heads_96", "heads_128", "heads_256"];
/// The bound as a multiple of that distance.
const TIMES: f64 = 3.0;
/// Added to the bound, relative to the largest value: half a bf16 step, in case PyTorch's error is
/// small by chance.
const STEP: f64 = 1.0 / 256.0;
/// The same for a loss, in which the rounding errors of many rows mostly cancel.
const LOSS_STEP: f64 = STEP / 8.0;

/// Writes loss and gradients of the first step for `pytorch.py`.
fn write(name: &str, loss: f64, gradients: &[(String, Vec<f32>)]) {
    let Some(folder) = std::env::var_os("HZ_GOLDEN_OUT") else { return };
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = vec![("loss".to_owned(), Dtype::F64, vec![1], loss.to_le_bytes().to_vec())];
    for (tensor, values) in gradients {
        tensors.push((format!("grad.{tensor}"), Dtype::F32, vec![values.len()], bytes(values)));
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("as many bytes as the shape says"))
    });
    let path = Path::new(&folder).join(format!("{name}.safetensors"));
    safetensors::serialize_to_file(views, None, &path).expect("a file");
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |max, value| max.max(f64::from(value.abs())))
}

#[test]
fn golden_models_are_as_near_to_pytorch_as_its_own_bf16() {
    if let Some(rig) = rig::any() {
        for name in CASES {
            let case = Case::read(name);
            let mut trainer = case.filled(rig.open(&case.config, &case.options));
            let (want, naive) = (case.f64("loss"), case.f64("bf16.loss"));
            let off =
                want.iter().zip(&naive).fold(0.0f64, |max, (want, naive)| max.max((want - naive).abs()));
            let mut worst = (0.0f64, 0.0f64);
            // All on a GPU; the emulator is slow.
            let steps = if rig.is_gpu() || std::env::var_os("HZ_LONG").is_some() { case.lr.len() } else { 2 };
            for (step, &lr) in case.lr[..steps].iter().enumerate() {
                let batches = case.batches(step);
                let views: Vec<_> = batches.iter().map(|batch| batch.view()).collect();
                let report = trainer.step(&views, lr).expect("a step");
                let distance = (report.loss - want[step]).abs();
                worst.0 = worst.0.max(distance / (TIMES * off + want[step] * LOSS_STEP));
                assert!(
                    distance <= TIMES * off + want[step] * LOSS_STEP,
                    "{name}, step {step}: loss {} on {rig:?}, {} by PyTorch, {} in bf16",
                    report.loss,
                    want[step],
                    naive[step]
                );
                if step > 0 {
                    continue;
                }
                let mut gradients = Vec::new();
                for tensor in case.tensor_names() {
                    let want = case.f32(&format!("grad.{tensor}"));
                    let naive = f64::from(case.f32(&format!("bf16.grad.{tensor}"))[0]);
                    let bound = TIMES * naive + largest(&want) * STEP;
                    let mut got = vec![f32::NAN; want.len()];
                    trainer.read_gradient(&tensor, &mut got).expect("a gradient");
                    for (index, (&got, &want)) in got.iter().zip(&want).enumerate() {
                        let distance = f64::from((got - want).abs());
                        worst.1 = worst.1.max(distance / bound);
                        assert!(
                            distance <= bound,
                            "{name}, gradient of {tensor}[{index}]: {got} on {rig:?}, PyTorch has {want}, bound {bound:e}"
                        );
                    }
                    gradients.push((tensor, got));
                }
                write(name, report.loss, &gradients);
            }
            println!(
                "{name} on {rig:?}: losses reach {:.2} of their bound, gradients {:.2}",
                worst.0, worst.1
            );
        }
    }
}
