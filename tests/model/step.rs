//! A model and the micro-batches of a step, composed of passes as the engine composes them.

use horizon::base::{Shape, UnitIndex};
use horizon::device::DeviceSpan;
use horizon::model::{
    Base, External, HeadTask, Layout, ModelConfig, Owner, PassId, Passes, Recompute, Sizes, constants,
};
use horizon::ops::{Kernels, Scalars, Write};
use support::reference::decoder::{Batch, Tensors, loss};
use support::reference::device::Device;
use support::reference::memory::Memory;
use support::reference::rows::{DocumentRows, SortedTokens};
use support::reference::{Random, wide};
use support::spans;

/// A model's tensors, and the micro-batches of a step.
pub struct Step<'a> {
    pub device: &'a Device,
    pub config: ModelConfig,
    pub tensors: Tensors,
    pub batches: Vec<Batch>,
}

impl<'a> Step<'a> {
    pub fn new(
        device: &'a Device,
        config: ModelConfig,
        shape: Shape,
        micros: usize,
        weight_scale: f32,
        random: &mut Random,
    ) -> Self {
        config.validate().expect("sizes of a decoder");
        let mut tensors = Tensors::new();
        for (_, tensor) in Layout::new(&config).tensors() {
            let mut drawn = random.bf16s(tensor.elements(), if tensor.decays() { weight_scale } else { 0.5 });
            if !tensor.decays() && !tensor.name.ends_with(".bias") {
                drawn.iter_mut().for_each(|w| *w = if *w < 0.0 { 0.75 } else { 1.25 });
            }
            tensors.insert(tensor.name.clone(), wide(&drawn));
        }
        let batches = (0..micros).map(|_| Batch::random(shape, config.dims.v, random)).collect();
        Step { device, config, tensors, batches }
    }

    /// 1 / Σ weights of the step.
    pub fn scale(&self) -> f32 {
        (1.0 / self.batches.iter().map(Batch::weight).sum::<f64>()) as f32
    }

    /// f64 loss of the step for some tensors, as the step's gradients see it.
    pub fn reference_loss(&self, tensors: &Tensors) -> f64 {
        let sum: f64 = self.batches.iter().map(|batch| loss(&self.config, tensors, batch)).sum();
        sum * f64::from(self.scale())
    }

    /// The model with each layer as one unit.
    pub fn model(&self, chunk: usize) -> Model<'_> {
        Model::new(self, self.config.clone(), chunk)
    }

    /// The model with each layer as two units.
    pub fn model_in_halves(&self, chunk: usize) -> Model<'_> {
        Model::new(self, ModelConfig { split_layers: true, ..self.config.clone() }, chunk)
    }
}

/// A model in memory, by unit, and its passes.
pub struct Model<'a> {
    step: &'a Step<'a>,
    pub layout: Layout,
    pub passes: Passes,
    weights: Vec<Memory>,
    constants: Memory,
}

impl<'a> Model<'a> {
    fn new(step: &'a Step<'a>, config: ModelConfig, logits_chunk: usize) -> Self {
        let (device, layout) = (step.device, Layout::new(&config));
        let weights = layout.units.iter().map(|unit| {
            // Padding of weights is zero.
            let mut values = vec![0f32; unit.elements];
            for tensor in &unit.tensors {
                let from = &step.tensors[&tensor.name];
                values[tensor.offset..][..from.len()]
                    .iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| *to = *from as f32);
            }
            device.bf16s(&values)
        });
        let weights = weights.collect();
        let sizes =
            Sizes { shape: step.batches[0].shape, logits_chunk, activation_dtype: device.activation_dtype() };
        let passes = Passes::new(&config, &layout, sizes);
        Model { step, layout, passes, weights, constants: device.f32s(&constants(&config)) }
    }

    pub fn device(&self) -> &Device {
        self.step.device
    }

    /// The loss, then the gradient of every unit: what a step computes on the device. The head does `task`.
    pub fn run(&self, k: &dyn Kernels, recompute: Recompute, task: HeadTask) -> Vec<Memory> {
        let sums = Sums::new(self);
        let layers: Vec<UnitIndex> = self.layout.layer_units().collect();
        for (micro, batch) in self.step.batches.iter().enumerate() {
            let write = if micro == 0 { Write::Set } else { Write::Add };
            let micro = Micro::new(self, k, batch, &sums, recompute);
            micro.forward();
            micro.run(PassId::Head(task, write));
            for &unit in layers.iter().rev() {
                micro.run(PassId::Backward(unit, recompute, write));
            }
            micro.run(PassId::EmbeddingBackward(write));
        }
        [sums.loss].into_iter().chain(sums.gradients).collect()
    }
}

/// Sums over micro-batches, poisoned.
pub struct Sums {
    pub loss: Memory,
    pub gradients: Vec<Memory>,
}

