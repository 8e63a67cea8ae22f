//! The search: finds the placement with the shortest simulated step among those that fit.
//!
//! # Algorithm
//! 1. A placement is described by counts, a [`Mix`]: the number of layers of each kind, and how
//!    they are spread.
//! 2. A few dozen mixes fill the memory in different orders. The sum of each lane's work is a lower
//!    bound of the step time; mixes with a low bound are simulated.
//! 3. The best few descend: more of one attribute, less of another, with a step size that halves.
//! 4. At last single layers are changed.
//!
//! The search uses no random numbers and no clock, so the same question always has the same answer.
//! The number of simulated operations is limited.
//!
//! # Criteria
//! The step time is that of [`Plan::predict`], the memory limits are those of [`Question::admit`];
//! of equally fast placements the smaller one wins. Options fixed by the user never change.

mod descent;
mod explain;
mod mix;
mod refuse;
mod trial;

pub use explain::{Explanation, Gain};

use std::fmt;

use crate::base::{DType, Name, Result, Shape, phrase};
use crate::host::{Limits, Pinning};
use crate::model::{Layout, ModelConfig, Recompute};
use crate::plan::{Description, Machine, Plan};
use crate::schedule::{
    Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Numeric, Placement, Policy,
};

/// Limits of memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// Bytes of device memory, if they are limited.
    pub device: Option<usize>,
    /// The source of the limit of device memory.
    pub device_source: DeviceSource,
    /// Host memory.
    pub host: Limits,
    /// True if device memory is host memory, as on the CPU device.
    pub shared: bool,
}

/// The source of a limit on device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceSource {
    /// The user's `device_mem`.
    Stated,
    /// The free memory of the device, less a margin for kernels.
    Free,
    /// The memory of the machine that a plan is for.
    Machine,
}

impl fmt::Display for DeviceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSource::Stated => Name::DeviceMem.fmt(f),
            DeviceSource::Free => f.write_str("free device memory less a margin for kernels"),
            DeviceSource::Machine => f.write_str("the described machine's memory"),
        }
    }
}

impl MemoryLimits {
    /// The free memory of this machine, at most the bytes that the user states for the device.
    /// `free` is the free memory of a device that has its own. Bytes stated for the `host` override
    /// the free ones.
    pub fn here(
        device: Option<usize>,
        free: Option<usize>,
        host: Option<usize>,
        shared: bool,
    ) -> MemoryLimits {
        let (device, device_source) = match (device, free) {
            (stated, Some(free)) if stated.is_none_or(|stated| free < stated) => {
                (Some(free), DeviceSource::Free)
            }
            (stated, _) => (stated, DeviceSource::Stated),
        };
        MemoryLimits { device, device_source, host: Limits::read(host), shared }
    }

    /// The memory of a described machine; `device` and `host`, in bytes, override it. If its device
    /// memory is RAM, it is the CPU device, and host memory is that of this machine.
    pub fn of(machine: &Description, device: Option<usize>, host: Option<usize>) -> MemoryLimits {
        let host = match machine.shared {
            true => Limits::read(host),
            false => Limits::of_machine(machine.host_bytes, host),
        };
        let device_source = if device.is_some() { DeviceSource::Stated } else { DeviceSource::Machine };
        MemoryLimits { device: device.or(machine.device_bytes), device_source, host, shared: machine.shared }
    }
}

/// The options fixed by the user; the search chooses the others.
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
    /// True if gradients wait on the host in mode streamed unless `grad_wait` is fixed; the search
    /// then tries other places only in other modes.
    pub streamed_on_host: bool,
    /// See [`Placement::adam`]. `None`: AdamW runs after the norm unless no buffer keeps gradients
    /// until then.
    pub adam: Option<AdamWhen>,
    /// By layer, as the following options: the activations that are recomputed.
    pub recompute: Option<Vec<Recompute>>,
    /// The place of the boundary.
    pub boundary: Option<Vec<Boundary>>,
    /// True for resident layers.
    pub resident: Option<Vec<bool>>,
    /// The place of the f32 gradient between sweeps.
    pub accumulator: Option<Vec<Accumulator>>,
}

impl Fixed {
    /// Fixes all options of the layers.
    pub fn place(&mut self, layers: impl Iterator<Item = LayerPlacement> + Clone) {
        self.recompute = Some(layers.clone().map(|layer| layer.recompute).collect());
        self.boundary = Some(layers.clone().map(|layer| layer.boundary).collect());
        self.resident = Some(layers.clone().map(|layer| layer.resident).collect());
        self.accumulator = Some(layers.map(|layer| layer.accumulator).collect());
    }

    /// True if nothing is left to choose, except the time of AdamW.
    fn is_whole(&self) -> bool {
        let counts = self.weight_slots.and(self.slabs).and(self.sweeps).is_some();
        let layers = self.recompute.is_some() && self.boundary.is_some() && self.resident.is_some();
        counts && layers && self.accumulator.is_some() && self.grad_wait.is_some()
    }

    /// The fixed options of a layer; the others are those of `free`.
    fn of(&self, layer: usize, free: LayerPlacement) -> LayerPlacement {
        LayerPlacement {
            recompute: self.recompute.as_ref().map_or(free.recompute, |fixed| fixed[layer]),
            boundary: self.boundary.as_ref().map_or(free.boundary, |fixed| fixed[layer]),
            resident: self.resident.as_ref().map_or(free.resident, |fixed| fixed[layer]),
            accumulator: self.accumulator.as_ref().map_or(free.accumulator, |fixed| fixed[layer]),
        }
    }
}

