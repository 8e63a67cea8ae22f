//! The whole model, composed as the engine composes it: on the CPU the gradient of every tensor against central
//! differences of the f64 reference, on CUDA against the CPU.

use horizon::base::{DType, Dims, Shape, UnitIndex};
use horizon::model::{
    Biases, Constants, HeadScratch, HeadSpans, LayerScratch, Layout, ModelConfig, Recompute, RopeScaling,
    Window, embed_backward, embed_forward, head_forward, head_forward_backward, head_logits, layer_backward,
    layer_forward,
};
use horizon::ops::{Kernels, LossRows, Write};
use support::reference::compare::close;
use support::reference::decoder::{Batch, Tensors, logits, loss};
use support::reference::device::Device;
use support::reference::memory::Memory;
use support::reference::rows::{DocumentRows, SortedTokens};
use support::reference::{Random, wide};

/// A model with weights in memory, and the micro-batches of a step.
struct Step<'a> {
    device: &'a Device,
    config: ModelConfig,
    layout: Layout,
    tensors: Tensors,
    weights: Vec<Memory>,
    batches: Vec<Batch>,
}

impl<'a> Step<'a> {
    fn new(
        device: &'a Device,
        config: ModelConfig,
        shape: Shape,
        micros: usize,
        weight_scale: f32,
        random: &mut Random,
    ) -> Self {
        let dims = config.dims;
        config.validate().expect("sizes of a decoder");
        let layout = Layout::new(&config);
        let (mut tensors, mut weights) = (Tensors::new(), Vec::new());
        for unit in &layout.units {
            // Padding of weights is zero.
            let mut values = vec![0f32; unit.elements];
            for tensor in &unit.tensors {
                let mut drawn =
                    random.bf16s(tensor.elements(), if tensor.decays() { weight_scale } else { 0.5 });
                if !tensor.decays() && !tensor.name.ends_with(".bias") {
                    drawn.iter_mut().for_each(|w| *w = if *w < 0.0 { 0.75 } else { 1.25 });
                }
                values[tensor.offset..][..drawn.len()].copy_from_slice(&drawn);
                tensors.insert(tensor.name.clone(), wide(&drawn));
            }
            weights.push(device.bf16s(&values));
        }
        let batches = (0..micros).map(|_| Batch::random(shape, dims.v, random)).collect();
        Step { device, config, layout, tensors, weights, batches }
    }

    fn weights(&self, unit: UnitIndex) -> horizon::device::DeviceSpan {
        self.weights[unit.at()].span()
    }

    fn head_weights(&self) -> HeadSpans {
        let embedding = self.weights(self.layout.embedding());
        HeadSpans::of(&self.layout, self.weights(self.layout.head()), Some(embedding), DType::Bf16)
    }

    /// 1 / Σ weights of the step.
    fn scale(&self) -> f32 {
        (1.0 / self.batches.iter().map(Batch::weight).sum::<f64>()) as f32
    }

    /// f64 loss of the step for some tensors, as the step's gradients see it.
    fn reference_loss(&self, tensors: &Tensors) -> f64 {
        let sum: f64 = self.batches.iter().map(|batch| loss(&self.config, tensors, batch)).sum();
        sum * f64::from(self.scale())
    }

