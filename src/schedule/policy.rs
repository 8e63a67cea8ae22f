//! The input of a schedule: the policy (numeric and placement), the model's geometry, and their
//! validation.

use std::fmt;
use std::ops::Range;

use crate::base::format::several;
use crate::base::{
    ChunkIndex, DType, Error, MicroIndex, MicroSlotIndex, Name, Result, Shape, SlabIndex, UnitIndex,
};
use crate::model::{Layout, Recompute};
use crate::optim::Optimizer;

/// The state that the host keeps per parameter. It decides the bytes per parameter: weights 2,
/// residual 2, stored gradient 2 (bf16) or 4 (f32), moments 8 (f32) or 4 (bf16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Weights, residuals, stored gradients, f32 moments: exact f32 master weights and exact
    /// clipping.
    Exact,
    /// Like `Exact`, but gradients pass through a ring buffer on the host and AdamW uses each at
    /// once: no global clip.
    Streamed,
    /// Like `Exact`, but with bf16 moments, rounded stochastically. Gradients are stored only if
    /// they wait on the host for the clip decision.
    Compact,
}

impl Mode {
    /// The name used by options: `exact`, `streamed`, `compact`.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Exact => "exact",
            Mode::Streamed => "streamed",
            Mode::Compact => "compact",
        }
    }

    /// The optimizer of this mode; it declares the optimizer state.
    pub fn optimizer(self) -> Optimizer {
        match self {
            Mode::Exact | Mode::Streamed => Optimizer::AdamW { moments: DType::F32 },
            Mode::Compact => Optimizer::AdamW { moments: DType::Bf16 },
        }
    }
}

/// The half of the policy that may change bits. Checkpoints store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numeric {
    /// B and T of a micro-batch.
    pub shape: Shape,
    /// Rows of logits computed at a time.
    pub logits_chunk: usize,
    /// Gradients are rounded to this dtype, once, when they leave the device.
    pub grad_dtype: DType,
}

/// When AdamW may update a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdamWhen {
    /// Once loss and global norm are known, in forward order, overlapped with the next forward. A
    /// non-finite norm commits nothing.
    AfterNorm,
    /// As soon as the unit's gradient is on the host, overlapped with backward. The non-finite
    /// guard is per unit.
    UnderBackward,
}

impl AdamWhen {
    /// The safest choice of a mode: after the norm, unless no buffer keeps gradients until then.
    pub fn of(mode: Mode, wait: GradWait) -> AdamWhen {
        match (mode, wait) {
            (Mode::Exact | Mode::Compact, _) | (Mode::Streamed, GradWait::Device) => AdamWhen::AfterNorm,
            (Mode::Streamed, GradWait::Host) => AdamWhen::UnderBackward,
        }
    }
}

/// Where a layer's boundary is between its forward and its backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Boundary {
    /// In a buffer of its own on the device.
    #[default]
    Kept,
    /// On the host; on the device it passes through a spill buffer. The topmost ones stay in their
    /// spill buffers.
    Spilled,
}

/// Location of a layer's f32 gradient accumulator between the sweeps of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Accumulator {
    /// In an f32 buffer on the host; on the device it passes through a spill buffer. Steps of one
    /// sweep store nothing: all such layers share one device buffer.
    #[default]
    Spilled,
    /// In a buffer of its own on the device.
    OnDevice,
}

/// Where rounded gradients wait for the clip decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GradWait {
    /// In the store, on the host.
    #[default]
    Host,
    /// In device slabs, one for every gradient chunk. [`Mode::Streamed`] can then clip, and
    /// [`Mode::Compact`] needs no gradient store.
    Device,
}

/// Spill buffers for the boundaries of a micro-batch slot, and for the accumulators of layers. They
/// are used in turn: one is read while the other is filled.
pub const SPILL_BUFFERS: usize = 2;

/// The placement of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LayerPlacement {
    /// Activation checkpointing: backward recomputes these activations; the others stay on the
    /// device from forward on.
    pub recompute: Recompute,
    /// Where the layer's input is kept for its backward.
    pub boundary: Boundary,
    /// True if the weights stay on the device for the whole step, in a slot of their own, and are
    /// uploaded once.
    pub resident: bool,
    /// Where the layer's f32 gradient is accumulated.
    pub accumulator: Accumulator,
}

