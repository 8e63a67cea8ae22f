//! L7, the plan: a policy together with every byte it takes on host and device.
//!
//! A [`Plan`] is made before any memory is allocated. It holds the offset of every region on the
//! device and on the host, computed once from the layout's sizes; the engine allocates exactly what
//! the plan prints. [`Plan::predict`] simulates a step on a [`Machine`]. [`Question::search`] finds
//! the placement with the shortest step of those that fit, and [`Question::explain`] explains the
//! step time. A [`Description`] is a machine as a file. Knows sizes, rates and limits; allocates no
//! memory itself.
#![forbid(unsafe_code)]

mod carve;
mod cost;
mod device_map;
mod host_map;
mod machine;
mod predict;
mod search;

pub use carve::{ArenaRange, Region};
pub use cost::{Common, Cost, MATRIX_CLASSES, Machine, Work, content_bytes};
pub use device_map::{BatchRanges, DeviceMap};
pub use host_map::{HostMap, UnitRanges};
pub use machine::{ActivationDtype, Basis, Description};
pub use predict::Prediction;
pub use search::{DeviceSource, Explanation, Fixed, Found, Gain, MemoryLimits, Question, RING};

use std::fmt;
use std::sync::Arc;

use crate::base::format::Size;
use crate::base::{DType, Error, Name, Result, Shape};
use crate::host::Pinning;
use crate::model::{Layout, ModelConfig, Passes, Sizes};
use crate::schedule::{Geometry, Policy};

/// The placement of everything in memory, and its sizes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The policy that the plan was made for.
    #[doc(hidden)]
    pub policy: Policy,
    /// Maximum number of micro-batches per step.
    pub micros_max: usize,
    /// The geometry that the schedule is built from.
    #[doc(hidden)]
    pub geometry: Geometry,
    /// The model's ops.
    #[doc(hidden)]
    pub passes: Arc<Passes>,
    /// Device memory: one arena.
    pub device: DeviceMap,
    /// Host memory: an arena for buffers copied to or from the device, and one for memory that only
    /// the CPU uses.
    pub host: HostMap,
    /// The way a discrete device pins the host buffers that it copies; `None` if device memory is
    /// host memory.
    pinning: Option<Pinning>,
    /// The NUMA node of the pinned memory, `Some(None)` if it is bound to no node; `None` before a
    /// device is known.
    node: Option<Option<u32>>,
}

/// Maximum tokens of a micro-batch: kernels count them in 31 bits.
const TOKENS_MAX: usize = i32::MAX as usize;

impl Plan {
    /// Lays out a model under a policy. `activation_dtype` is the device's dtype of activations.
    ///
    /// Errors ([`InvalidArgument`](Status)): a size of 0, a micro-batch too large, a sequence
    /// longer than the model's maximum, or a count that [`Policy::validate_counts`] refuses.
    #[doc(hidden)]
    pub fn new(
        config: &ModelConfig,
        layout: &Layout,
        policy: Policy,
        micros_max: usize,
        activation_dtype: DType,
    ) -> Result<Plan> {
        config.validate()?;
        let shape = policy.numeric.shape;
        let counts = [
            (Name::Sequences, shape.b),
            (Name::SequenceLength, shape.t),
            (Name::MicrosMax, micros_max),
            (Name::LogitsChunk, policy.numeric.logits_chunk),
            (Name::Sweeps, policy.placement.sweeps),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(Error::argument(format!("{name} is 0; it must be at least 1")));
        }
        if shape.b.checked_mul(shape.t).is_none_or(|tokens| tokens > TOKENS_MAX) {
            return Err(Error::argument(format!(
                "{} × {} is {} × {}; a micro-batch has at most {TOKENS_MAX} tokens",
                Name::Sequences,
                Name::SequenceLength,
                shape.b,
                shape.t
            )));
        }
        if shape.t > config.positions_max {
            return Err(Error::argument(format!(
                "{} is {}; it must be at most max_position_embeddings, {}",
                Name::SequenceLength,
                shape.t,
                config.positions_max
            )));
        }
        let logits_chunk = policy.numeric.logits_chunk;
        let passes = Arc::new(Passes::new(config, layout, Sizes { shape, logits_chunk, activation_dtype }));
        Plan::of(config, layout, passes, policy, micros_max)
    }

