//! The search: of all placements that fit, the one with the least simulated step time.
//!
//! # How
//! A placement is first a [`Mix`]: so many layers of each kind, and how they are spread. From a few dozen ways
//! to fill the memory there is, each lane's summed work (which no order of things can beat) tells the hopeful
//! ones; those are simulated, and the best few are improved step by step: more of this, less of that to make
//! room, in steps that halve. At last single layers are changed. Nothing is drawn by lot and no clock is
//! asked, so that the same question always has the same answer; how much is simulated is bounded by a number
//! of operations.
//!
//! # The law
//! What is compared is [`Plan::predict`]'s step time, what fits is [`Plan::admit`]'s, and of equally fast
//! placements the smaller one is taken. A field that is pinned is never changed.

mod descent;
mod explain;
mod mix;
mod refuse;
mod trial;

pub use explain::{Explanation, Gain};

use crate::base::{DType, Result, Shape};
use crate::host::{Limits, Pinning};
use crate::model::{Layout, ModelConfig, Recompute};
use crate::plan::{Description, Machine, Plan};
use crate::schedule::{
    Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Numeric, Placement, Policy,
};

/// What must not be passed.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// Bytes of device memory, if they are limited.
    pub device: Option<usize>,
    /// Host memory.
    pub host: Limits,
    /// Whether device memory is host memory, too, as on the CPU device.
    pub shared: bool,
}

impl MemoryLimits {
    /// What there is on this machine now. A stated number of bytes of host memory overrides what it reports.
    pub fn here(device: Option<usize>, host: Option<usize>, shared: bool) -> MemoryLimits {
        MemoryLimits { device, host: Limits::read(host), shared }
    }

    /// What a machine has. Stated numbers of bytes override it. A machine whose device memory is RAM is the CPU
    /// device's, and that is here.
    pub fn of(machine: &Description, device: Option<usize>, host: Option<usize>) -> MemoryLimits {
        if machine.shared {
            return MemoryLimits::here(device.or(machine.device_bytes), host, true);
        }
        let host = Limits::of_machine(machine.host_bytes, host);
        MemoryLimits { device: device.or(machine.device_bytes), host, shared: false }
    }
}

/// What the user has decided; the rest is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// See [`Placement::weight_slots`].
    pub weight_slots: Option<usize>,
    /// See [`Placement::slabs`].
    pub slabs: Option<usize>,
    /// See [`Placement::ring`].
    pub ring: usize,
    /// See [`Placement::sweeps`].
    pub sweeps: Option<usize>,
    /// See [`Placement::grad_wait`].
    pub grad_wait: Option<GradWait>,
    /// See [`Placement::adam`]. Where it is free, AdamW runs after the norm unless nothing keeps gradients
    /// until then.
    pub adam: Option<AdamWhen>,
    /// What each layer recomputes. Here and below: one for every layer.
    pub recompute: Option<Vec<Recompute>>,
    /// Where each layer's boundary is.
    pub boundary: Option<Vec<Boundary>>,
    /// Which layers are resident.
    pub resident: Option<Vec<bool>>,
    /// Where each layer's f32 gradient is between sweeps.
    pub accumulator: Option<Vec<Accumulator>>,
}

impl Fixed {
    /// Decides everything about the layers.
    pub fn place(&mut self, layers: impl Iterator<Item = LayerPlacement> + Clone) {
        self.recompute = Some(layers.clone().map(|layer| layer.recompute).collect());
        self.boundary = Some(layers.clone().map(|layer| layer.boundary).collect());
        self.resident = Some(layers.clone().map(|layer| layer.resident).collect());
        self.accumulator = Some(layers.map(|layer| layer.accumulator).collect());
    }

    /// What is decided of a layer, and the rest as it is given.
    fn of(&self, layer: usize, free: LayerPlacement) -> LayerPlacement {
        LayerPlacement {
            recompute: self.recompute.as_ref().map_or(free.recompute, |fixed| fixed[layer]),
            boundary: self.boundary.as_ref().map_or(free.boundary, |fixed| fixed[layer]),
            resident: self.resident.as_ref().map_or(free.resident, |fixed| fixed[layer]),
            accumulator: self.accumulator.as_ref().map_or(free.accumulator, |fixed| fixed[layer]),
        }
    }
}

/// Host slabs of the gradient ring: one landing, one in AdamW, one between.
pub const RING: usize = 3;

impl Default for Fixed {
    fn default() -> Self {
        Fixed {
            weight_slots: None,
            slabs: None,
            ring: RING,
            sweeps: None,
            grad_wait: None,
            adam: None,
            recompute: None,
            boundary: None,
            resident: None,
            accumulator: None,
        }
    }
}

