//! The whole model, composed of passes as in the engine: on the CPU the gradient of every tensor
//! against central differences of the f64 reference, on CUDA against the CPU.

use horizon::base::{Dims, Shape};
use horizon::model::{
    Biases, HeadTask, ModelConfig, Multipliers, Norms, PassId, Recompute, Rope, RopeScaling, Window,
};
use horizon::ops::{Activation, NormSpan, QueryScaling, Write};
use support::reference::compare::close;
use support::reference::decoder::logits;
use support::reference::device::Device;
use support::reference::memory::Memory;
use support::reference::{Random, wide};

use crate::step::{Accumulators, Micro, Model, Step};

/// Checks the loss and the gradient of every tensor, and zeros in the padding.
fn check(step: &Step, chunk: usize, random: &mut Random) {
    let model = step.model(chunk);
    let results = trained(&model, Recompute::Full);
    other_paths_give_the_same_bits(step, chunk, &results);
    let loss = results[0].read_f64()[0] * f64::from(step.scale());
    let expected = step.reference_loss(&step.tensors);
    assert!((loss - expected).abs() <= 1e-6 * expected, "loss {loss}, expected {expected}");

    for (unit, gradient) in model.layout.units.iter().zip(&results[1..]) {
        let gradient = gradient.read_f32();
        let mut padding = vec![true; unit.elements];
        for tensor in &unit.tensors {
            padding[tensor.offset..][..tensor.elements()].fill(false);
            check_tensor(step, &tensor.name, &gradient[tensor.offset..][..tensor.elements()], random);
        }
        for at in (0..unit.elements).filter(|&at| padding[at]) {
            assert_eq!(gradient[at], 0.0, "padding element {at} of {:?}", unit.kind);
        }
    }
}

/// Returns the loss, then the gradient of every unit.
fn trained(model: &Model, recompute: Recompute) -> Vec<Memory> {
    model.device().run(|k| model.run(k, recompute, HeadTask::LossBackward))
}

fn bits(memory: &Memory) -> Vec<u32> {
    memory.read_f32().into_iter().map(f32::to_bits).collect()
}

/// Loss and gradients have the same bits in every recompute mode, with each layer as one or two
/// units; and gradients also with an external loss of log-probabilities.
fn other_paths_give_the_same_bits(step: &Step, chunk: usize, full: &[Memory]) {
    let (whole, halves) = (step.model(chunk), step.model_in_halves(chunk));
    for recompute in Recompute::ALL {
        if recompute != Recompute::Full {
            for (other, full) in trained(&whole, recompute).iter().zip(full) {
                assert!(bits(other) == bits(full), "{recompute:?}");
            }
        }
        let results = step.device.run_once(|k| halves.run(k, recompute, HeadTask::LossBackward));
        assert!(bits(&results[0]) == bits(&full[0]), "loss in halves, {recompute:?}");
        for (unit, tensor) in halves.layout.tensors() {
            let (whole_unit, whole_tensor) = whole.layout.find(&tensor.name).expect("the same tensor");
            let tensor_bits =
                |memory: &Memory, first: usize| bits(memory)[first..][..tensor.elements()].to_vec();
            let half = tensor_bits(&results[1 + unit.at()], tensor.offset);
            let equal = half == tensor_bits(&full[1 + whole_unit.at()], whole_tensor.offset);
            assert!(equal, "{} in halves, {recompute:?}", tensor.name);
        }
    }
    let by_logprobs = step.device.run_once(|k| whole.run(k, Recompute::Full, HeadTask::Backward));
    for (other, full) in by_logprobs.iter().zip(full).skip(1) {
        assert!(bits(other) == bits(full), "log-probabilities");
    }
}

fn check_tensor(step: &Step, name: &str, gradient: &[f32], random: &mut Random) {
    const STEP: f64 = 1e-4;
    let largest = gradient.iter().fold(0f64, |m, g| m.max(f64::from(g.abs())));
    assert!(largest > 1e-6, "{name} has no gradient");
    let mut tensors = step.tensors.clone();
    for at in random.sample(gradient.len(), 5) {
        let mut side = |by: f64| {
            tensors.get_mut(name).expect("a tensor")[at] = step.tensors[name][at] + by;
            step.reference_loss(&tensors)
        };
        let expected = (side(STEP) - side(-STEP)) / (2.0 * STEP);
        tensors.get_mut(name).expect("a tensor")[at] = step.tensors[name][at];
        let actual = f64::from(gradient[at]);
        let allowed = 1e-4 * expected.abs() + 2e-5 * largest;
        assert!(
            (actual - expected).abs() <= allowed,
            "{name}[{at}] is {actual}, central differences give {expected}"
        );
    }
}

