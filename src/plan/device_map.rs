//! The device arena: every region the schedule's resources stand for.

use crate::base::{MicroIndex, PartIndex, Shape, SlabIndex};
use crate::model::{External, Layout, ModelConfig, Passes, Sizes, UnitLayout, constant_bytes};
use crate::plan::carve::{Carver, Place, Region};
use crate::schedule::{Geometry, GradWait, Policy, Resource, Sum};

const SLOTS: &str = "weight slots";
const END_WEIGHTS: &str = "end weights";
const END_GRADIENTS: &str = "end gradients (f32)";
const GRADIENT: &str = "layer gradient (f32)";
const SUM_ROOMS: &str = "gradient rooms (f32)";
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
const PASSING: &str = "boundary rooms";
const KEPT: &str = "kept activations";
const STREAMS: &str = "streams";

/// A micro-batch's arrays, on the host and on the device alike: side by side, so that one copy carries them.
#[derive(Clone, Copy, Debug)]
pub struct BatchPlaces {
    /// All of them.
    pub whole: Place,
    /// `i32 [N]`
    pub tokens: Place,
    /// `i32 [N]`
    pub targets: Place,
    /// `f32 [N]`
    pub weights: Place,
    /// `i32 [N]`: rotary positions.
    pub positions: Place,
    /// `i32 [N]`: the first row of each row's document.
    pub doc_start: Place,
    /// `i32 [N]`: one past the last row of each row's document.
    pub doc_end: Place,
    /// `i32 [N]`: rows sorted by token.
    pub order: Place,
    /// `i32 [N + 1]`: where in `order` the rows of each distinct token begin.
    pub first: Place,
    /// `i32 [N]`: each token's row in what the device has of the embedding: all of it, or the rows that were gathered.
    pub gathered: Place,
}

impl BatchPlaces {
    pub(super) fn take(carver: &mut Carver, shape: Shape) -> Self {
        let whole = carver.take(BATCHES, BatchPlaces::bytes(shape));
        BatchPlaces::lay(whole, shape)
    }

    /// What one copy of a batch carries.
    pub(super) fn bytes(shape: Shape) -> usize {
        let last = BatchPlaces::lay(Place::default(), shape).gathered;
        last.offset + last.bytes
    }

