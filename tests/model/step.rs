//! A model and the micro-batches of a step, composed of passes as in the engine.

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
                let offset = config.norm_offset();
                drawn.iter_mut().for_each(|w| *w = if *w < 0.0 { 0.75 } else { 1.25 } - offset);
            }
            tensors.insert(tensor.name.clone(), wide(&drawn));
        }
        let batches = (0..micros).map(|_| Batch::random(shape, config.dims.v, random)).collect();
        Step { device, config, tensors, batches }
    }

    /// 1 / Σ weights of the targets of the step.
    pub fn scale(&self) -> f32 {
        (1.0 / self.batches.iter().map(Batch::weight).sum::<f64>()) as f32
    }

    /// The f64 loss of the step for the given tensors, scaled like the loss whose gradients a step
    /// computes.
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

/// A model in device memory, by unit, and its passes.
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
            // Padding stays zero.
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
        Model {
            step,
            layout,
            passes,
            weights,
            constants: device.f32s(&constants(&config, step.batches[0].shape.t)),
        }
    }

    pub fn device(&self) -> &Device {
        self.step.device
    }

    /// Runs a step with a task of the head; returns the loss, then the gradient of every unit.
    pub fn run(&self, k: &dyn Kernels, recompute: Recompute, task: HeadTask) -> Vec<Memory> {
        let accumulators = Accumulators::new(self);
        let layers: Vec<UnitIndex> = self.layout.layer_units().collect();
        for (micro, batch) in self.step.batches.iter().enumerate() {
            let write = if micro == 0 { Write::Set } else { Write::Add };
            let micro = Micro::new(self, k, batch, &accumulators, recompute);
            micro.forward();
            micro.run(PassId::Head(task, write));
            for &unit in layers.iter().rev() {
                micro.run(PassId::Backward(unit, recompute, write));
            }
            micro.run(PassId::EmbeddingBackward(write));
        }
        [accumulators.loss].into_iter().chain(accumulators.gradients).collect()
    }
}

/// Accumulators of loss and gradients, initially poisoned.
pub struct Accumulators {
    pub loss: Memory,
    pub gradients: Vec<Memory>,
}

impl Accumulators {
    pub fn new(model: &Model) -> Accumulators {
        let (device, units) = (model.step.device, &model.layout.units);
        let gradients = units.iter().map(|unit| device.poisoned(unit.elements * 4)).collect();
        Accumulators { loss: device.poisoned(8), gradients }
    }
}

/// A micro-batch in device memory. Memory without inputs is poisoned.
pub struct Micro<'a> {
    model: &'a Model<'a>,
    k: &'a dyn Kernels,
    accumulators: &'a Accumulators,
    recompute: Recompute,
    tokens: SortedTokens,
    documents: DocumentRows,
    targets: Memory,
    weights: Memory,
    /// The boundary below each unit except the embedding.
    boundaries: Vec<Memory>,
    /// Saved activations, by unit between embedding and head.
    saved: Vec<Memory>,
    /// The gradient of the loss by each log-probability, until `Logprobs` overwrites it.
    pub logprobs: Memory,
    pub logits: Memory,
}

impl<'a> Micro<'a> {
    pub fn new(
        model: &'a Model<'a>,
        k: &'a dyn Kernels,
        batch: &Batch,
        accumulators: &'a Accumulators,
        recompute: Recompute,
    ) -> Micro<'a> {
        let Model { step: Step { device, config, .. }, layout, passes, .. } = model;
        let boundary = |_| device.poisoned_activations(batch.shape.n() * config.dims.c);
        let saved = |unit| device.poisoned(passes.saved_bytes(unit, recompute));
        // Ignored rows must not be read.
        let dlogprobs = batch.targets.iter().zip(&batch.weights).map(|(target, weight)| match target {
            -100 => f32::NAN,
            _ => -weight * model.step.scale(),
        });
        Micro {
            model,
            k,
            accumulators,
            recompute,
            tokens: SortedTokens::new(device, &batch.tokens),
            documents: DocumentRows::new(device, batch.shape, &batch.starts),
            targets: device.i32s(&batch.targets),
            weights: device.f32s(&batch.weights),
            boundaries: layout.units[1..].iter().map(boundary).collect(),
            saved: layout.layer_units().map(saved).collect(),
            logprobs: device.f32s(&dlogprobs.collect::<Vec<_>>()),
            logits: device.poisoned(config.dims.v * 4),
        }
    }

    /// Runs forward from the tokens to the last boundary.
    pub fn forward(&self) {
        self.run(PassId::EmbeddingForward);
        for unit in self.model.layout.layer_units() {
            self.run(PassId::Forward(unit, self.recompute));
        }
    }

    /// Runs a pass in poisoned scratch memory of exactly the length that it needs.
    pub fn run(&self, id: PassId) {
        let pass = self.model.passes.get(id);
        let scratch = self.model.step.device.poisoned(pass.scratch_bytes);
        let scalars = Scalars { loss_scale: self.model.step.scale(), distinct: self.tokens.rows().distinct };
        for op in &pass.ops {
            let mut op = op.map(&mut |location| {
                let memory = self.memory(id, location.base, &scratch);
                // `Logits` computes the logits of the last row.
                let is_row =
                    id == PassId::Head(HeadTask::Logits, Write::Set) && location.base == RESIDUAL_STREAM;
                let row = if is_row { memory.bytes() - location.bytes } else { 0 };
                memory.subspan(row + location.offset, location.bytes)
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
            Base::Gradient(owner) => self.accumulators.gradients[of(owner)].span(),
            Base::Scratch => scratch.span(),
            Base::Saved => self.saved[unit.at() - 1].span(),
            Base::External(external) => match external {
                External::Input => self.boundaries[unit.at() - 1].span(),
                External::Output => self.boundaries[unit.at()].span(),
                External::ResidualStream => self.boundaries[layout.head().at() - 1].span(),
                // The whole embedding is in device memory, so rows are token ids.
                External::Tokens | External::Gathered => tokens.tokens,
                External::Order => tokens.order,
                External::First => tokens.first,
                External::Positions => documents.positions,
                External::DocStart => documents.doc_start,
                External::DocEnd => documents.doc_end,
                External::Targets => self.targets.span(),
                External::TargetWeights => self.weights.span(),
                External::InvFreq => self.model.constants.span(),
                External::Loss => self.accumulators.loss.span(),
                External::Logprobs => self.logprobs.span(),
                External::Logits => self.logits.span(),
            },
        }
    }
}

const RESIDUAL_STREAM: Base = Base::External(External::ResidualStream);
