//! The device arena: every region the schedule's resources stand for.

use crate::base::{DType, MicroIndex, Shape, SlabIndex, SlotIndex, UnitIndex};
use crate::model::{HeadScratch, LayerScratch, Layout, ModelConfig};
use crate::plan::carve::{Carver, Place, Region};
use crate::schedule::{End, Policy};

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
        let mut array = || carver.take("batches", shape.n() * 4);
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
    boundaries: Vec<Place>,
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

        let slots =
            (0..policy.placement.weight_slots).map(|_| carver.take("weight slots", layer * 2)).collect();
        let end_weights = ends.map(|elements| carver.take("end weights", elements * 2));
        let end_gradients = ends.map(|elements| carver.take("end gradients (f32)", elements * 4));
        let gradient = carver.take("layer gradient (f32)", layer * 4);
        let slab_bytes = layer * policy.numeric.grad_dtype.bytes();
        let slabs = (0..policy.placement.slabs).map(|_| carver.take("gradient slabs", slab_bytes)).collect();
        let scratch_bytes = LayerScratch::bytes(dims, shape, storage).max(HeadScratch::bytes(
            dims,
            shape,
            storage,
            policy.numeric.logits_chunk,
        ));
        let scratch = carver.take("scratch", scratch_bytes);
        let scalars = carver.take("scalars", 8 * (1 + layout.units.len()));
        let logits = carver.take("logits row", 4 * dims.v);

        let micros_start = carver.bytes();
        let boundary_bytes = shape.n() * dims.c * storage.bytes();
        let micros = (0..micros_max)
            .map(|_| MicroPlaces {
                batch: BatchPlaces::take(carver, shape),
                boundaries: (0..dims.l).map(|_| carver.take("boundaries", boundary_bytes)).collect(),
                stream: carver.take("streams", boundary_bytes),
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

    /// f64: a unit's sum of squares.
    pub fn norm(&self, unit: UnitIndex) -> Place {
        self.scalars.elements(1 + unit.at()..2 + unit.at(), 8)
    }

    /// f32 `[V]`: one row of logits.
    pub fn logits(&self) -> Place {
        self.logits
    }

    /// A micro-batch's arrays.
    pub fn batch(&self, micro: MicroIndex) -> BatchPlaces {
        self.micros[micro.at()].batch
    }

    /// The activation below layer `index`; above the last layer it is the stream.
    pub fn boundary(&self, index: usize, micro: MicroIndex) -> Place {
        let places = &self.micros[micro.at()];
        places.boundaries.get(index).copied().unwrap_or(places.stream)
    }

    /// The top of the residual stream: the head's input, then the gradient on its way down.
    pub fn stream(&self, micro: MicroIndex) -> Place {
        self.micros[micro.at()].stream
    }
}
