//! The device arena: the range of every device resource of the schedule.

use crate::base::{ChunkIndex, MicroIndex, Shape, SlabIndex};
use crate::model::{External, Layout, ModelConfig, Passes, Sizes, UnitLayout, constant_bytes};
use crate::plan::carve::{ArenaRange, Carver, Region};
use crate::schedule::{Accumulator, Geometry, GradWait, Policy, Resource};

const SLOTS: &str = "weight slots";
const END_WEIGHTS: &str = "embedding and head weights";
const END_GRADIENTS: &str = "embedding and head gradients (f32)";
const GRADIENT: &str = "layer gradient (f32)";
const ACCUMULATOR_SPILLS: &str = "accumulator spill buffers (f32)";
const LAYER_GRADIENTS: &str = "layer gradients (f32)";
const SLABS: &str = "gradient slabs";
const SCRATCH: &str = "scratch";
const LOSS: &str = "loss";
const NORMS: &str = "gradient norms";
const LOGITS: &str = "logits row";
const LOGPROBS: &str = "log-probabilities";
const CONSTANTS: &str = "constants";
const WORKSPACE: &str = "kernels' workspace";
const BATCHES: &str = "batches";
const BOUNDARIES: &str = "boundaries";
const BOUNDARY_SPILLS: &str = "boundary spill buffers";
const SAVED: &str = "saved activations";
const RESIDUAL_STREAM: &str = "residual stream";

/// The arrays of a micro-batch, with the same layout on host and device. They are contiguous, so
/// that one copy suffices.
#[derive(Clone, Copy, Debug)]
pub struct BatchRanges {
    /// All arrays.
    pub whole: ArenaRange,
    /// `i32 [N]`
    pub tokens: ArenaRange,
    /// `i32 [N]`
    pub targets: ArenaRange,
    /// `f32 [N]`
    pub weights: ArenaRange,
    /// `i32 [N]`: rotary positions.
    pub positions: ArenaRange,
    /// `i32 [N]`: the first row of each row's document.
    pub doc_start: ArenaRange,
    /// `i32 [N]`: one past the last row of each row's document.
    pub doc_end: ArenaRange,
    /// `i32 [N]`: rows sorted by token.
    pub order: ArenaRange,
    /// `i32 [N + 1]`: the position in `order` of the first row of each distinct token.
    pub first: ArenaRange,
    /// `i32 [N]`: each token's row in the uploaded embedding weights, which are all rows or the
    /// gathered rows.
    pub gathered: ArenaRange,
}

impl BatchRanges {
    pub(super) fn take(carver: &mut Carver, shape: Shape) -> Self {
        let whole = carver.take(BATCHES, BatchRanges::bytes(shape));
        BatchRanges::lay(whole, shape)
    }

    /// Bytes of a batch.
    pub(super) fn bytes(shape: Shape) -> usize {
        let last = BatchRanges::lay(ArenaRange::default(), shape).gathered;
        last.offset + last.bytes
    }

    /// The array behind an external buffer of passes; `None` if it is not part of the batch.
    pub fn array(&self, external: External) -> Option<ArenaRange> {
        Some(match external {
            External::Tokens => self.tokens,
            External::Gathered => self.gathered,
            External::Order => self.order,
            External::First => self.first,
            External::Positions => self.positions,
            External::DocStart => self.doc_start,
            External::DocEnd => self.doc_end,
            External::Targets => self.targets,
            External::TargetWeights => self.weights,
            _ => return None,
        })
    }

    fn lay(whole: ArenaRange, shape: Shape) -> Self {
        let mut inner = Carver::default();
        let mut array = |elements: usize| {
            let range = inner.take(BATCHES, elements * 4);
            ArenaRange { offset: whole.offset + range.offset, ..range }
        };
        let n = shape.n();
        BatchRanges {
            whole,
            tokens: array(n),
            targets: array(n),
            weights: array(n),
            positions: array(n),
            doc_start: array(n),
            doc_end: array(n),
            order: array(n),
            first: array(n + 1),
            gathered: array(n),
        }
    }
}

/// The ranges of the device arena.
#[derive(Clone, Debug)]
pub struct DeviceMap {
    carver: Carver,
    micro_bytes: usize,
    micro_slot_bytes: usize,
    slots: Vec<ArenaRange>,
    slabs: Vec<ArenaRange>,
    end_weights: [ArenaRange; 2],
    end_gradients: [ArenaRange; 2],
    gradient: ArenaRange,
    accumulator_spills: Vec<ArenaRange>,
    /// By layer; empty unless the layer has an accumulator of its own.
    layer_gradients: Vec<ArenaRange>,
    scratch: ArenaRange,
    loss: ArenaRange,
    norms: Vec<ArenaRange>,
    logits: ArenaRange,
    constants: ArenaRange,
    workspace: ArenaRange,
    /// By micro-batch, for the whole step, as are `residual_streams` and `logprobs`.
    batches: Vec<BatchRanges>,
    residual_streams: Vec<ArenaRange>,
    logprobs: Vec<ArenaRange>,
    micro_slots: Vec<MicroSlotRanges>,
}