/// The half of the policy that never changes a bit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Device buffers for weights that the layers which are not resident use in turn; at least 2
    /// (double buffering).
    pub weight_slots: usize,
    /// Device buffers for rounded gradient chunks on their way to the host; at least 2. If
    /// gradients wait on the device, there is one for every chunk instead; see
    /// [`Policy::slabs`].
    pub slabs: usize,
    /// Slabs of the host's ring buffer, which gradients pass through if
    /// [none are stored](Policy::streams_gradients); at least 2. Otherwise unused.
    pub ring: usize,
    /// When AdamW runs. `UnderBackward` excludes clipping. `Streamed` requires it unless gradients
    /// wait on the device.
    pub adam: AdamWhen,
    /// Where gradients wait for the clip decision.
    pub grad_wait: GradWait,
    /// Sweeps per step, at least 1; a step of fewer micro-batches has fewer.
    pub sweeps: usize,
    /// Placements from the first layer on; layers beyond the end of the list have the default.
    pub layers: Vec<LayerPlacement>,
}

impl Default for Placement {
    /// The least memory for one sweep per step with boundaries kept on the device: two of each
    /// buffer.
    fn default() -> Self {
        Placement {
            weight_slots: 2,
            slabs: 2,
            ring: 2,
            adam: AdamWhen::AfterNorm,
            grad_wait: GradWait::Host,
            sweeps: 1,
            layers: Vec::new(),
        }
    }
}

impl Placement {
    /// Micro-batches per sweep of a list of `micros`; the last sweep may have fewer.
    pub fn sweep(&self, micros: usize) -> usize {
        micros.div_ceil(self.sweeps)
    }

    /// Layers whose weights stay on the device through a step.
    pub fn residents(&self) -> usize {
        self.layers.iter().filter(|layer| layer.resident).count()
    }

    /// True if the layer's accumulator passes through a spill buffer.
    pub fn spills_accumulator(&self, layer: usize) -> bool {
        self.sweeps > 1 && self.layer(layer).accumulator == Accumulator::Spilled
    }

    /// True if the accumulator of layer `layer` of `layers` goes to the host between sweeps: it
    /// passes through a spill buffer that other layers use, too.
    pub fn stores_accumulator(&self, layer: usize, layers: usize) -> bool {
        let spilling = |range: Range<usize>| range.filter(|&layer| self.spills_accumulator(layer)).count();
        // The layers take the spill buffers in turn, starting at the top layer.
        self.spills_accumulator(layer)
            && spilling(0..layers) > spilling(layer + 1..layers) % SPILL_BUFFERS + SPILL_BUFFERS
    }

    /// Spill buffers for the accumulators of `layers` layers: none, one or [`SPILL_BUFFERS`].
    pub fn accumulator_spills(&self, layers: usize) -> usize {
        (0..layers).filter(|&layer| self.spills_accumulator(layer)).take(SPILL_BUFFERS).count()
    }

    /// True if the step has one sweep and some of `layers` layers share one accumulator.
    pub fn shares_accumulator(&self, layers: usize) -> bool {
        self.sweeps == 1 && (0..layers).any(|layer| self.layer(layer).accumulator == Accumulator::Spilled)
    }

    /// The placement of layer `layer`, counted from 0.
    pub fn layer(&self, layer: usize) -> LayerPlacement {
        self.layers.get(layer).copied().unwrap_or_default()
    }

    /// True if the layer's boundary is spilled.
    pub fn spills(&self, layer: usize) -> bool {
        self.layer(layer).boundary == Boundary::Spilled
    }

    /// True if the layer's boundary goes to the host: it is spilled, and other layers use its spill
    /// buffer before its backward.
    pub fn leaves(&self, layer: usize) -> bool {
        let above = self.layers.iter().skip(layer + 1).filter(|above| above.boundary == Boundary::Spilled);
        self.spills(layer) && above.take(SPILL_BUFFERS).count() == SPILL_BUFFERS
    }