    /// An array that passes find; none if it is not of the batch.
    pub fn array(&self, external: External) -> Option<Place> {
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

    fn lay(whole: Place, shape: Shape) -> Self {
        let mut inner = Carver::default();
        let mut array = |elements: usize| {
            let place = inner.take(BATCHES, elements * 4);
            Place { offset: whole.offset + place.offset, ..place }
        };
        let n = shape.n();
        BatchPlaces {
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

/// Places in the device arena.
#[derive(Clone, Debug)]
pub struct DeviceMap {
    carver: Carver,
    micro_bytes: usize,
    seat_bytes: usize,
    sweeps: usize,
    slots: Vec<Place>,
    slabs: Vec<Place>,
    end_weights: [Place; 2],
    end_gradients: [Place; 2],
    gradient: Place,
    sum_rooms: Vec<Place>,
    /// By layer; empty where it shares or passes.
    layer_gradients: Vec<Place>,
    scratch: Place,
    loss: Place,
    norms: Vec<Place>,
    logits: Place,
    constants: Place,
    workspace: Place,
    /// By micro-batch: what stays through a step.
    batches: Vec<BatchPlaces>,
    streams: Vec<Place>,
    logprobs: Vec<Place>,
    seats: Vec<SeatPlaces>,
}

/// What each micro-batch of a sweep has on the device.
#[derive(Clone, Debug)]
struct SeatPlaces {
    /// By layer; empty where they are spilled.
    boundaries: Vec<Place>,
    rooms: Vec<Place>,
    /// By layer; empty where a layer keeps nothing.
    kept: Vec<Place>,
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
        let Sizes { shape, storage, .. } = *passes.sizes();
        let (dims, layers) = (&config.dims, layout.layers());
        let layer = layout.layer_elements();
        let [embedding, head] = [layout.embedding(), layout.head()].map(|unit| layout.unit(unit).elements);
        let ends = if layout.tied { [embedding, head] } else { [embedding.max(head), 0] };

        let one_if = |condition: bool| usize::from(condition);
        // A slot that no layer comes to takes nothing.
        let streamed = layers - placement.residents();
        let slots = (0..placement.weight_slots + placement.residents())
            .map(|slot| one_if(slot < streamed || slot >= placement.weight_slots))
            .map(|used| carver.take(SLOTS, used * layer * 2))
            .collect();
        let end_weights = ends.map(|elements| carver.take(END_WEIGHTS, elements * 2));
        let end_gradients = ends.map(|elements| carver.take(END_GRADIENTS, elements * 4));
        let gradient = carver.take(GRADIENT, one_if(placement.shares_sum(layers)) * layer * 4);
        let sum_rooms = (0..placement.sum_rooms(layers)).map(|_| carver.take(SUM_ROOMS, layer * 4)).collect();
        let own = |at: usize| one_if(placement.layer(at).sum == Sum::Own) * layer * 4;
        let layer_gradients = (0..layers).map(|at| carver.take(LAYER_GRADIENTS, own(at))).collect();
        // Elements of each slab, and blocks of the norm beside it.
        let slab_sizes: Vec<(usize, usize)> = match placement.grad_wait {
            GradWait::Host => {
                let blocks_max = layout.units.iter().map(UnitLayout::norm_blocks).max().unwrap_or(0);
                vec![(layout.slab_elements(), blocks_max); policy.slabs(geometry)]
            }
            GradWait::Device => (0..policy.slabs(geometry))
                .map(|slab| geometry.part_of(SlabIndex::from(slab)))
                .map(|(unit, part)| {
                    let first = one_if(part == PartIndex(0));
                    (layout.part(unit, part).len(), first * layout.unit(unit).norm_blocks())
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

        let boundary_bytes = shape.n() * dims.c * storage.bytes();
        let own_bytes = |layer| one_if(!placement.spills(layer)) * boundary_bytes;
        let kept_bytes = |layer| passes.kept_bytes(layout.layer(layer), placement.layer(layer).recompute);
        let start = carver.bytes();
        let batches: Vec<_> = (0..micros_max).map(|_| BatchPlaces::take(carver, shape)).collect();
        let streams = (0..micros_max).map(|_| carver.take(STREAMS, boundary_bytes)).collect();
        let logprobs = (0..micros_max).map(|_| carver.take(LOGPROBS, 4 * shape.n())).collect();
        let micro_bytes = (carver.bytes() - start) / micros_max;
        let start = carver.bytes();
        let seats: Vec<_> = (0..placement.sweep(micros_max))
            .map(|_| SeatPlaces {
                boundaries: (0..layers).map(|layer| carver.take(BOUNDARIES, own_bytes(layer))).collect(),
                rooms: (0..placement.rooms()).map(|_| carver.take(PASSING, boundary_bytes)).collect(),
                kept: (0..layers).map(|layer| carver.take(KEPT, kept_bytes(layer))).collect(),
            })
            .collect();
        DeviceMap {
            micro_bytes,
            seat_bytes: (carver.bytes() - start) / seats.len(),
            sweeps: placement.sweeps,
            carver: std::mem::take(carver),
            slots,
            slabs,
            end_weights,
            end_gradients,
            gradient,
            sum_rooms,
            layer_gradients,
            scratch,
            loss,
            norms,
            logits,
            constants,
            workspace,
            batches,
            streams,
            logprobs,
            seats,
        }
    }

    /// The size of the arena.
    pub fn bytes(&self) -> usize {
        self.carver.bytes()
    }

    /// What one micro-batch more or less takes, on the average of a sweep.
    pub fn bytes_per_micro(&self) -> usize {
        self.micro_bytes + self.seat_bytes * self.seats.len() / self.batches.len()
    }

    /// What it would be for steps of at most so many micro-batches.
    pub fn bytes_for(&self, micros: usize) -> usize {
        let rest = self.bytes() - self.batches.len() * self.micro_bytes - self.seats.len() * self.seat_bytes;
        rest + micros * self.micro_bytes + micros.div_ceil(self.sweeps) * self.seat_bytes
    }

    /// Every place and the name it is accounted to.
    pub fn places(&self) -> &[(&'static str, Place)] {
        self.carver.places()
    }

    /// Totals by name.
    pub fn regions(&self) -> &[Region] {
        self.carver.regions()
    }

    /// The name a resource is accounted to and what it takes, padding included; nothing if it is not on the
    /// device.
    pub fn footprint(&self, resource: &Resource) -> Option<(&'static str, usize)> {
        let (name, place) = self.named(resource)?;
        Some((name, place.padded()))
    }

    /// The place of a resource and the name it is accounted to; nothing if it is not on the device.
    pub fn named(&self, resource: &Resource) -> Option<(&'static str, Place)> {
        Some(match *resource {
            Resource::Slot(slot) => (SLOTS, self.slots[slot.at()]),
            Resource::EndWeights(end) => (END_WEIGHTS, self.end_weights[end as usize]),
            Resource::EndAccumulator(end) => (END_GRADIENTS, self.end_gradients[end as usize]),
            Resource::Accumulator => (GRADIENT, self.gradient),
            Resource::SumRoom(room) => (SUM_ROOMS, self.sum_rooms[room.at()]),
            Resource::LayerAccumulator { unit } => (LAYER_GRADIENTS, self.layer_gradients[unit.at() - 1]),
            Resource::Slab(slab) => (SLABS, self.slabs[slab.at()]),
            Resource::Norm(slab) => (NORMS, self.norms[slab.at()]),
            Resource::Scratch => (SCRATCH, self.scratch),
            Resource::Loss => (LOSS, self.loss),
            Resource::Logits => (LOGITS, self.logits),
            Resource::Logprobs { micro } => (LOGPROBS, self.logprobs[micro.at()]),
            Resource::Batch { micro } => (BATCHES, self.batches[micro.at()].whole),
            Resource::Stream { micro } => (STREAMS, self.streams[micro.at()]),
            Resource::Boundary { unit, seat } => {
                (BOUNDARIES, self.seats[seat.at()].boundaries[unit.at() - 1])
            }
            Resource::Room { room, seat } => (PASSING, self.seats[seat.at()].rooms[room.at()]),
            Resource::Kept { unit, seat } => (KEPT, self.seats[seat.at()].kept[unit.at() - 1]),
            Resource::HostBatch { .. }
            | Resource::Master { .. }
            | Resource::HostRows
            | Resource::HostGradient { .. }
            | Resource::HostBoundary { .. }
            | Resource::HostSum { .. }
            | Resource::Ring(_)
            | Resource::HostNorm { .. }
            | Resource::HostLoss
            | Resource::Verdict
            | Resource::HostLogits
            | Resource::HostLogprobs { .. }
            | Resource::Saved => return None,
        })
    }

    /// A micro-batch's arrays.
    pub fn batch(&self, micro: MicroIndex) -> &BatchPlaces {
        &self.batches[micro.at()]
    }

    /// What the model's layers read and nobody writes.
    pub fn constants(&self) -> Place {
        self.constants
    }

    /// What kernels work in: no op finds anything there.
    pub fn workspace(&self) -> Place {
        self.workspace
    }
}