fn plain(dims: Dims, tied: bool) -> ModelConfig {
    ModelConfig { tied, positions_max: 64, ..ModelConfig::llama(dims) }
}

/// Odd sizes; H·D differs from C.
const ODD: Dims = Dims { c: 20, h: 4, g: 2, d: 6, f: 27, v: 37, l: 2 };

#[test]
fn untied_gqa_two_micro_batches() {
    let mut random = Random::new(20);
    let step = Step::new(&Device::Cpu, plain(ODD, false), Shape { b: 2, t: 9 }, 2, 0.4, &mut random);
    check(&step, 7, &mut random);
}

#[test]
fn tied_mqa_two_micro_batches() {
    let mut random = Random::new(21);
    let dims = Dims { g: 1, ..ODD };
    let step = Step::new(&Device::Cpu, plain(dims, true), Shape { b: 2, t: 9 }, 2, 0.4, &mut random);
    check(&step, 18, &mut random);
}

#[test]
fn untied_mha() {
    let mut random = Random::new(22);
    // Large heads and a narrow MLP, so that attention's gradients are the larger of the buffers that
    // share memory.
    let dims = Dims { c: 16, h: 3, g: 3, d: 14, f: 5, v: 11, l: 1 };
    let step = Step::new(&Device::Cpu, plain(dims, false), Shape { b: 1, t: 17 }, 1, 0.4, &mut random);
    check(&step, 1, &mut random);
}

#[test]
fn qkv_biases_and_a_window_in_one_layer() {
    let mut random = Random::new(27);
    let config = ModelConfig {
        biases: Biases { qkv: true, o: false, mlp: false },
        window: Some(Window { size: 4, layers: vec![false, true] }),
        rope: Rope { scaling: RopeScaling::Linear { factor: 3.0 }, ..Rope::default() },
        ..plain(ODD, true)
    };
    let step = Step::new(&Device::Cpu, config, Shape { b: 2, t: 9 }, 2, 0.4, &mut random);
    check(&step, 7, &mut random);
}

#[test]
fn qk_norm_and_all_biases() {
    let mut random = Random::new(25);
    let config = ModelConfig {
        biases: Biases { qkv: true, o: true, mlp: true },
        qk_norm: Some(NormSpan::Head),
        rope: Rope {
            scaling: RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 32 },
            ..Rope::default()
        },
        ..plain(ODD, false)
    };
    let step = Step::new(&Device::Cpu, config, Shape { b: 2, t: 9 }, 2, 0.4, &mut random);
    check(&step, 18, &mut random);
}

#[test]
fn qk_norm_mqa_and_a_window_in_all_layers() {
    let mut random = Random::new(26);
    let config = ModelConfig {
        qk_norm: Some(NormSpan::Head),
        window: Some(Window { size: 3, layers: vec![true; 2] }),
        ..plain(Dims { g: 1, ..ODD }, false)
    };
    let step = Step::new(&Device::Cpu, config, Shape { b: 1, t: 17 }, 1, 0.4, &mut random);
    check(&step, 5, &mut random);
}

const YARN: RopeScaling = RopeScaling::Yarn {
    factor: 4.0,
    fast: 3.0,
    slow: 0.5,
    original_positions: 16,
    attention_factor: 1.25,
    truncate: true,
};

/// As in OLMo 3.
#[test]
fn norms_after_qk_norm_of_all_heads_and_windows_with_their_own_rotation() {
    let mut random = Random::new(28);
    let config = ModelConfig {
        norms: Norms::After,
        qk_norm: Some(NormSpan::AllHeads),
        window: Some(Window { size: 4, layers: vec![false, true] }),
        rope: Rope { scaling: YARN, windowed_theta: Some(30.0), ..Rope::default() },
        ..plain(ODD, false)
    };
    let step = Step::new(&Device::Cpu, config, Shape { b: 2, t: 9 }, 2, 0.4, &mut random);
    check(&step, 7, &mut random);
}

