//! What a schedule is built from.

use std::ops::Range;

use crate::base::{
    ChunkIndex, DType, Error, MicroIndex, MicroSlotIndex, Result, Shape, SlabIndex, UnitIndex,
};
use crate::model::{Layout, Recompute};
use crate::optim::Optimizer;

/// What the host keeps of a parameter. See DESIGN section 5 for the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Weights, residual, stored gradient, f32 moments: exact f32 master and exact clipping.
    Exact,
    /// As `Exact`, but gradients pass through a ring of host slabs and are used at once: no global clip.
    Streamed,
    /// As `Exact`, but moments are bf16, rounded at random. Gradients are stored only where they have to wait for
    /// the verdict on the host.
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

    /// The optimizer, which declares the state.
    pub fn optimizer(self) -> Optimizer {
        match self {
            Mode::Exact | Mode::Streamed => Optimizer::AdamW { moments: DType::F32 },
            Mode::Compact => Optimizer::AdamW { moments: DType::Bf16 },
        }
    }
}

/// The half of the policy that may change bits. A checkpoint stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numeric {
    /// B and T of a micro-batch.
    pub shape: Shape,
    /// Rows of logits that exist at a time.
    pub logits_chunk: usize,
    /// What a gradient is rounded to, once, when it leaves the device.
    pub grad_dtype: DType,
}

/// When a unit's AdamW may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdamWhen {
    /// Once loss and global norm are known, in forward order, under the next forward. A non-finite norm
    /// commits nothing.
    AfterNorm,
    /// As soon as its gradient has landed, under backward. The non-finite guard is per unit.
    UnderBackward,
}

impl AdamWhen {
    /// The safer of what a mode allows: after the norm, unless nothing keeps gradients until then.
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
    /// In a place of its own on the device.
    #[default]
    Kept,
    /// On the host; on the device it only passes through a room. The uppermost ones stay in their rooms.
    Spilled,
}

/// Where a layer's running f32 gradient is between the sweeps of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Accumulator {
    /// In the f32 store on the host; on the device it only passes through a room. With one sweep a step there
    /// is no between, and all layers share one place.
    #[default]
    Spilled,
    /// In a place of its own on the device.
    OnDevice,
}

/// Where rounded gradients wait for the verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GradWait {
    /// In the store.
    #[default]
    Host,
    /// In slabs on the device, one for every part, so that even [`Mode::Streamed`] can clip, and [`Mode::Compact`]
    /// without a gradient store.
    Device,
}

/// Rooms that spilled boundaries of a micro-batch, or the sums of layers, pass through in turn: one is read
/// while the other is filled.
pub const SPILL_BUFFERS: usize = 2;

/// What is particular to a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LayerPlacement {
    /// What its backward computes again; the rest is kept on the device from its forward on.
    pub recompute: Recompute,
    /// Where its input is meanwhile.
    pub boundary: Boundary,
    /// Whether its weights stay on the device through a step, in a slot of their own, uploaded once.
    pub resident: bool,
    /// Where its f32 gradient is summed.
    pub accumulator: Accumulator,
}

/// The half of the policy that never changes a bit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Places for weights on the device that layers which are not resident take in turn; at least 2.
    pub weight_slots: usize,
    /// Places for a rounded gradient on its way out of the device; at least 2. Where gradients wait on the
    /// device there is one for every part instead; see [`Policy::slabs`].
    pub slabs: usize,
    /// Host slabs that gradients pass through where [none are stored](Policy::streams_gradients); at least 2.
    /// Unused otherwise.
    pub ring: usize,
    /// When AdamW runs. `UnderBackward` excludes clipping; `Streamed` requires it unless gradients wait on the
    /// device.
    pub adam: AdamWhen,
    /// Where gradients wait for the verdict.
    pub grad_wait: GradWait,
    /// Sweeps a step is cut into, at least 1; fewer when there are fewer micro-batches.
    pub sweeps: usize,
    /// The layers from the first on; those it does not reach have the default.
    pub layers: Vec<LayerPlacement>,
}

impl Default for Placement {
    /// The least memory for one sweep a step with boundaries kept: two of everything.
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
    /// Micro-batches of a sweep when a list has `micros`; the last sweep may have fewer.
    pub fn sweep(&self, micros: usize) -> usize {
        micros.div_ceil(self.sweeps)
    }

