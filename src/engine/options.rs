//! The options of a trainer.

use std::path::PathBuf;

use crate::base::{DType, Error, Name, Result, Shape, check_f32};
use crate::engine::DeviceChoice;
use crate::host::{Pinning, check_threads};
use crate::model::{Layout, ModelConfig};
pub use crate::optim::AdamOptions;
use crate::plan::{Fixed, Machine, MemoryLimits, Question, RING};
use crate::schedule::{AdamWhen, GradWait, LayerPlacement, Mode, Numeric, Placement, Policy};

/// Options of a trainer: device, numerics, memory placement, AdamW. Learning rates are arguments of
/// each step instead.
#[derive(Clone, Debug)]
pub struct TrainerOptions {
    /// The device. Default: the CPU here, `auto` in the C ABI and the command.
    pub device: DeviceChoice,
    /// The method of pinning host memory that is copied to or from a CUDA device.
    pub pinning: Pinning,
    /// File of the GEMM autotune table, made by [`autotune`](super::autotune) or
    /// `horizon calibrate` for this GPU and cuBLASLt version. Default: the cuBLASLt heuristic.
    /// Unused on the CPU device.
    pub gemm_table: Option<PathBuf>,
    /// The host-RAM format of parameters and optimizer state.
    pub mode: Mode,
    /// The dtype to which gradients are rounded when they leave the device.
    pub grad_dtype: DType,
    /// B and T of a micro-batch.
    pub shape: Shape,
    /// Maximum number of micro-batches per step (gradient accumulation).
    pub micros_max: usize,
    /// Rows of logits computed at a time; changes bits. Default: as many as fit 32 MiB of f32; with
    /// bf16 activations (GPUs) as many as fit 1 GiB of bf16, at most 2048.
    pub logits_chunk: Option<usize>,
    /// Device buffers for the weights of streamed layers, at least 2 (double buffering).
    pub weight_slots: usize,
    /// Device buffers for rounded gradients that wait for their download, at least 2.
    pub slabs: usize,
    /// Sweeps per step. The micro-batches of one sweep are on the device together.
    pub sweeps: usize,
    /// Where rounded gradients wait for AdamW: in host RAM, or on the device. On the device even
    /// [`Mode::Streamed`] can clip.
    pub grad_wait: GradWait,
    /// Placement by layer, from the first layer on. Further layers have the default.
    pub layers: Vec<LayerPlacement>,
    /// When AdamW runs. Default: after the norm; in [`Mode::Streamed`] under backward, unless
    /// gradients wait on the device.
    pub adam_when: Option<AdamWhen>,
    /// Limit of device memory, in bytes. Default: the free memory.
    pub device_mem: Option<usize>,
    /// Limit of host memory, in bytes. Default: the limits that the system reports.
    pub host_mem: Option<usize>,
    /// CPU threads for AdamW, loading, and all arithmetic of the CPU device. Default: all that the
    /// process may use.
    pub threads: Option<usize>,
    /// AdamW's constants.
    pub adam: AdamOptions,
    /// Clips the global gradient norm to this value; 0 turns clipping off.
    pub clip: f64,
    /// Records every task of every lane, for [`Trainer::trace`](super::Trainer::trace).
    pub tracing: bool,
    /// Sums the busy time of each lane in training steps and saves, for
    /// [`Stats::busy_ns`](super::Stats::busy_ns).
    pub measuring: bool,
}

impl Default for TrainerOptions {
    /// The CPU, `exact`, bf16 gradients, one micro-batch of 1 × 256 tokens, two slots and slabs,
    /// clip 1.
    fn default() -> Self {
        TrainerOptions {
            device: DeviceChoice::Cpu,
            pinning: Pinning::Registered,
            gemm_table: None,
            mode: Mode::Exact,
            grad_dtype: DType::Bf16,
            shape: Shape { b: 1, t: 256 },
            micros_max: 1,
            logits_chunk: None,
            weight_slots: 2,
            slabs: 2,
            sweeps: 1,
            grad_wait: GradWait::Host,
            layers: Vec::new(),
            adam_when: None,
            device_mem: None,
            host_mem: None,
            threads: None,
            adam: AdamOptions::default(),
            clip: 1.0,
            tracing: false,
            measuring: false,
        }
    }
}

