//! The device arena: every region the schedule's resources stand for.

use crate::base::{DType, MicroIndex, RoomIndex, Shape, SlabIndex, SlotIndex, UnitIndex};
use crate::model::{HeadScratch, LayerScratch, Layout, ModelConfig};
use crate::plan::carve::{Carver, Place, Region};
use crate::schedule::{BoundaryPlace, End, Policy, Resource};

const SLOTS: &str = "weight slots";
const END_WEIGHTS: &str = "end weights";
const END_GRADIENTS: &str = "end gradients (f32)";
const GRADIENT: &str = "layer gradient (f32)";
const SLABS: &str = "gradient slabs";
const SCRATCH: &str = "scratch";
const SCALARS: &str = "scalars";
const LOGITS: &str = "logits row";
const BATCHES: &str = "batches";
const BOUNDARIES: &str = "boundaries";
const PASSING: &str = "boundary rooms";
const KEPT: &str = "kept activations";
const STREAMS: &str = "streams";

/// A micro-batch's arrays, on the host and on the device alike.
#[derive(Clone, Copy, Debug)]
pub struct BatchPlaces {
    /// `i32 [N]`
    pub tokens: Place,
    /// `i32 [N]`
    pub targets: Place,
    /// `f32 [N]`
    pub weights: Place,
    /// `i32 [N]`
    pub starts: Place,
}

impl BatchPlaces {
    pub(super) fn take(carver: &mut Carver, shape: Shape) -> Self {
        let mut array = || carver.take(BATCHES, shape.n() * 4);
        BatchPlaces { tokens: array(), targets: array(), weights: array(), starts: array() }
    }
}

/// Places in the device arena.
#[derive(Clone, Debug)]
pub struct DeviceMap {
    carver: Carver,
    micros_start: usize,
    slots: Vec<Place>,
    slabs: Vec<Place>,
    end_weights: [Place; 2],
    end_gradients: [Place; 2],
    gradient: Place,
    scratch: Place,
    scalars: Place,
    logits: Place,
    micros: Vec<MicroPlaces>,
}

/// What each micro-batch keeps on the device through a sweep.
#[derive(Clone, Debug)]
struct MicroPlaces {
    batch: BatchPlaces,
    /// By layer; empty where they are spilled.
    boundaries: Vec<Place>,
    rooms: Vec<Place>,
    /// By layer; empty where a layer keeps nothing.
    kept: Vec<Place>,
    stream: Place,
}

impl DeviceMap {
    pub(super) fn new(
        config: &ModelConfig,
        layout: &Layout,
        policy: &Policy,
        micros_max: usize,
        storage: DType,
    ) -> Self {
        let carver = &mut Carver::default();
        let (dims, shape) = (&config.dims, policy.numeric.shape);
        let layer = layout.layer_elements();
        let [embedding, head] = [layout.embedding(), layout.head()].map(|unit| layout.unit(unit).elements);
        let ends = if layout.tied { [embedding, head] } else { [embedding.max(head), 0] };

        let slots = (0..policy.placement.weight_slots).map(|_| carver.take(SLOTS, layer * 2)).collect();
        let end_weights = ends.map(|elements| carver.take(END_WEIGHTS, elements * 2));
        let end_gradients = ends.map(|elements| carver.take(END_GRADIENTS, elements * 4));
        let gradient = carver.take(GRADIENT, layer * 4);
        let slab_bytes = layer * policy.numeric.grad_dtype.bytes();
        let slabs = (0..policy.placement.slabs).map(|_| carver.take(SLABS, slab_bytes)).collect();
        let scratch_bytes = LayerScratch::bytes(dims, shape, storage).max(HeadScratch::bytes(
            dims,
            shape,
            storage,
            policy.numeric.logits_chunk,
        ));
        let scratch = carver.take(SCRATCH, scratch_bytes);
        let scalars = carver.take(SCALARS, 8 * (1 + policy.placement.slabs));
        let logits = carver.take(LOGITS, 4 * dims.v);

        let micros_start = carver.bytes();
        let boundary_bytes = shape.n() * dims.c * storage.bytes();
        let own_bytes = |layer| if policy.placement.spills(layer) { 0 } else { boundary_bytes };
        let kept_bytes = |layer| {
            let recompute = policy.placement.layer(layer).recompute;
            LayerScratch::kept_bytes(recompute, dims, shape, storage)
        };
        let micros = (0..micros_max)
            .map(|_| MicroPlaces {
                batch: BatchPlaces::take(carver, shape),
                boundaries: (0..dims.l).map(|layer| carver.take(BOUNDARIES, own_bytes(layer))).collect(),
                rooms: (0..policy.placement.rooms()).map(|_| carver.take(PASSING, boundary_bytes)).collect(),
                kept: (0..dims.l).map(|layer| carver.take(KEPT, kept_bytes(layer))).collect(),
                stream: carver.take(STREAMS, boundary_bytes),
            })
            .collect();
        DeviceMap {
            carver: std::mem::take(carver),
            micros_start,
            slots,
            slabs,
            end_weights,
            end_gradients,
            gradient,
            scratch,
            scalars,
            logits,
            micros,
        }
    }