    /// The loss, then the gradient of every unit: what a step computes on the device.
    fn run(&self, k: &dyn Kernels, chunk: usize, recompute: Recompute) -> Vec<Memory> {
        let (config, layout, dims, device) = (&self.config, &self.layout, &self.config.dims, self.device);
        let gradients: Vec<Memory> = layout.units.iter().map(|u| device.painted(u.elements * 4)).collect();
        let loss_sum = device.painted(8);
        let embedding = gradients[0].span();
        let head = gradients[layout.head().at()].span();
        let dhead = HeadSpans::of(layout, head, Some(embedding), DType::F32);
        let constants_memory = device.f32s(&Constants::values(config));
        let constants = Constants::carve(constants_memory.span(), config);
        for (micro, batch) in self.batches.iter().enumerate() {
            let write = if micro == 0 { Write::Set } else { Write::Add };
            let (shape, boundary_bytes) = (batch.shape, batch.shape.n() * dims.c * k.storage().bytes());
            let (tokens, targets) = (SortedTokens::new(device, &batch.tokens), device.i32s(&batch.targets));
            let (documents, weights) =
                (DocumentRows::new(device, shape, &batch.starts), device.f32s(&batch.weights));
            let (rows, tokens) = (documents.rows(), tokens.rows());
            let loss_rows =
                LossRows { targets: targets.span(), weights: weights.span(), scale: self.scale() };
            let memory = device.painted(LayerScratch::bytes(config, shape, k.storage()));
            let kept_bytes = LayerScratch::kept_bytes(recompute, config, shape, k.storage());
            let kept: Vec<Memory> = (0..dims.l).map(|_| device.painted(kept_bytes)).collect();
            let scratch = |layer: usize| {
                LayerScratch::carve(memory.span(), config, shape, k.storage()).keeping(
                    kept[layer].span(),
                    recompute,
                    config,
                    shape,
                    k.storage(),
                )
            };
            let head_memory = device.painted(HeadScratch::bytes(dims, shape, k.storage(), chunk));
            let head_scratch = HeadScratch::carve(head_memory.span(), dims, shape, k.storage(), chunk);

            let boundaries: Vec<Memory> = (0..=dims.l).map(|_| device.painted(boundary_bytes)).collect();
            let table = self.weights(layout.embedding());
            embed_forward(k, config, table, tokens.tokens, shape, boundaries[0].span());
            for layer in 0..dims.l {
                let unit = layout.layer(layer);
                let (x, out) = (boundaries[layer].span(), boundaries[layer + 1].span());
                layer_forward(
                    k,
                    config,
                    &constants,
                    layout.unit(unit),
                    self.weights(unit),
                    &rows,
                    x,
                    out,
                    &scratch(layer),
                );
            }
            let stream = boundaries[dims.l].span();
            head_forward_backward(
                k,
                config,
                self.head_weights(),
                dhead,
                write,
                &loss_rows,
                loss_sum.span(),
                shape,
                stream,
                &head_scratch,
            );
            for layer in (0..dims.l).rev() {
                let unit = layout.layer(layer);
                layer_backward(
                    k,
                    config,
                    &constants,
                    layout.unit(unit),
                    self.weights(unit),
                    gradients[unit.at()].span(),
                    write,
                    &rows,
                    boundaries[layer].span(),
                    stream,
                    &scratch(layer),
                );
            }
            let write = if config.tied { Write::Add } else { write };
            embed_backward(k, config, embedding, write, &tokens, shape, stream);
        }
        [loss_sum].into_iter().chain(gradients).collect()
    }

    /// Every tensor's gradient against central differences, and zeros between tensors.
    fn check(&self, chunk: usize, random: &mut Random) {
        let results = self.device.run(|k| self.run(k, chunk, Recompute::Full));
        self.keeping_changes_no_bit(chunk, &results);
        let loss = results[0].read_f64()[0] * f64::from(self.scale());
        let expected = self.reference_loss(&self.tensors);
        assert!((loss - expected).abs() <= 1e-6 * expected, "loss {loss}, expected {expected}");

        for (unit, gradient) in self.layout.units.iter().zip(&results[1..]) {
            let gradient = gradient.read_f32();
            let mut padding = vec![true; unit.elements];
            for tensor in &unit.tensors {
                padding[tensor.offset..][..tensor.elements()].fill(false);
                self.check_tensor(&tensor.name, &gradient[tensor.offset..][..tensor.elements()], random);
            }
            for at in (0..unit.elements).filter(|&at| padding[at]) {
                assert_eq!(gradient[at], 0.0, "padding element {at} of {:?}", unit.kind);
            }
        }
    }

    /// Whatever is kept instead of computed again, loss and gradients have the same bits.
    fn keeping_changes_no_bit(&self, chunk: usize, computed_again: &[Memory]) {
        let bits = |memory: &Memory| memory.read_f32().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        for recompute in [Recompute::Selective, Recompute::None] {
            let kept = self.device.run(|k| self.run(k, chunk, recompute));
            for (kept, again) in kept.iter().zip(computed_again) {
                assert!(bits(kept) == bits(again), "{recompute:?}");
            }
        }
    }

    fn check_tensor(&self, name: &str, gradient: &[f32], random: &mut Random) {
        const STEP: f64 = 1e-4;
        let largest = gradient.iter().fold(0f64, |m, g| m.max(f64::from(g.abs())));
        assert!(largest > 1e-6, "{name} has no gradient");
        let mut tensors = self.tensors.clone();
        for at in random.sample(gradient.len(), 5) {
            let mut side = |by: f64| {
                tensors.get_mut(name).expect("a tensor")[at] = self.tensors[name][at] + by;
                self.reference_loss(&tensors)
            };
            let expected = (side(STEP) - side(-STEP)) / (2.0 * STEP);
            tensors.get_mut(name).expect("a tensor")[at] = self.tensors[name][at];
            let actual = f64::from(gradient[at]);
            let allowed = 1e-4 * expected.abs() + 2e-5 * largest;
            assert!(
                (actual - expected).abs() <= allowed,
                "{name}[{at}] is {actual}, central differences give {expected}"
            );
        }
    }
}