impl TrainerOptions {
    /// The numeric half of the policy, on a device with this activation dtype.
    ///
    /// Errors name the option and its value.
    #[doc(hidden)]
    pub fn numeric(&self, layout: &Layout, activation_dtype: DType) -> Result<Numeric> {
        check_threads(self.threads())?;
        self.adam.check()?;
        check_f32(Name::Clip, self.clip, 0.0)?;
        let vocabulary = layout.unit(layout.embedding()).tensors[0].shape[0];
        let chunk = self.logits_chunk.unwrap_or(match activation_dtype {
            DType::F32 => ((8 << 20) / vocabulary).max(16),
            // Each chunk reads the LM head twice, and reads and writes its f32 gradient: 12 bytes
            // per element, for 6 FLOP per element and row. On an H200 the GEMMs dominate from about
            // 500 rows.
            DType::Bf16 => ((1 << 29) / vocabulary).clamp(16, 2048),
        });
        Ok(Numeric {
            shape: self.shape,
            logits_chunk: chunk.min(self.shape.n().max(1)),
            grad_dtype: self.grad_dtype,
        })
    }

    /// The policy of these options, on a device with this activation dtype.
    ///
    /// Errors name the option and its value.
    #[doc(hidden)]
    pub fn policy(&self, layout: &Layout, activation_dtype: DType) -> Result<Policy> {
        let numeric = self.numeric(layout, activation_dtype)?;
        let adam = self.adam_when.unwrap_or(AdamWhen::of(self.mode, self.grad_wait));
        if self.clip > 0.0 && adam == AdamWhen::UnderBackward {
            let (mode, adam) = (Name::Mode, Name::AdamWhen);
            let (early, instead) = match self.adam_when {
                Some(_) => (adam.is("under backward"), adam.is("after norm")),
                None => {
                    let on_device = Name::GradPlace.is("device");
                    (
                        mode.is("streamed"),
                        format!("{}, {}, or {on_device}", mode.is("exact"), mode.is("compact")),
                    )
                }
            };
            return Err(Error::argument(format!(
                "{} needs the norm of all gradients before the first update, but {early} updates before: use {}, or \
                 {instead}",
                Name::Clip.is(self.clip),
                Name::Clip.is(0)
            )));
        }
        Ok(Policy {
            mode: self.mode,
            numeric,
            placement: Placement {
                weight_slots: self.weight_slots,
                slabs: self.slabs,
                ring: RING,
                adam,
                grad_wait: self.grad_wait,
                sweeps: self.sweeps,
                layers: self.layers.clone(),
            },
        })
    }

    /// The question for the plan's search: the fastest placement for these options (their own
    /// placement is ignored) within `limits`, with the choices in `fixed` made.
    #[doc(hidden)]
    pub fn question<'a>(
        &self,
        config: &'a ModelConfig,
        layout: &'a Layout,
        activation_dtype: DType,
        machine: &'a Machine,
        limits: MemoryLimits,
        fixed: &'a Fixed,
    ) -> Result<Question<'a>> {
        config.validate()?;
        Ok(Question {
            config,
            layout,
            activation_dtype,
            machine,
            mode: self.mode,
            numeric: self.numeric(layout, activation_dtype)?,
            clips: self.clip > 0.0,
            micros: self.micros_max,
            limits,
            fixed,
        })
    }

    /// The placement of every layer of a model with `layers` layers.
    #[doc(hidden)]
    pub fn placements(&self, layers: usize) -> impl Iterator<Item = LayerPlacement> + Clone {
        (0..layers).map(|layer| self.layers.get(layer).copied().unwrap_or_default())
    }

    /// The placement of these options as one that the user has fixed.
    pub(super) fn fixed(&self, layers: usize) -> Fixed {
        let mut fixed = Fixed {
            weight_slots: Some(self.weight_slots),
            slabs: Some(self.slabs),
            sweeps: Some(self.sweeps),
            grad_wait: Some(self.grad_wait),
            adam: self.adam_when,
            ..Fixed::default()
        };
        fixed.place(self.placements(layers));
        fixed
    }

    /// Sets the placement, e.g. to one found by the search.
    #[doc(hidden)]
    pub fn place(&mut self, placement: &Placement) {
        self.weight_slots = placement.weight_slots;
        self.slabs = placement.slabs;
        self.sweeps = placement.sweeps;
        self.grad_wait = placement.grad_wait;
        self.layers = placement.layers.clone();
        self.adam_when = Some(placement.adam);
    }

    /// The number of CPU threads in the pool.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())).max(1)
    }
}