    /// Like [`Plan::new`], with passes that were made for the same shapes.
    pub(in crate::plan) fn of(
        config: &ModelConfig,
        layout: &Layout,
        passes: Arc<Passes>,
        policy: Policy,
        micros_max: usize,
    ) -> Result<Plan> {
        let geometry = Geometry::of(layout);
        policy.validate_counts(&geometry, micros_max)?;
        check_activations(config, passes.sizes().shape, micros_max)?;
        Ok(Plan {
            device: DeviceMap::new(config, layout, &passes, &policy, &geometry, micros_max),
            host: HostMap::new(config, layout, &policy, micros_max, passes.sizes().activation_dtype),
            passes,
            policy,
            micros_max,
            geometry,
            pinning: None,
            node: None,
        })
    }

    /// The cost of every operation of steps of `micros` micro-batches.
    #[doc(hidden)]
    pub fn cost<'a>(&'a self, layout: &'a Layout, micros: usize) -> Cost<'a> {
        Cost::new(layout, &self.passes, &self.policy, micros)
    }

    /// The same plan for a discrete device, whose host buffers are pinned in this way.
    #[doc(hidden)]
    pub fn discrete(self, pinning: Pinning) -> Plan {
        Plan { pinning: Some(pinning), ..self }
    }

    /// The same plan with its pinned memory on this NUMA node, the device's own; `None` if that
    /// node has too little memory or is unknown.
    #[doc(hidden)]
    pub fn on_node(self, node: Option<u32>) -> Plan {
        Plan { node: Some(node), ..self }
    }

    /// True if device memory is host memory, as on the CPU device.
    #[doc(hidden)]
    pub fn shares_memory(&self) -> bool {
        self.pinning.is_none()
    }
}

/// Refuses a step whose activations cannot be counted in bytes: sizes of buffers are `usize`, and
/// nothing near their maximum fits any machine.
fn check_activations(config: &ModelConfig, shape: Shape, micros_max: usize) -> Result<()> {
    const BYTES_MAX: u128 = 1 << 60;
    let dims = &config.dims;
    // An upper bound: every value of every layer, saved twice in f32.
    let layer = 8 * (4 * dims.c + 2 * dims.qkv() + dims.attention_width() + 3 * dims.f) as u128;
    let row = layer * (dims.l as u128 + 1) * micros_max as u128 + 8 * dims.logits_stride() as u128;
    if row * shape.n() as u128 <= BYTES_MAX {
        return Ok(());
    }
    Err(Error::argument(format!(
        "{} × {} × {} is {} × {} × {micros_max}; the activations of such a step take more than 2^60 bytes",
        Name::Sequences,
        Name::SequenceLength,
        Name::MicrosMax,
        shape.b,
        shape.t
    )))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, total, regions) in [
            ("device", self.device.bytes(), self.device.regions().to_vec()),
            ("host", self.host.bytes(), self.host.regions()),
        ] {
            writeln!(f, "{title:<36} {:>12}", Size(total).to_string())?;
            for region in regions.iter().filter(|region| region.bytes > 0) {
                writeln!(f, "  {:<34} {:>12}", region.name, Size(region.bytes).to_string())?;
            }
        }
        if let Some(pinning) = self.pinning {
            let node = match self.node {
                None => String::new(),
                Some(None) => ", bound to no node".to_owned(),
                Some(Some(node)) => format!(", on node {node}"),
            };
            let bytes = Size(self.host.wire_bytes()).to_string();
            writeln!(f, "{:<36} {bytes:>12} ({pinning}{node})", "of it pinned")?;
        }
        Ok(())
    }
}
