//! The host arenas: the store, and what crosses the link beside it.

use crate::base::{DType, MicroIndex, MicroSlotIndex, UnitIndex};
use crate::model::{Layout, ModelConfig, constant_bytes};
use crate::optim::STATE_ARRAYS_MAX;
use crate::plan::BatchRanges;
use crate::plan::carve::{ArenaRange, Carver, Region};
use crate::schedule::Policy;

/// A unit in the store. Every place is as many elements as the unit.
#[derive(Clone, Copy, Debug)]
pub struct UnitRanges {
    /// bf16, in the wire arena: what is streamed.
    pub weights: ArenaRange,
    /// Rounded gradient, in the wire arena; empty where [none are stored](Policy::streams_gradients).
    pub gradient: ArenaRange,
    /// i16, in the state arena: what makes the weights whole.
    pub residual: ArenaRange,
    /// The optimizer's arrays by number, in the state arena; empty where it has fewer.
    pub state: [ArenaRange; STATE_ARRAYS_MAX],
}

/// Places in the two host arenas. *Wire* is what the device reads and writes (one day pinned); *state* only
/// CPU workers touch.
#[derive(Clone, Debug)]
pub struct HostMap {
    wire: Carver,
    state: Carver,
    units: Vec<UnitRanges>,
    ring: Vec<ArenaRange>,
    batches: Vec<BatchRanges>,
    gathered: ArenaRange,
    /// By layer, f32; empty where a sum stays on the device.
    sums: Vec<ArenaRange>,
    /// By micro-batch of a sweep and layer; empty where a boundary stays on the device.
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
        // A tied embedding goes up whole: the head reads it, too.
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
        let sum = |layer| {
            let bytes = if policy.placement.stores_accumulator(layer, layout.layers()) {
                4 * layout.layer_elements()
            } else {
                0
            };
            wire.take("gradient accumulators (f32)", bytes)
        };
        let sums = (0..layout.layers()).map(sum).collect();
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
            sums,
            boundaries,
            loss,
            norms,
            logits,
            logprobs,
            constants,
        }
    }

    /// Both arenas together.
    pub fn bytes(&self) -> usize {
        self.wire_bytes() + self.state_bytes()
    }

    /// The size of the wire arena.
    pub fn wire_bytes(&self) -> usize {
        self.wire.bytes()
    }

    /// The size of the state arena.
    pub fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    /// Totals by name.
    pub fn regions(&self) -> Vec<Region> {
        [self.wire.regions(), self.state.regions()].concat()
    }

    /// A unit's places.
    pub fn unit(&self, unit: UnitIndex) -> UnitRanges {
        self.units[unit.at()]
    }

    /// A slab of the gradient ring, in the wire arena.
    pub fn ring(&self, slab: u32) -> ArenaRange {
        self.ring[slab as usize]
    }

    /// A micro-batch's staging, in the wire arena.
    pub fn batch(&self, micro: MicroIndex) -> BatchRanges {
        self.batches[micro.at()]
    }

    /// bf16 `[min(V, tokens of a step), C]`, in the wire arena: the rows of the embedding that a list's tokens name, on their
    /// way up. Empty where the embedding is tied to the head.
    pub fn gathered(&self) -> ArenaRange {
        self.gathered
    }

    /// The spilled boundary of a layer, in the wire arena.
    pub fn boundary(&self, unit: UnitIndex, micro_slot: MicroSlotIndex) -> ArenaRange {
        self.boundaries[micro_slot.at()][unit.at() - 1]
    }

    /// f32: the running gradient of a layer between sweeps, in the wire arena.
    pub fn accumulator(&self, unit: UnitIndex) -> ArenaRange {
        self.sums[unit.at() - 1]
    }

    /// f64: the loss sum, in the wire arena.
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

    /// What the model's layers read and nobody writes, in the wire arena.
    pub fn constants(&self) -> ArenaRange {
        self.constants
    }

    /// f32 `[N]`: log-probabilities of a micro-batch's targets, then their gradient, in the wire arena.
    pub fn logprobs(&self, micro: MicroIndex) -> ArenaRange {
        self.logprobs[micro.at()]
    }
}