    /// Spill buffers per micro-batch slot: none, one or [`SPILL_BUFFERS`].
    pub fn spill_buffers(&self) -> usize {
        self.layers.iter().filter(|layer| layer.boundary == Boundary::Spilled).take(SPILL_BUFFERS).count()
    }
}

/// The input of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// The state that the host keeps.
    pub mode: Mode,
    /// The half that may change bits.
    pub numeric: Numeric,
    /// The half that never changes bits.
    pub placement: Placement,
}

/// The number of micro-batches of a list, and of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Micro-batches of the list.
    pub micros: usize,
    /// Micro-batches of a sweep, which are on the device together; the last sweep may have fewer.
    pub sweep: usize,
}

impl Extent {
    /// The extent of a list of `micros` micro-batches.
    pub fn new(placement: &Placement, micros: usize) -> Extent {
        Extent { micros, sweep: placement.sweep(micros) }
    }

    /// The slot of a micro-batch: its position in its sweep.
    pub fn micro_slot(&self, micro: MicroIndex) -> MicroSlotIndex {
        MicroSlotIndex::from(micro.at() % self.sweep)
    }
}

/// The facts about a model that a list depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Number of decoder layers.
    pub layers: usize,
    /// True if the head reads the embedding's weights and adds to its gradient.
    pub tied: bool,
    /// Chunks of the embedding's gradient; see [`crate::model::Layout::chunks`].
    pub embedding_chunks: usize,
    /// Chunks of the head's gradient.
    pub head_chunks: usize,
}

impl Policy {
    /// Number of gradient slabs on the device.
    pub fn slabs(&self, geometry: &Geometry) -> usize {
        match self.placement.grad_wait {
            GradWait::Host => self.placement.slabs,
            GradWait::Device => geometry.embedding_chunks + geometry.layers + geometry.head_chunks,
        }
    }

    /// True if gradients pass through the ring buffer instead of the store.
    pub fn streams_gradients(&self) -> bool {
        match self.mode {
            Mode::Exact => false,
            Mode::Streamed => true,
            Mode::Compact => {
                self.placement.adam == AdamWhen::UnderBackward || self.placement.grad_wait == GradWait::Device
            }
        }
    }

    /// True if AdamW updates the embedding rows that the next step reads before all others. That
    /// requires an untied embedding (only those rows are uploaded), a gradient stored on the
    /// host, and AdamW after the norm. Under backward the embedding comes last in any case.
    pub fn updates_rows_first(&self, geometry: &Geometry) -> bool {
        !geometry.tied && self.placement.adam == AdamWhen::AfterNorm && !self.streams_gradients()
    }

    /// Checks that every count is within the limits of the memory layout.
    ///
    /// Errors ([`InvalidArgument`](crate::base::Status)): the first count out of range, with its
    /// limits.
    pub fn validate_counts(&self, geometry: &Geometry, micros: usize) -> Result<()> {
        let Placement { weight_slots, slabs, sweeps, .. } = self.placement;
        counted(1, "num_hidden_layers", "", geometry.layers)?;
        counted(1, "the number of chunks of the embedding's gradient", "", geometry.embedding_chunks)?;
        counted(1, "the number of chunks of the head's gradient", "", geometry.head_chunks)?;
        counted(1, Name::MicrosMax, "", micros)?;
        counted(2, Name::WeightSlots, " (one computes while the other is filled)", weight_slots)?;
        counted(2, Name::Slabs, " (one is written while the other leaves)", slabs)?;
        counted(1, Name::Sweeps, "", sweeps)
    }