fn plain(dims: Dims, tied: bool) -> ModelConfig {
    ModelConfig { tied, positions_max: 64, ..ModelConfig::llama(dims) }
}

/// Odd everything; heads' width H·D is not C.
const ODD: Dims = Dims { c: 20, h: 4, g: 2, d: 6, f: 27, v: 37, l: 2 };

#[test]
fn untied_grouped_heads_two_micro_batches() {
    let mut random = Random::new(20);
    Step::new(&Device::Cpu, plain(ODD, false), Shape { b: 2, t: 9 }, 2, 0.4, &mut random)
        .check(7, &mut random);
}

#[test]
fn tied_one_key_head_two_micro_batches() {
    let mut random = Random::new(21);
    let dims = Dims { g: 1, ..ODD };
    Step::new(&Device::Cpu, plain(dims, true), Shape { b: 2, t: 9 }, 2, 0.4, &mut random)
        .check(18, &mut random);
}

#[test]
fn untied_as_many_key_heads_as_query_heads() {
    let mut random = Random::new(22);
    // Wide heads and a narrow feed-forward: attention's gradients are the larger of what shares memory.
    let dims = Dims { c: 16, h: 3, g: 3, d: 14, f: 5, v: 11, l: 1 };
    Step::new(&Device::Cpu, plain(dims, false), Shape { b: 1, t: 17 }, 1, 0.4, &mut random)
        .check(1, &mut random);
}

#[test]
fn biases_of_attention_and_a_window_in_one_layer() {
    let mut random = Random::new(27);
    let config = ModelConfig {
        biases: Biases { qkv: true, o: false, mlp: false },
        window: Some(Window { size: 4, layers: vec![false, true] }),
        rope_scaling: RopeScaling::Linear { factor: 3.0 },
        ..plain(ODD, true)
    };
    Step::new(&Device::Cpu, config, Shape { b: 2, t: 9 }, 2, 0.4, &mut random).check(7, &mut random);
}

#[test]
fn norms_of_heads_and_every_bias() {
    let mut random = Random::new(25);
    let config = ModelConfig {
        biases: Biases { qkv: true, o: true, mlp: true },
        qk_norm: true,
        rope_scaling: RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 32 },
        ..plain(ODD, false)
    };
    Step::new(&Device::Cpu, config, Shape { b: 2, t: 9 }, 2, 0.4, &mut random).check(18, &mut random);
}

#[test]
fn norms_of_one_key_head_and_a_window_everywhere() {
    let mut random = Random::new(26);
    let config = ModelConfig {
        qk_norm: true,
        window: Some(Window { size: 3, layers: vec![true; 2] }),
        ..plain(Dims { g: 1, ..ODD }, false)
    };
    Step::new(&Device::Cpu, config, Shape { b: 1, t: 17 }, 1, 0.4, &mut random).check(5, &mut random);
}

