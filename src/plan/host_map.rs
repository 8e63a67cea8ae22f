//! The host arenas: the store, and buffers copied to or from the device.

use crate::base::{DType, MicroIndex, MicroSlotIndex, UnitIndex};
use crate::model::{Layout, ModelConfig, constant_bytes};
use crate::optim::STATE_ARRAYS_MAX;
use crate::plan::BatchRanges;
use crate::plan::carve::{ArenaRange, Carver, Region};
use crate::schedule::Policy;

/// The ranges of a unit in the store. Each has as many elements as the unit.
#[derive(Clone, Copy, Debug)]
pub struct UnitRanges {
    /// bf16, in the wire arena: the weights that are uploaded.
    pub weights: ArenaRange,
    /// Rounded gradient, in the wire arena; empty if [none are stored](Policy::streams_gradients).
    pub gradient: ArenaRange,
    /// i16, in the state arena: extends the weights to f32 master weights.
    pub residual: ArenaRange,
    /// The optimizer's arrays by number, in the state arena; empty beyond their count.
    pub state: [ArenaRange; STATE_ARRAYS_MAX],
}

/// The ranges of the two host arenas. The *wire* arena holds buffers copied to or from the device
/// (pinned memory on CUDA), the *state* arena memory that only CPU threads use.
#[derive(Clone, Debug)]
pub struct HostMap {
    wire: Carver,
    state: Carver,
    units: Vec<UnitRanges>,
    ring: Vec<ArenaRange>,
    batches: Vec<BatchRanges>,
    gathered: ArenaRange,
    /// By layer, f32; empty for accumulators that stay on the device.
    accumulators: Vec<ArenaRange>,
    /// By micro-batch slot and layer; empty for boundaries that stay on the device.
    boundaries: Vec<Vec<ArenaRange>>,
    loss: ArenaRange,
    norms: Vec<ArenaRange>,
    logits: ArenaRange,
    /// By micro-batch.
    logprobs: Vec<ArenaRange>,
    constants: ArenaRange,
}

impl HostMap {
    pub(super) fn new(
        config: &ModelConfig,
        layout: &Layout,
        policy: &Policy,
        micros_max: usize,
        activation_dtype: DType,
    ) -> Self {
        let (mut wire, mut state) = (Carver::default(), Carver::default());
        let grad_bytes = policy.numeric.grad_dtype.bytes();
        let stored = !policy.streams_gradients();
        let arrays = policy.mode.optimizer().state();
        let units = layout
            .units
            .iter()
            .map(|unit| UnitRanges {
                weights: wire.take("weights (bf16)", unit.elements * 2),
                gradient: wire.take("gradients", if stored { unit.elements * grad_bytes } else { 0 }),
                residual: state.take("residuals (i16)", unit.elements * 2),
                state: std::array::from_fn(|number| {
                    let array = arrays.get(number);
                    array.map_or(ArenaRange::default(), |array| {
                        state.take(array.region, unit.elements * array.dtype.bytes())
                    })
                }),
            })
            .collect();
        let ring_slabs = if stored { 0 } else { policy.placement.ring };
        let slab_bytes = layout.slab_elements() * grad_bytes;
        let ring = (0..ring_slabs).map(|_| wire.take("gradient ring", slab_bytes)).collect();
        let batches = (0..micros_max).map(|_| BatchRanges::take(&mut wire, policy.numeric.shape)).collect();
        // A tied embedding is uploaded whole, because the head reads it, too.
        let rows_max = if layout.tied { 0 } else { config.dims.v.min(micros_max * policy.numeric.shape.n()) };
        let gathered = wire.take("gathered embedding rows", rows_max * config.dims.c * 2);
        let boundary_bytes = policy.numeric.shape.n() * config.dims.c * activation_dtype.bytes();
        let mut boundary = |layer| {
            let bytes = if policy.placement.leaves(layer) { boundary_bytes } else { 0 };
            wire.take("spilled boundaries", bytes)
        };
        let micro_slots = policy.placement.sweep(micros_max);
        let boundaries =
            (0..micro_slots).map(|_| (0..layout.layers()).map(&mut boundary).collect()).collect();
        let accumulator = |layer| {
            let bytes = if policy.placement.stores_accumulator(layer, layout.layers()) {
                4 * layout.layer_elements()
            } else {
                0
            };
            wire.take("gradient accumulators (f32)", bytes)
        };
        let accumulators = (0..layout.layers()).map(accumulator).collect();
        let loss = wire.take("loss", 8);
        let norms =
            layout.units.iter().map(|unit| wire.take("gradient norms", 8 * unit.norm_blocks())).collect();
        let logits = wire.take("logits row", 4 * config.dims.v);
        let rows = policy.numeric.shape.n();
        let logprobs = (0..micros_max).map(|_| wire.take("log-probabilities", 4 * rows)).collect();
        let constants = wire.take("constants", constant_bytes(config));
        HostMap {
            wire,
            state,
            units,
            ring,
            batches,
            gathered,
            accumulators,
            boundaries,
            loss,
            norms,
            logits,
            logprobs,
            constants,
        }
    }

    /// Size of both arenas together.
    pub fn bytes(&self) -> usize {
        self.wire_bytes() + self.state_bytes()
    }

    /// Size of the wire arena.
    pub fn wire_bytes(&self) -> usize {
        self.wire.bytes()
    }

    /// Size of the state arena.
    pub fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    /// Totals by name.
    pub fn regions(&self) -> Vec<Region> {
        [self.wire.regions(), self.state.regions()].concat()
    }

    /// The ranges of a unit.
    pub fn unit(&self, unit: UnitIndex) -> UnitRanges {
        self.units[unit.at()]
    }

    /// A slab of the gradients' ring buffer, in the wire arena.
    pub fn ring(&self, slab: u32) -> ArenaRange {
        self.ring[slab as usize]
    }

    /// The staging buffer of a micro-batch, in the wire arena.
    pub fn batch(&self, micro: MicroIndex) -> BatchRanges {
        self.batches[micro.at()]
    }

    /// bf16 `[min(V, tokens of a step), C]`, in the wire arena: the embedding rows used by a list's
    /// tokens, gathered for upload. Empty if the embedding is tied to the head.
    pub fn gathered(&self) -> ArenaRange {
        self.gathered
    }

    /// The spilled boundary of a layer, in the wire arena.
    pub fn boundary(&self, unit: UnitIndex, micro_slot: MicroSlotIndex) -> ArenaRange {
        self.boundaries[micro_slot.at()][unit.at() - 1]
    }

    /// f32: the gradient accumulator of a layer between sweeps, in the wire arena.
    pub fn accumulator(&self, unit: UnitIndex) -> ArenaRange {
        self.accumulators[unit.at() - 1]
    }

    /// f64: the sum of the losses, in the wire arena.
    pub fn loss(&self) -> ArenaRange {
        self.loss
    }

    /// f64 by block: a unit's sums of squares, in the wire arena.
    pub fn norm(&self, unit: UnitIndex) -> ArenaRange {
        self.norms[unit.at()]
    }

    /// f32 `[V]`: one row of logits, in the wire arena.
    pub fn logits(&self) -> ArenaRange {
        self.logits
    }

    /// Read-only constants of the model's layers, in the wire arena.
    pub fn constants(&self) -> ArenaRange {
        self.constants
    }

    /// f32 `[N]`: log-probabilities of a micro-batch's targets, then their gradient, in the wire
    /// arena.
    pub fn logprobs(&self, micro: MicroIndex) -> ArenaRange {
        self.logprobs[micro.at()]
    }
}