    /// Layers whose weights stay on the device through a step.
    pub fn residents(&self) -> usize {
        self.layers.iter().filter(|layer| layer.resident).count()
    }

    /// Whether a layer's sum passes through a room.
    pub fn passes_sum(&self, layer: usize) -> bool {
        self.sweeps > 1 && self.layer(layer).accumulator == Accumulator::Spilled
    }

    /// Whether the sum of layer `layer` of `layers` goes to the host between sweeps: it passes through a room,
    /// and others take that, too.
    pub fn stores_accumulator(&self, layer: usize, layers: usize) -> bool {
        let passing = |range: Range<usize>| range.filter(|&layer| self.passes_sum(layer)).count();
        // Rooms are taken in turn, from the top.
        self.passes_sum(layer)
            && passing(0..layers) > passing(layer + 1..layers) % SPILL_BUFFERS + SPILL_BUFFERS
    }

    /// Rooms that the sums of `layers` layers pass through between sweeps: none, one or [`SPILL_BUFFERS`].
    pub fn accumulator_spills(&self, layers: usize) -> usize {
        (0..layers).filter(|&layer| self.passes_sum(layer)).take(SPILL_BUFFERS).count()
    }

    /// Whether, in steps of one sweep, some of `layers` layers sum their gradients in a place that they share.
    pub fn shares_accumulator(&self, layers: usize) -> bool {
        self.sweeps == 1 && (0..layers).any(|layer| self.layer(layer).accumulator == Accumulator::Spilled)
    }

    /// What is particular to layer `layer`, counted from 0.
    pub fn layer(&self, layer: usize) -> LayerPlacement {
        self.layers.get(layer).copied().unwrap_or_default()
    }

    /// Whether a layer's boundary is spilled.
    pub fn spills(&self, layer: usize) -> bool {
        self.layer(layer).boundary == Boundary::Spilled
    }

    /// Whether a layer's boundary goes to the host: it is spilled, and others take its room before its
    /// backward comes.
    pub fn leaves(&self, layer: usize) -> bool {
        let above = self.layers.iter().skip(layer + 1).filter(|above| above.boundary == Boundary::Spilled);
        self.spills(layer) && above.take(SPILL_BUFFERS).count() == SPILL_BUFFERS
    }

    /// Rooms that a micro-batch needs: none, one or [`SPILL_BUFFERS`].
    pub fn spill_buffers(&self) -> usize {
        self.layers.iter().filter(|layer| layer.boundary == Boundary::Spilled).take(SPILL_BUFFERS).count()
    }
}

/// The input of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// What the host keeps.
    pub mode: Mode,
    /// What may change bits.
    pub numeric: Numeric,
    /// What may not.
    pub placement: Placement,
}

/// How many micro-batches a list has, and how many of them are on the device at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// All.
    pub micros: usize,
    /// Those of a sweep; the last one may have fewer.
    pub sweep: usize,
}

impl Extent {
    /// That of a list of `micros` micro-batches.
    pub fn new(placement: &Placement, micros: usize) -> Extent {
        Extent { micros, sweep: placement.sweep(micros) }
    }

    /// The place of a micro-batch among those of its sweep.
    pub fn micro_slot(&self, micro: MicroIndex) -> MicroSlotIndex {
        MicroSlotIndex::from(micro.at() % self.sweep)
    }
}

/// What a list knows of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// L.
    pub layers: usize,
    /// Whether the head reads the embedding's weights, and adds to its gradient.
    pub tied: bool,
    /// Parts of the embedding's gradient; see [`crate::model::Layout::parts`].
    pub embedding_chunks: usize,
    /// Parts of the head's gradient.
    pub head_chunks: usize,
}

impl Policy {
    /// Slabs on the device.
    pub fn slabs(&self, geometry: &Geometry) -> usize {
        match self.placement.grad_wait {
            GradWait::Host => self.placement.slabs,
            GradWait::Device => geometry.embedding_chunks + geometry.layers + geometry.head_chunks,
        }
    }