#[test]
fn loss_alone_is_the_loss_of_training_and_logits_are_the_reference() {
    let mut random = Random::new(23);
    let step = Step::new(&Device::Cpu, plain(ODD, false), Shape { b: 1, t: 13 }, 1, 0.4, &mut random);
    let (batch, config, dims) = (&step.batches[0], &step.config, &step.config.dims);
    let (shape, chunk) = (batch.shape, 5);
    let (targets, weights) = (Memory::i32s(&batch.targets), Memory::f32s(&batch.weights));
    let (tokens, documents) =
        (Memory::i32s(&batch.tokens), DocumentRows::new(&Device::Cpu, shape, &batch.starts));
    let rows = documents.rows();
    let constants_memory = Memory::f32s(&Constants::values(config));
    let constants = Constants::carve(constants_memory.span(), config);
    let loss_rows = LossRows { targets: targets.span(), weights: weights.span(), scale: 1.0 };
    let last = 12;
    let results = Device::Cpu.run(|k| {
        let memory = Memory::painted(LayerScratch::bytes(config, shape, k.storage()));
        let scratch = LayerScratch::carve(memory.span(), config, shape, k.storage());
        let head_memory = Memory::painted(HeadScratch::bytes(dims, shape, k.storage(), chunk));
        let head_scratch = HeadScratch::carve(head_memory.span(), dims, shape, k.storage(), chunk);
        let (x, out) = (Memory::painted(shape.n() * dims.c * 4), Memory::painted(shape.n() * dims.c * 4));
        embed_forward(k, config, step.weights(UnitIndex(0)), tokens.span(), shape, x.span());
        let mut places = (x.span(), out.span());
        for layer in 0..dims.l {
            let unit = step.layout.layer(layer);
            let (x, out) = places;
            let layout = step.layout.unit(unit);
            layer_forward(k, config, &constants, layout, step.weights(unit), &rows, x, out, &scratch);
            places = (out, x);
        }
        let (stream, head) = (places.0, step.head_weights());
        let (loss, sum) = (Memory::painted(8), Memory::f64s(&[2.0]));
        head_forward(k, config, head, Write::Set, &loss_rows, loss.span(), shape, stream, &head_scratch);
        head_forward(k, config, head, Write::Add, &loss_rows, sum.span(), shape, stream, &head_scratch);
        let logits = Memory::painted(dims.v * 4);
        head_logits(k, config, head, last, logits.span(), stream, &head_scratch);
        vec![loss, sum, logits]
    });
    let trained = Device::Cpu.run(|k| step.run(k, chunk, Recompute::Full));
    let loss = results[0].read_f64()[0];
    assert_eq!(loss.to_bits(), trained[0].read_f64()[0].to_bits());
    assert!((results[1].read_f64()[0] - loss - 2.0).abs() < 1e-12);
    let expected = &logits(config, &step.tensors, batch)[last * dims.v..][..dims.v];
    close("logits", &results[2].read_f32(), expected, 1e-5, 1e-5);
}

/// The same composition on CUDA, where activations are bf16: every gradient is the CPU's but for roundings, nothing kept
/// changes a bit, and the products are those that are prepared before a first step.
#[test]
fn on_cuda_gradients_are_those_of_the_cpu() {
    let dims = Dims { c: 64, h: 2, g: 1, d: 64, f: 72, v: 37, l: 2 };
    let (shape, chunk) = (Shape { b: 2, t: 9 }, 7);
    // Activations of about 1, so that no rounding is magnified.
    const SCALE: f32 = 0.2;
    for device in Device::all() {
        let Device::Cuda(cuda) = &device else { continue };
        let every = ModelConfig {
            biases: Biases { qkv: true, o: true, mlp: true },
            qk_norm: true,
            window: Some(Window { size: 4, layers: vec![false, true] }),
            ..plain(dims, false)
        };
        for config in [plain(dims, false), plain(dims, true), every] {
            let mut random = Random::new(24);
            let step = Step::new(&device, config.clone(), shape, 2, SCALE, &mut random);
            cuda.kernels().prepare(&horizon::model::products(&dims, shape, chunk)).expect("products");
            let prepared = cuda.kernels().choices();
            let results = device.run(|k| step.run(k, chunk, Recompute::Full));
            step.keeping_changes_no_bit(chunk, &results);
            assert_eq!(cuda.kernels().choices(), prepared, "a product was not prepared");

            let mut random = Random::new(24);
            let cpu = Step::new(&Device::Cpu, config.clone(), shape, 2, SCALE, &mut random);
            let cpu = Device::Cpu.run(|k| cpu.run(k, chunk, Recompute::Full));
            let (loss, expected) = (results[0].read_f64()[0], cpu[0].read_f64()[0]);
            assert!((loss - expected).abs() <= 0.01 * expected, "loss {loss}, the CPU's {expected}");
            for ((unit, result), cpu) in step.layout.units.iter().zip(&results[1..]).zip(&cpu[1..]) {
                let (found, expected) = (result.read_f32(), cpu.read_f32());
                for tensor in &unit.tensors {
                    let elements = tensor.offset..tensor.offset + tensor.elements();
                    let expected = wide(&expected[elements.clone()]);
                    // A dozen roundings of 2^-9 lie on the way of a gradient, and more with a norm on every head: of
                    // eight draws its small sums over rows erred by 1 to 5 %.
                    let bound = if config.qk_norm { 0.08 } else { 0.05 };
                    close(&tensor.name, &found[elements], &expected, 0.0, bound);
                }
            }
        }
    }
}