/// Slabs of the gradients' ring buffer on the host: one being filled, one in AdamW, one between.
pub const RING: usize = 3;

impl Default for Fixed {
    fn default() -> Self {
        Fixed {
            weight_slots: None,
            slabs: None,
            ring: RING,
            sweeps: None,
            grad_wait: None,
            streamed_on_host: false,
            adam: None,
            recompute: None,
            boundary: None,
            resident: None,
            accumulator: None,
        }
    }
}

/// The input of the search.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// Its layout.
    pub layout: &'a Layout,
    /// The device's dtype of activations.
    pub activation_dtype: DType,
    /// The machine that runs the step.
    pub machine: &'a Machine,
    /// The state that the host keeps.
    pub mode: Mode,
    /// The numeric half of the policy, which the search does not change.
    pub numeric: Numeric,
    /// True if gradients are clipped, so that AdamW has to wait for the global norm.
    pub clips: bool,
    /// Micro-batches per step.
    pub micros: usize,
    /// The memory limits.
    pub limits: MemoryLimits,
    /// The options fixed by the user.
    pub fixed: &'a Fixed,
}

/// The result of the search.
#[derive(Clone, Debug)]
pub struct Found {
    /// The fastest plan that fits.
    pub plan: Plan,
    /// Its step time.
    pub step_ns: u64,
    /// Number of simulated placements.
    pub simulated: usize,
}

/// Limit of simulated operations, summed over all lists. Takes less than a second.
const EFFORT: usize = 1_200_000;

impl<'a> Question<'a> {
    /// The fastest placement that fits.
    ///
    /// Errors: nothing fits (`OutOfDeviceMemory`, `OutOfHostMemory`); the message names the binding
    /// limit, the missing bytes and the smallest change that fits. Also those of [`Plan::new`].
    pub fn search(&self) -> Result<Found> {
        self.search_from(&[], EFFORT)
    }

    /// Explains the step time of the result: busiest lane, critical path, and changes that would
    /// shorten the step.
    ///
    /// Errors: those of [`Plan::predict`].
    pub fn explain(&self, found: &Found) -> Result<Explanation> {
        explain::explain(self, found)
    }

    /// Like [`Question::explain`], without the changes.
    ///
    /// Errors: those of [`Plan::predict`].
    pub fn look(&self, found: &Found) -> Result<Explanation> {
        explain::look(self, found)
    }

    /// Like [`Question::search`], with a limit of `effort` simulated operations. The result is at
    /// least as fast as the fastest of `starts` that is allowed.
    fn search_from(&self, starts: &[Placement], effort: usize) -> Result<Found> {
        let mut trials = trial::Trials::new(*self, effort)?;
        match descent::best(&mut trials, starts) {
            Some((placement, step_ns)) => {
                let plan = self.plan(placement)?;
                Ok(Found { plan, step_ns, simulated: trials.simulated() })
            }
            None => Err(refuse::nothing_fits(self, "chosen by the search")?),
        }
    }

    /// Checks that a plan fits. The question is the plan's: its options fix the whole placement.
    ///
    /// Errors: it does not fit, as for [`Question::search`].
    pub fn admit(&self, plan: &Plan) -> Result<()> {
        if self.fits(plan.device.bytes(), plan.host.bytes()) {
            return Ok(());
        }
        let search = phrase("`horizon plan`", "hz_plan_search", "a plan search");
        Err(refuse::nothing_fits(self, &format!("chosen by {search}"))?)
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

    /// True if these bytes are within all limits.
    fn fits(&self, device: usize, host: usize) -> bool {
        self.limits.device.is_none_or(|limit| device <= limit) && self.fits_host(device, host)
    }

    /// True if these bytes are within the limit of host memory.
    fn fits_host(&self, device: usize, host: usize) -> bool {
        let host = if self.limits.shared { host.saturating_add(device) } else { host };
        host <= self.limits.host.bytes
    }

    /// The time at which AdamW runs if gradients wait at this place.
    fn adam(&self, wait: GradWait) -> AdamWhen {
        self.fixed.adam.unwrap_or(AdamWhen::of(self.mode, wait))
    }

    /// The allowed places for waiting gradients. Clipping needs one that keeps them until the
    /// global norm is known.
    fn waits(&self) -> Vec<GradWait> {
        let streamed_on_host = self.fixed.streamed_on_host && self.mode == Mode::Streamed;
        let fixed = self.fixed.grad_wait.or(streamed_on_host.then_some(GradWait::Host));
        let allowed = |wait: &GradWait| {
            fixed.is_none_or(|fixed| fixed == *wait)
                && !(self.clips && self.adam(*wait) == AdamWhen::UnderBackward)
                && !(*wait == GradWait::Device && self.fixed.adam == Some(AdamWhen::UnderBackward))
        };
        [GradWait::Host, GradWait::Device].into_iter().filter(allowed).collect()
    }

    /// The same model on the same machine, with another step shape.
    fn with_shape(&self, shape: Shape, micros: usize) -> Question<'a> {
        let mut numeric = self.numeric;
        numeric.shape = shape;
        numeric.logits_chunk = numeric.logits_chunk.min(shape.n());
        Question { numeric, micros, ..*self }
    }

    /// The numbers of sweeps to try: one per sweep length; for more than 8 micro-batches, powers of
    /// two and the maximum.
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
        // Of numbers with the same sweep length, the smallest.
        sweeps.dedup_by_key(|sweeps| self.micros.div_ceil(*sweeps));
        sweeps
    }
}