    /// Whether gradients pass through the ring instead of the store.
    pub fn streams_gradients(&self) -> bool {
        match self.mode {
            Mode::Exact => false,
            Mode::Streamed => true,
            Mode::Compact => {
                self.placement.adam == AdamWhen::UnderBackward || self.placement.grad_wait == GradWait::Device
            }
        }
    }

    /// Whether AdamW updates the embedding rows that the next step reads before all others: the embedding is untied, so
    /// only those are uploaded, its whole gradient is stored on the host, and AdamW runs after the norm. Under backward the
    /// embedding comes last in any case.
    pub fn updates_rows_first(&self, geometry: &Geometry) -> bool {
        !geometry.tied && self.placement.adam == AdamWhen::AfterNorm && !self.streams_gradients()
    }

    /// Whether there are neither too few nor too many of anything to lay them out in memory.
    pub fn validate_counts(&self, geometry: &Geometry, micros: usize) -> Result<()> {
        let Placement { weight_slots, slabs, sweeps, .. } = self.placement;
        counted(1, "layers", geometry.layers)?;
        counted(1, "chunks of the embedding's gradient", geometry.embedding_chunks)?;
        counted(1, "chunks of the head's gradient", geometry.head_chunks)?;
        counted(1, "micro-batches", micros)?;
        counted(2, "weight slots (one computes while the other is filled)", weight_slots)?;
        counted(2, "gradient slabs (one is written while the other leaves)", slabs)?;
        counted(1, "sweeps", sweeps)
    }

    /// Whether a list of `micros` micro-batches can be built from it. The numeric half is the plan's to judge.
    pub fn validate(&self, geometry: &Geometry, micros: usize) -> Result<()> {
        self.validate_counts(geometry, micros)?;
        let Placement { ring, adam, grad_wait, ref layers, .. } = self.placement;
        if layers.len() > geometry.layers {
            return Err(Error::argument(format!(
                "the model has {} layers, found placements for {}",
                geometry.layers,
                layers.len()
            )));
        }
        if grad_wait == GradWait::Device && adam == AdamWhen::UnderBackward {
            return Err(Error::argument(
                "gradients that wait on the device wait for the clip decision, found AdamW under backward; run it after \
                 the norm or let them wait on the host",
            ));
        }
        if self.streams_gradients() {
            counted(2, "ring slabs (one lands while the other is used)", ring)?;
            if adam == AdamWhen::AfterNorm && grad_wait == GradWait::Host {
                return Err(Error::argument(
                    "streamed mode keeps no gradient until the global norm is known, found AdamW after the norm; \
                     run it under backward (without clipping), let gradients wait on the device or use exact mode",
                ));
            }
        }
        Ok(())
    }
}

/// More of anything than this is a slip: each has places of its own, and operations.
const COUNT_MAX: usize = 1 << 13;

fn counted(least: usize, what: &str, found: usize) -> Result<()> {
    if (least..=COUNT_MAX).contains(&found) {
        return Ok(());
    }
    Err(Error::argument(format!("a schedule needs {least} to {COUNT_MAX} {what}, found {found}")))
}

impl Geometry {
    /// That of a layout.
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

    /// The slab of a part where every part has one: units in forward order.
    pub fn slab_of(&self, unit: UnitIndex, chunk: ChunkIndex) -> SlabIndex {
        let below = if unit == self.embedding() { 0 } else { self.embedding_chunks + unit.at() - 1 };
        SlabIndex::from(below + chunk.at())
    }

    /// The part whose slab it is, where every part has one.
    pub fn chunk_of(&self, slab: SlabIndex) -> (UnitIndex, ChunkIndex) {
        let layers_end = self.embedding_chunks + self.layers;
        match slab.at() {
            at if at < self.embedding_chunks => (self.embedding(), ChunkIndex::from(at)),
            at if at < layers_end => (self.layer(at - self.embedding_chunks), ChunkIndex(0)),
            at => (self.head(), ChunkIndex::from(at - layers_end)),
        }
    }

    /// Whether a unit's gradient is rounded whole, so that its norm is taken in the same pass.
    pub fn is_rounded_whole(&self, unit: UnitIndex) -> bool {
        self.chunks(unit) == 1
    }

    /// Parts that a unit's gradient leaves the device in.
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