/// As in Gemma 3.
#[test]
fn norms_around_plus_one_gelu_and_an_embedding_multiplier() {
    let mut random = Random::new(29);
    let config = ModelConfig {
        norms: Norms::Around,
        norms_plus_one: true,
        qk_norm: Some(NormSpan::Head),
        activation: Activation::GeluTanh,
        multipliers: Multipliers { embedding: 4.5, scores: Some(0.3), ..Multipliers::default() },
        window: Some(Window { size: 4, layers: vec![true, false] }),
        rope: Rope { windowed_theta: Some(30.0), ..Rope::default() },
        ..plain(ODD, true)
    };
    let step = Step::new(&Device::Cpu, config, Shape { b: 2, t: 9 }, 2, 0.4, &mut random);
    check(&step, 7, &mut random);
}

/// As in Granite, SmolLM 3 and Ministral 3.
#[test]
fn all_multipliers_a_layer_without_rotation_and_scaled_queries() {
    let mut random = Random::new(30);
    let config = ModelConfig {
        multipliers: Multipliers { embedding: 3.0, residual: 0.6, scores: Some(0.3), logits: 0.75 },
        rope: Rope {
            without: Some(vec![true, false]),
            queries: Some(QueryScaling { beta: 0.5, positions: 3 }),
            ..Rope::default()
        },
        ..plain(ODD, true)
    };
    let step = Step::new(&Device::Cpu, config, Shape { b: 2, t: 9 }, 2, 0.4, &mut random);
    check(&step, 18, &mut random);
}

/// As in GLM-4, with YaRN.
#[test]
fn rotated_pairs_of_the_first_elements_and_all_biases() {
    let mut random = Random::new(31);
    let config = ModelConfig {
        norms: Norms::Around,
        biases: Biases { qkv: true, o: true, mlp: true },
        rope: Rope { scaling: YARN, rotated: Some(4), interleaved: true, ..Rope::default() },
        ..plain(ODD, false)
    };
    let step = Step::new(&Device::Cpu, config, Shape { b: 2, t: 9 }, 2, 0.4, &mut random);
    check(&step, 5, &mut random);
}

/// As in Phi-4-mini; with nine tokens longer than the pre-training's sequences, and not.
#[test]
fn long_rope_with_short_and_long_factors() {
    for original_positions in [8, 9] {
        let mut random = Random::new(32);
        let (short, long, attention_factor) = (vec![1.0, 1.5], vec![2.0, 6.0], 1.2);
        let scaling = RopeScaling::Long { short, long, original_positions, attention_factor };
        let config = ModelConfig {
            norms: Norms::After,
            multipliers: Multipliers { residual: 0.6, ..Multipliers::default() },
            rope: Rope { theta: 100.0, scaling, rotated: Some(4), ..Rope::default() },
            ..plain(Dims { g: 1, l: 1, ..ODD }, true)
        };
        let step = Step::new(&Device::Cpu, config, Shape { b: 1, t: 9 }, 1, 0.4, &mut random);
        check(&step, 9, &mut random);
    }
}

#[test]
fn loss_log_probabilities_and_logits_match_the_reference() {
    let mut random = Random::new(23);
    let step = Step::new(&Device::Cpu, plain(ODD, false), Shape { b: 1, t: 13 }, 1, 0.4, &mut random);
    let (batch, v) = (&step.batches[0], step.config.dims.v);
    let model = step.model(5);
    let results = Device::Cpu.run(|k| {
        let (set, added) =
            (Accumulators::new(&model), Accumulators { loss: Memory::f64s(&[2.0]), gradients: Vec::new() });
        let micro = Micro::new(&model, k, batch, &set, Recompute::Full);
        micro.forward();
        micro.run(PassId::Head(HeadTask::Loss, Write::Set));
        micro.run(PassId::Head(HeadTask::Logprobs, Write::Set));
        micro.run(PassId::Head(HeadTask::Logits, Write::Set));
        let Micro { logprobs, logits, .. } = micro;
        let micro = Micro::new(&model, k, batch, &added, Recompute::Full);
        micro.forward();
        micro.run(PassId::Head(HeadTask::Loss, Write::Add));
        vec![set.loss, added.loss, logprobs, logits]
    });
    let loss = results[0].read_f64()[0];
    assert_eq!(loss.to_bits(), trained(&model, Recompute::Full)[0].read_f64()[0].to_bits());
    assert!((results[1].read_f64()[0] - loss - 2.0).abs() < 1e-12);
    let expected = logits(&step.config, &step.tensors, batch);
    let last = &expected[expected.len() - v..];
    close("logits", &results[3].read_f32(), last, 1e-5, 1e-5);
    let logprob = |(logits, &target): (&[f64], &i32)| match target {
        -100 => 0.0,
        target => logits[target as usize] - logits.iter().map(|x| x.exp()).sum::<f64>().ln(),
    };
    let logprobs: Vec<f64> = expected.chunks_exact(v).zip(&batch.targets).map(logprob).collect();
    close("log-probabilities", &results[2].read_f32(), &logprobs, 1e-5, 1e-5);
}