impl Sums {
    pub fn new(model: &Model) -> Sums {
        let (device, units) = (model.step.device, &model.layout.units);
        let gradients = units.iter().map(|unit| device.painted(unit.elements * 4)).collect();
        Sums { loss: device.painted(8), gradients }
    }
}

/// A micro-batch in memory. What it does not find there is poisoned.
pub struct Micro<'a> {
    model: &'a Model<'a>,
    k: &'a dyn Kernels,
    sums: &'a Sums,
    recompute: Recompute,
    tokens: SortedTokens,
    documents: DocumentRows,
    targets: Memory,
    weights: Memory,
    /// The boundary below each unit but the embedding.
    boundaries: Vec<Memory>,
    /// By unit between embedding and head.
    kept: Vec<Memory>,
    /// The gradient of each log-probability under the loss, until they are set themselves.
    pub logprobs: Memory,
    pub logits: Memory,
}

impl<'a> Micro<'a> {
    pub fn new(
        model: &'a Model<'a>,
        k: &'a dyn Kernels,
        batch: &Batch,
        sums: &'a Sums,
        recompute: Recompute,
    ) -> Micro<'a> {
        let Model { step: Step { device, config, .. }, layout, passes, .. } = model;
        let boundary = |_| device.painted_activations(batch.shape.n() * config.dims.c);
        let kept = |unit| device.painted(passes.saved_bytes(unit, recompute));
        // Those of ignored rows do not count.
        let dlogprobs = batch.targets.iter().zip(&batch.weights).map(|(target, weight)| match target {
            -100 => f32::NAN,
            _ => -weight * model.step.scale(),
        });
        Micro {
            model,
            k,
            sums,
            recompute,
            tokens: SortedTokens::new(device, &batch.tokens),
            documents: DocumentRows::new(device, batch.shape, &batch.starts),
            targets: device.i32s(&batch.targets),
            weights: device.f32s(&batch.weights),
            boundaries: layout.units[1..].iter().map(boundary).collect(),
            kept: layout.layer_units().map(kept).collect(),
            logprobs: device.f32s(&dlogprobs.collect::<Vec<_>>()),
            logits: device.painted(config.dims.v * 4),
        }
    }

    /// From the tokens to the last boundary.
    pub fn forward(&self) {
        self.run(PassId::EmbeddingForward);
        for unit in self.model.layout.layer_units() {
            self.run(PassId::Forward(unit, self.recompute));
        }
    }

    /// Runs a pass in scratch memory of the length that it asks for, poisoned.
    pub fn run(&self, id: PassId) {
        let pass = self.model.passes.get(id);
        let scratch = self.model.step.device.painted(pass.scratch_bytes);
        let scalars = Scalars { loss_scale: self.model.step.scale(), distinct: self.tokens.rows().distinct };
        for op in &pass.ops {
            let mut op = op.map(&mut |slot| {
                let memory = self.memory(id, slot.base, &scratch);
                // The logits asked for are those of the last row.
                let is_row = id == PassId::Head(HeadTask::Logits, Write::Set) && slot.base == STREAM;
                let row = if is_row { memory.bytes() - slot.bytes } else { 0 };
                memory.subspan(row + slot.offset, slot.bytes)
            });
            op.set(&scalars);
            spans::run(self.k, &op);
        }
    }

    fn memory(&self, id: PassId, base: Base, scratch: &Memory) -> DeviceSpan {
        let layout = &self.model.layout;
        let unit = match id {
            PassId::EmbeddingForward | PassId::EmbeddingBackward(_) => layout.embedding(),
            PassId::Forward(unit, _) | PassId::Backward(unit, ..) => unit,
            PassId::Head(..) => layout.head(),
        };
        let of = |owner| if owner == Owner::Own { unit.at() } else { layout.embedding().at() };
        let (tokens, documents) = (self.tokens.rows(), self.documents.rows());
        match base {
            Base::Weights(owner) => self.model.weights[of(owner)].span(),
            Base::Gradient(owner) => self.sums.gradients[of(owner)].span(),
            Base::Scratch => scratch.span(),
            Base::Saved => self.kept[unit.at() - 1].span(),
            Base::External(external) => match external {
                External::Input => self.boundaries[unit.at() - 1].span(),
                External::Output => self.boundaries[unit.at()].span(),
                External::ResidualStream => self.boundaries[layout.head().at() - 1].span(),
                // The whole of the embedding is there.
                External::Tokens | External::Gathered => tokens.tokens,
                External::Order => tokens.order,
                External::First => tokens.first,
                External::Positions => documents.positions,
                External::DocStart => documents.doc_start,
                External::DocEnd => documents.doc_end,
                External::Targets => self.targets.span(),
                External::TargetWeights => self.weights.span(),
                External::InvFreq => self.model.constants.span(),
                External::Loss => self.sums.loss.span(),
                External::Logprobs => self.logprobs.span(),
                External::Logits => self.logits.span(),
            },
        }
    }
}

const STREAM: Base = Base::External(External::ResidualStream);