    /// The size of the arena.
    pub fn bytes(&self) -> usize {
        self.carver.bytes()
    }

    /// What one micro-batch more takes.
    pub fn bytes_per_micro(&self) -> usize {
        (self.bytes() - self.micros_start) / self.micros.len()
    }

    /// Totals by name.
    pub fn regions(&self) -> &[Region] {
        self.carver.regions()
    }

    /// The name a resource is accounted to and what it takes, padding included; nothing if it is not on the
    /// device. Scalars share one place and count their eight bytes.
    pub fn footprint(&self, resource: &Resource) -> Option<(&'static str, usize)> {
        let (name, place) = match *resource {
            Resource::Slot(slot) => (SLOTS, self.slot(slot)),
            Resource::EndWeights(end) => (END_WEIGHTS, self.end_weights(end)),
            Resource::EndAccumulator(end) => (END_GRADIENTS, self.end_gradient(end)),
            Resource::Accumulator => (GRADIENT, self.gradient()),
            Resource::Slab(slab) => (SLABS, self.slab(slab)),
            Resource::Scratch => (SCRATCH, self.scratch()),
            Resource::Logits => (LOGITS, self.logits()),
            Resource::Boundary { unit, micro } => {
                (BOUNDARIES, self.boundary(BoundaryPlace::Own, unit, micro))
            }
            Resource::Room { room, micro } => (PASSING, self.room(room, micro)),
            Resource::Kept { unit, micro } => (KEPT, self.kept(unit, micro)),
            Resource::Stream { micro } => (STREAMS, self.stream(micro)),
            Resource::Loss | Resource::Norm(_) => return Some((SCALARS, 8)),
            Resource::Batch { micro } => {
                let BatchPlaces { tokens, targets, weights, starts } = self.batch(micro);
                return Some((BATCHES, [tokens, targets, weights, starts].iter().map(Place::padded).sum()));
            }
            Resource::HostBatch { .. }
            | Resource::Master { .. }
            | Resource::HostGradient { .. }
            | Resource::HostBoundary { .. }
            | Resource::Ring(_)
            | Resource::HostNorm { .. }
            | Resource::HostLoss
            | Resource::Verdict
            | Resource::HostLogits => return None,
        };
        Some((name, place.padded()))
    }

    /// A layer's weights.
    pub fn slot(&self, slot: SlotIndex) -> Place {
        self.slots[slot.at()]
    }

    /// A rounded gradient on its way out.
    pub fn slab(&self, slab: SlabIndex) -> Place {
        self.slabs[slab.at()]
    }

    /// An end's weights.
    pub fn end_weights(&self, end: End) -> Place {
        self.end_weights[end as usize]
    }

    /// An end's f32 gradient.
    pub fn end_gradient(&self, end: End) -> Place {
        self.end_gradients[end as usize]
    }

    /// The f32 gradient of the layer in work.
    pub fn gradient(&self) -> Place {
        self.gradient
    }

    /// The compute lane's own memory.
    pub fn scratch(&self) -> Place {
        self.scratch
    }

    /// f64: the loss sum.
    pub fn loss(&self) -> Place {
        self.scalars.elements(0..1, 8)
    }

    /// f64: the sum of squares of the unit that leaves by this slab.
    pub fn norm(&self, slab: SlabIndex) -> Place {
        self.scalars.elements(1 + slab.at()..2 + slab.at(), 8)
    }

    /// f32 `[V]`: one row of logits.
    pub fn logits(&self) -> Place {
        self.logits
    }

    /// A micro-batch's arrays.
    pub fn batch(&self, micro: MicroIndex) -> BatchPlaces {
        self.micros[micro.at()].batch
    }

    /// The activation below a layer.
    pub fn boundary(&self, place: BoundaryPlace, unit: UnitIndex, micro: MicroIndex) -> Place {
        match place {
            BoundaryPlace::Own => self.micros[micro.at()].boundaries[unit.at() - 1],
            BoundaryPlace::Room(room) => self.room(room, micro),
            BoundaryPlace::Stream => self.stream(micro),
        }
    }

    /// What spilled boundaries pass through.
    pub fn room(&self, room: RoomIndex, micro: MicroIndex) -> Place {
        self.micros[micro.at()].rooms[room.at()]
    }

    /// What a layer keeps from forward to backward.
    pub fn kept(&self, unit: UnitIndex, micro: MicroIndex) -> Place {
        self.micros[micro.at()].kept[unit.at() - 1]
    }

    /// The top of the residual stream: the head's input, then the gradient on its way down.
    pub fn stream(&self, micro: MicroIndex) -> Place {
        self.micros[micro.at()].stream
    }
}