/// The ranges of a micro-batch slot.
#[derive(Clone, Debug)]
struct MicroSlotRanges {
    /// By layer; empty for spilled boundaries.
    boundaries: Vec<ArenaRange>,
    spill_buffers: Vec<ArenaRange>,
    /// By layer; empty for layers that save no activations.
    saved: Vec<ArenaRange>,
}

impl DeviceMap {
    pub(super) fn new(
        config: &ModelConfig,
        layout: &Layout,
        passes: &Passes,
        policy: &Policy,
        geometry: &Geometry,
        micros_max: usize,
    ) -> Self {
        let (carver, placement) = (&mut Carver::default(), &policy.placement);
        let Sizes { shape, activation_dtype, .. } = *passes.sizes();
        let (dims, layers) = (&config.dims, layout.layers());
        let layer = layout.layer_elements();
        let [embedding, head] = [layout.embedding(), layout.head()].map(|unit| layout.unit(unit).elements);
        let ends = if layout.tied { [embedding, head] } else { [embedding.max(head), 0] };

        let one_if = |condition: bool| usize::from(condition);
        // A slot that no layer uses takes no memory.
        let streamed = layers - placement.residents();
        let slots = (0..placement.weight_slots + placement.residents())
            .map(|slot| one_if(slot < streamed || slot >= placement.weight_slots))
            .map(|used| carver.take(SLOTS, used * layer * 2))
            .collect();
        let end_weights = ends.map(|elements| carver.take(END_WEIGHTS, elements * 2));
        let end_gradients = ends.map(|elements| carver.take(END_GRADIENTS, elements * 4));
        let gradient = carver.take(GRADIENT, one_if(placement.shares_accumulator(layers)) * layer * 4);
        let accumulator_spills = (0..placement.accumulator_spills(layers))
            .map(|_| carver.take(ACCUMULATOR_SPILLS, layer * 4))
            .collect();
        let own = |at: usize| one_if(placement.layer(at).accumulator == Accumulator::OnDevice) * layer * 4;
        let layer_gradients = (0..layers).map(|at| carver.take(LAYER_GRADIENTS, own(at))).collect();
        // Elements of each slab, and blocks of its norm.
        let slab_sizes: Vec<(usize, usize)> = match placement.grad_wait {
            GradWait::Host => {
                let blocks_max = layout.units.iter().map(UnitLayout::norm_blocks).max().unwrap_or(0);
                vec![(layout.slab_elements(), blocks_max); policy.slabs(geometry)]
            }
            GradWait::Device => (0..policy.slabs(geometry))
                .map(|slab| geometry.chunk_of(SlabIndex::from(slab)))
                .map(|(unit, chunk)| {
                    let first = one_if(chunk == ChunkIndex(0));
                    (layout.chunk(unit, chunk).len(), first * layout.unit(unit).norm_blocks())
                })
                .collect(),
        };
        let slabs = slab_sizes
            .iter()
            .map(|(elements, _)| carver.take(SLABS, elements * policy.numeric.grad_dtype.bytes()))
            .collect();
        let scratch = carver.take(SCRATCH, passes.scratch_bytes());
        let loss = carver.take(LOSS, 8);
        let norms = slab_sizes.iter().map(|(_, blocks)| carver.take(NORMS, 8 * blocks)).collect();
        let logits = carver.take(LOGITS, 4 * dims.v);
        let constants = carver.take(CONSTANTS, constant_bytes(config));
        let workspace = carver.take(WORKSPACE, passes.workspace_bytes());

        let boundary_bytes = shape.n() * dims.c * activation_dtype.bytes();
        let own_bytes = |layer| one_if(!placement.spills(layer)) * boundary_bytes;
        let saved_bytes = |layer| passes.saved_bytes(layout.layer(layer), placement.layer(layer).recompute);
        let start = carver.bytes();
        let batches: Vec<_> = (0..micros_max).map(|_| BatchRanges::take(carver, shape)).collect();
        let residual_streams =
            (0..micros_max).map(|_| carver.take(RESIDUAL_STREAM, boundary_bytes)).collect();
        let logprobs = (0..micros_max).map(|_| carver.take(LOGPROBS, 4 * shape.n())).collect();
        let micro_bytes = (carver.bytes() - start) / micros_max;
        let start = carver.bytes();
        let micro_slots: Vec<_> = (0..placement.sweep(micros_max))
            .map(|_| MicroSlotRanges {
                boundaries: (0..layers).map(|layer| carver.take(BOUNDARIES, own_bytes(layer))).collect(),
                spill_buffers: (0..placement.spill_buffers())
                    .map(|_| carver.take(BOUNDARY_SPILLS, boundary_bytes))
                    .collect(),
                saved: (0..layers).map(|layer| carver.take(SAVED, saved_bytes(layer))).collect(),
            })
            .collect();
        DeviceMap {
            micro_bytes,
            micro_slot_bytes: (carver.bytes() - start) / micro_slots.len(),
            carver: std::mem::take(carver),
            slots,
            slabs,
            end_weights,
            end_gradients,
            gradient,
            accumulator_spills,
            layer_gradients,
            scratch,
            loss,
            norms,
            logits,
            constants,
            workspace,
            batches,
            residual_streams,
            logprobs,
            micro_slots,
        }
    }

