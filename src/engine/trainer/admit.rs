//! The checks of opening a trainer, made before any model memory is allocated.

use crate::base::Result;
use crate::engine::Trainer;
use crate::engine::backend::Backend;
use crate::engine::options::TrainerOptions;
use crate::engine::trainer::plan_of;
use crate::host::{Arena, MemoryKind};
use crate::model::{Layout, ModelConfig};
use crate::plan::{Description, MemoryLimits, Plan};

impl Trainer {
    /// Checks what [`Trainer::open`] checks: the options, the device, its free memory, the free
    /// host memory, the GEMM autotune table. Allocates no model memory. A CUDA device becomes the
    /// calling thread's current one.
    ///
    /// Errors: those of [`Trainer::open`], with the same status and message.
    pub fn admit(config: &ModelConfig, options: &TrainerOptions) -> Result<()> {
        let (backend, options) = backend(config, options)?;
        plan(&backend, config, &options).map(drop)
    }
}

/// Opens the device that the options choose. Also returns the options with that device.
pub fn backend(config: &ModelConfig, options: &TrainerOptions) -> Result<(Backend, TrainerOptions)> {
    let device = options.device.resolve(config, options.shape)?;
    let options = TrainerOptions { device, ..options.clone() };
    device.require()?;
    // Refuses invalid options before the device is opened.
    Trainer::plan_for(config, &options)?;
    Ok((Backend::open(&options)?, options))
}

/// The plan of a trainer on an opened device, where it fits.
pub fn plan(backend: &Backend, config: &ModelConfig, options: &TrainerOptions) -> Result<Plan> {
    let (device, activation_dtype) = (&backend.device, backend.activation_dtype);
    let plan = plan_of(config, options, activation_dtype)?;
    let wire_memory = device.wire_memory(plan.host.wire_bytes());
    let plan = match &wire_memory {
        MemoryKind::Pinned { by, node, .. } => plan.discrete(*by).on_node(*node),
        _ => plan,
    };
    let shared = plan.shares_memory();
    let free = (!shared).then(|| device.capacity()).transpose()?;
    let limits = MemoryLimits::here(options.device_mem, free, options.host_mem, shared);
    let layout = Layout::new(config);
    let fixed = options.fixed(layout.layers());
    // Nothing is simulated, so any rates will do.
    let machine = Description::shipped("cpu").expect("a machine that is built in").rates;
    options.question(config, &layout, activation_dtype, &machine, limits, &fixed)?.admit(&plan)?;
    Arena::admit(plan.host.wire_bytes(), &wire_memory)?;
    Ok(plan)
}