/// On CUDA, where activations are bf16, every gradient equals the CPU's up to rounding, all
/// recompute modes give the same bits, and the GEMMs are those prepared before the first step.
#[test]
fn gradients_on_cuda_match_the_cpu() {
    let dims = Dims { c: 64, h: 2, g: 1, d: 64, f: 72, v: 37, l: 2 };
    let (shape, chunk) = (Shape { b: 2, t: 9 }, 7);
    // Keeps activations near 1, so that rounding errors are not amplified.
    const SCALE: f32 = 0.2;
    for device in Device::all() {
        let Device::Cuda(cuda) = &device else { continue };
        let all_options = ModelConfig {
            biases: Biases { qkv: true, o: true, mlp: true },
            qk_norm: Some(NormSpan::Head),
            window: Some(Window { size: 4, layers: vec![false, true] }),
            ..plain(dims, false)
        };
        let olmo = ModelConfig {
            norms: Norms::After,
            qk_norm: Some(NormSpan::AllHeads),
            multipliers: Multipliers { embedding: 3.0, residual: 0.6, scores: Some(0.2), logits: 0.75 },
            rope: Rope {
                scaling: YARN,
                rotated: Some(32),
                interleaved: true,
                without: Some(vec![true, false]),
                ..Rope::default()
            },
            ..plain(dims, false)
        };
        let gemma = ModelConfig {
            norms: Norms::Around,
            norms_plus_one: true,
            qk_norm: Some(NormSpan::Head),
            activation: Activation::GeluTanh,
            window: Some(Window { size: 4, layers: vec![true, false] }),
            rope: Rope {
                windowed_theta: Some(30.0),
                queries: Some(QueryScaling { beta: 0.5, positions: 3 }),
                ..Rope::default()
            },
            ..plain(dims, true)
        };
        for config in [plain(dims, false), plain(dims, true), all_options, olmo, gemma] {
            let mut random = Random::new(24);
            let step = Step::new(&device, config.clone(), shape, 2, SCALE, &mut random);
            let model = step.model(chunk);
            cuda.kernels().prepare(&model.passes.gemms()).expect("the GEMMs are prepared");
            let prepared = cuda.kernels().choices();
            let results = trained(&model, Recompute::Full);
            other_paths_give_the_same_bits(&step, chunk, &results);
            assert_eq!(cuda.kernels().choices(), prepared, "a GEMM was not prepared");

            let mut random = Random::new(24);
            let cpu = Step::new(&Device::Cpu, config.clone(), shape, 2, SCALE, &mut random);
            let cpu = trained(&cpu.model(chunk), Recompute::Full);
            let (loss, expected) = (results[0].read_f64()[0], cpu[0].read_f64()[0]);
            assert!((loss - expected).abs() <= 0.01 * expected, "loss {loss}, the CPU's {expected}");
            for ((unit, result), cpu) in model.layout.units.iter().zip(&results[1..]).zip(&cpu[1..]) {
                let (found, expected) = (result.read_f32(), cpu.read_f32());
                for tensor in &unit.tensors {
                    let elements = tensor.offset..tensor.offset + tensor.elements();
                    let expected = wide(&expected[elements.clone()]);
                    // A gradient passes through about a dozen roundings of 2^-9, and more with QK-norm: in
                    // eight random runs its small sums over rows had errors of 1 to 5 %.
                    let bound = if config.qk_norm.is_some() { 0.08 } else { 0.05 };
                    close(&tensor.name, &found[elements], &expected, 0.0, bound);
                }
            }
        }
    }
}