    /// Size of the arena.
    pub fn bytes(&self) -> usize {
        self.carver.bytes()
    }

    /// Bytes per micro-batch, averaged over a sweep.
    pub fn bytes_per_micro(&self) -> usize {
        self.micro_bytes + self.micro_slot_bytes * self.micro_slots.len() / self.batches.len()
    }

    /// Every range and the name it is counted for.
    pub fn places(&self) -> &[(&'static str, ArenaRange)] {
        self.carver.places()
    }

    /// Totals by name.
    pub fn regions(&self) -> &[Region] {
        self.carver.regions()
    }

    /// The name a resource is counted for and its bytes, padding included; `None` for host
    /// resources.
    pub fn footprint(&self, resource: &Resource) -> Option<(&'static str, usize)> {
        let (name, range) = self.named(resource)?;
        Some((name, range.padded()))
    }

    /// The name a resource is counted for and its range; `None` for host resources.
    pub fn named(&self, resource: &Resource) -> Option<(&'static str, ArenaRange)> {
        Some(match *resource {
            Resource::Slot(slot) => (SLOTS, self.slots[slot.at()]),
            Resource::EndWeights(end) => (END_WEIGHTS, self.end_weights[end as usize]),
            Resource::EndAccumulator(end) => (END_GRADIENTS, self.end_gradients[end as usize]),
            Resource::Accumulator => (GRADIENT, self.gradient),
            Resource::AccumulatorSpill(spill) => (ACCUMULATOR_SPILLS, self.accumulator_spills[spill.at()]),
            Resource::LayerAccumulator { unit } => (LAYER_GRADIENTS, self.layer_gradients[unit.at() - 1]),
            Resource::Slab(slab) => (SLABS, self.slabs[slab.at()]),
            Resource::Norm(slab) => (NORMS, self.norms[slab.at()]),
            Resource::Scratch => (SCRATCH, self.scratch),
            Resource::Loss => (LOSS, self.loss),
            Resource::Logits => (LOGITS, self.logits),
            Resource::Logprobs { micro } => (LOGPROBS, self.logprobs[micro.at()]),
            Resource::Batch { micro } => (BATCHES, self.batches[micro.at()].whole),
            Resource::ResidualStream { micro } => (RESIDUAL_STREAM, self.residual_streams[micro.at()]),
            Resource::Boundary { unit, micro_slot } => {
                (BOUNDARIES, self.micro_slots[micro_slot.at()].boundaries[unit.at() - 1])
            }
            Resource::SpillBuffer { spill, micro_slot } => {
                (BOUNDARY_SPILLS, self.micro_slots[micro_slot.at()].spill_buffers[spill.at()])
            }
            Resource::SavedActivations { unit, micro_slot } => {
                (SAVED, self.micro_slots[micro_slot.at()].saved[unit.at() - 1])
            }
            Resource::HostBatch { .. }
            | Resource::Master { .. }
            | Resource::HostRows
            | Resource::HostGradient { .. }
            | Resource::HostBoundary { .. }
            | Resource::HostAccumulator { .. }
            | Resource::Ring(_)
            | Resource::HostNorm { .. }
            | Resource::HostLoss
            | Resource::ClipDecision
            | Resource::HostLogits
            | Resource::HostLogprobs { .. }
            | Resource::Checkpoint => return None,
        })
    }

    /// The arrays of a micro-batch.
    pub fn batch(&self, micro: MicroIndex) -> &BatchRanges {
        &self.batches[micro.at()]
    }

    /// Read-only constants of the model's layers.
    pub fn constants(&self) -> ArenaRange {
        self.constants
    }

    /// Temporary memory of kernels; its content is lost after each op.
    pub fn workspace(&self) -> ArenaRange {
        self.workspace
    }
}