    /// Checks that a list of `micros` micro-batches can be built from this policy. The plan checks
    /// the numeric half.
    ///
    /// Errors ([`InvalidArgument`](crate::base::Status)): a count out of range, or options that
    /// exclude one another.
    pub fn validate(&self, geometry: &Geometry, micros: usize) -> Result<()> {
        self.validate_counts(geometry, micros)?;
        let Placement { ring, adam, grad_wait, ref layers, .. } = self.placement;
        if layers.len() > geometry.layers {
            return Err(Error::argument(format!(
                "{} has placements for {}, but num_hidden_layers is {}; give at most one per layer",
                Name::Layers,
                several(layers.len(), "layer"),
                geometry.layers
            )));
        }
        if grad_wait == GradWait::Device && adam == AdamWhen::UnderBackward {
            return Err(Error::argument(format!(
                "{} needs gradients on the host, and with {} they wait on the device for the global norm: use {} or \
                 {}",
                Name::AdamWhen.is("under backward"),
                Name::GradPlace.is("device"),
                Name::AdamWhen.is("after norm"),
                Name::GradPlace.is("host")
            )));
        }
        if self.streams_gradients() {
            counted(2, "the number of ring slabs", " (one is filled while the other is used)", ring)?;
            if adam == AdamWhen::AfterNorm && grad_wait == GradWait::Host {
                return Err(Error::argument(format!(
                    "{} needs gradients that are stored until the global norm is known, and {} does not store them \
                     on the host: use {} with {}, {}, or {}",
                    Name::AdamWhen.is("after norm"),
                    Name::Mode.is(self.mode.name()),
                    Name::AdamWhen.is("under backward"),
                    Name::Clip.is(0),
                    Name::GradPlace.is("device"),
                    Name::Mode.is("exact")
                )));
            }
        }
        Ok(())
    }
}

/// Upper limit of every count: a larger one is a mistake and would take many buffers and
/// operations.
pub const COUNT_MAX: usize = 1 << 13;

fn counted(least: usize, what: impl fmt::Display, why: &str, found: usize) -> Result<()> {
    if (least..=COUNT_MAX).contains(&found) {
        return Ok(());
    }
    Err(Error::argument(format!("{what} is {found}; it must be {least} … {COUNT_MAX}{why}")))
}

impl Geometry {
    /// The geometry of a layout.
    pub fn of(layout: &Layout) -> Geometry {
        Geometry {
            layers: layout.layers(),
            tied: layout.tied,
            embedding_chunks: layout.chunks(layout.embedding()),
            head_chunks: layout.chunks(layout.head()),
        }
    }

    /// The embedding of every model.
    pub const EMBEDDING: UnitIndex = UnitIndex(0);

    /// The embedding.
    pub fn embedding(&self) -> UnitIndex {
        Geometry::EMBEDDING
    }

    /// The unit of decoder layer `layer`, counted from 0.
    pub fn layer(&self, layer: usize) -> UnitIndex {
        UnitIndex::from(layer + 1)
    }

    /// The head.
    pub fn head(&self) -> UnitIndex {
        UnitIndex::from(self.layers + 1)
    }

    /// Every unit, in forward order.
    pub fn units(&self) -> impl DoubleEndedIterator<Item = UnitIndex> + use<> {
        (0..self.layers + 2).map(UnitIndex::from)
    }

    /// The slab of a gradient chunk when every chunk has its own: units in forward order.
    pub fn slab_of(&self, unit: UnitIndex, chunk: ChunkIndex) -> SlabIndex {
        let below = if unit == self.embedding() { 0 } else { self.embedding_chunks + unit.at() - 1 };
        SlabIndex::from(below + chunk.at())
    }

    /// The gradient chunk of a slab when every chunk has its own.
    pub fn chunk_of(&self, slab: SlabIndex) -> (UnitIndex, ChunkIndex) {
        let layers_end = self.embedding_chunks + self.layers;
        match slab.at() {
            at if at < self.embedding_chunks => (self.embedding(), ChunkIndex::from(at)),
            at if at < layers_end => (self.layer(at - self.embedding_chunks), ChunkIndex(0)),
            at => (self.head(), ChunkIndex::from(at - layers_end)),
        }
    }

    /// True if a unit's gradient is rounded as one chunk, so that the same pass computes its norm.
    pub fn is_rounded_whole(&self, unit: UnitIndex) -> bool {
        self.chunks(unit) == 1
    }

    /// Number of chunks of a unit's gradient.
    pub fn chunks(&self, unit: UnitIndex) -> usize {
        if unit == self.embedding() {
            self.embedding_chunks
        } else if unit == self.head() {
            self.head_chunks
        } else {
            1
        }
    }
}