/// What is to be placed, and where.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// Its layout.
    pub layout: &'a Layout,
    /// The device's type of activations.
    pub activation_dtype: DType,
    /// What it runs on.
    pub machine: &'a Machine,
    /// What the host keeps.
    pub mode: Mode,
    /// The numeric half of the policy, which the search takes as it is.
    pub numeric: Numeric,
    /// Whether gradients are clipped, so that AdamW has to wait for their norm.
    pub clips: bool,
    /// Micro-batches of a step.
    pub micros: usize,
    /// What must not be passed.
    pub limits: MemoryLimits,
    /// What is decided.
    pub fixed: &'a Fixed,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Found {
    /// The fastest plan that fits.
    pub plan: Plan,
    /// Its step time.
    pub step_ns: u64,
    /// Placements that were simulated.
    pub simulated: usize,
}

/// How much may be simulated: operations, of all lists together. Under a second.
const EFFORT: usize = 1_200_000;

impl<'a> Question<'a> {
    /// The fastest placement that fits.
    ///
    /// Errors: nothing fits (`OutOfDeviceMemory`, `OutOfHostMemory`), saying which limit binds, by how much, and
    /// the smallest change that fits; or what [`Plan::new`] refuses.
    pub fn search(&self) -> Result<Found> {
        self.search_from(&[], EFFORT)
    }

    /// Why the answer's step takes the time it takes, and what would make it shorter.
    ///
    /// Errors: what [`Plan::predict`] refuses.
    pub fn explain(&self, found: &Found) -> Result<Explanation> {
        explain::explain(self, found)
    }

    /// Where the time of the answer's step goes, and no more than that.
    ///
    /// Errors: what [`Plan::predict`] refuses.
    pub fn look(&self, found: &Found) -> Result<Explanation> {
        explain::look(self, found)
    }

    /// As [`Question::search`], never worse than the fastest of some placements that is among the allowed
    /// ones, and with an effort of so many simulated operations.
    fn search_from(&self, starts: &[Placement], effort: usize) -> Result<Found> {
        let mut trials = trial::Trials::new(*self, effort)?;
        match descent::best(&mut trials, starts) {
            Some((placement, step_ns)) => {
                let plan = self.plan(placement)?;
                Ok(Found { plan, step_ns, simulated: trials.simulated() })
            }
            None => Err(refuse::nothing_fits(self)?),
        }
    }

    /// The plan of a placement.
    fn plan(&self, placement: Placement) -> Result<Plan> {
        let plan =
            Plan::new(self.config, self.layout, self.policy(placement), self.micros, self.activation_dtype)?;
        Ok(if self.limits.shared { plan } else { plan.discrete(Pinning::Registered) })
    }

    fn policy(&self, placement: Placement) -> Policy {
        Policy { mode: self.mode, numeric: self.numeric, placement }
    }

    /// Whether so many bytes pass no limit.
    fn fits(&self, device: usize, host: usize) -> bool {
        self.limits.device.is_none_or(|limit| device <= limit) && self.fits_host(device, host)
    }

    /// Whether so many bytes pass the limit of host memory.
    fn fits_host(&self, device: usize, host: usize) -> bool {
        let host = if self.limits.shared { host.saturating_add(device) } else { host };
        host <= self.limits.host.bytes
    }

    /// When AdamW runs if gradients wait there.
    fn adam(&self, wait: GradWait) -> AdamWhen {
        self.fixed.adam.unwrap_or(AdamWhen::of(self.mode, wait))
    }

    /// Where gradients may wait: only where the norm of all can be had, if that is needed.
    fn waits(&self) -> Vec<GradWait> {
        let allowed = |wait: &GradWait| {
            self.fixed.grad_wait.is_none_or(|fixed| fixed == *wait)
                && !(self.clips && self.adam(*wait) == AdamWhen::UnderBackward)
                && !(*wait == GradWait::Device && self.fixed.adam == Some(AdamWhen::UnderBackward))
        };
        [GradWait::Host, GradWait::Device].into_iter().filter(allowed).collect()
    }

    /// The same model on the same machine, with another step.
    fn with_shape(&self, shape: Shape, micros: usize) -> Question<'a> {
        let mut numeric = self.numeric;
        numeric.shape = shape;
        numeric.logits_chunk = numeric.logits_chunk.min(shape.n());
        Question { numeric, micros, ..*self }
    }

    /// Into how many sweeps a step may be cut: every number that makes a difference, or of very many micro-batches
    /// the doublings.
    fn sweeps(&self) -> Vec<usize> {
        const ALL_MAX: usize = 8;
        if let Some(sweeps) = self.fixed.sweeps {
            return vec![sweeps];
        }
        let mut sweeps: Vec<usize> = if self.micros <= ALL_MAX {
            (1..=self.micros).collect()
        } else {
            std::iter::successors(Some(1), |sweeps| Some(sweeps * 2))
                .take_while(|&sweeps| sweeps < self.micros)
                .chain([self.micros])
                .collect()
        };
        // Of cuts with equal sweeps the fewest.
        sweeps.dedup_by_key(|sweeps| self.micros.div_ceil(*sweeps));
        sweeps
    }
}
