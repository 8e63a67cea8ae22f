//! What a trainer is opened with.

use std::path::PathBuf;

use crate::base::{DType, Error, Result, Shape};
use crate::engine::DeviceChoice;
use crate::host::Pinning;
use crate::model::{Layout, ModelConfig};
pub use crate::optim::AdamOptions;
use crate::plan::{Fixed, Machine, MemoryLimits, Question, RING};
use crate::schedule::{AdamWhen, GradWait, LayerPlacement, Mode, Numeric, Placement, Policy};

/// Everything about a run that is not the model, the data or the learning rate.
#[derive(Clone, Debug)]
pub struct TrainerOptions {
    /// Where layers are computed. The C ABI and the command choose `auto` where nothing is said.
    pub device: DeviceChoice,
    /// How a CUDA device pins the host memory that crosses the link.
    pub pinning: Pinning,
    /// The file of the table that says by which algorithm a CUDA device multiplies, see
    /// [`Table`](crate::ops::cuda::table::Table). It must be of the device and library that are there. Without one
    /// the library's heuristic decides, by the product alone; the CPU device has no use for it.
    pub gemm_table: Option<PathBuf>,
    /// What the host keeps of a parameter.
    pub mode: Mode,
    /// What gradients are rounded to when they leave the device.
    pub grad_dtype: DType,
    /// B and T of a micro-batch.
    pub shape: Shape,
    /// The most micro-batches a step may have.
    pub micros_max: usize,
    /// Rows of logits that exist at a time; by default as many as 32 MiB of f32 hold, and where activations are bf16, on
    /// devices that are fast beside their memory, 2048 at most and as many as 1 GiB holds.
    pub logits_chunk: Option<usize>,
    /// OperationMemory for a layer's weights on the device, at least 2.
    pub weight_slots: usize,
    /// OperationMemory for a gradient on its way out, at least 2.
    pub slabs: usize,
    /// Sweeps a step is cut into: a sweep's micro-batches are on the device together.
    pub sweeps: usize,
    /// Where rounded gradients wait for AdamW: in the store, or on the device, where even
    /// [`Mode::Streamed`] can clip.
    pub grad_wait: GradWait,
    /// What is particular to layers, from the first on; those it does not reach have the default.
    pub layers: Vec<LayerPlacement>,
    /// When AdamW runs; by default after the norm, in [`Mode::Streamed`] under backward unless gradients wait on
    /// the device.
    pub adam_when: Option<AdamWhen>,
    /// Bytes of device memory the trainer may take.
    pub device_mem: Option<usize>,
    /// Bytes of host memory the trainer may take, instead of what the system reports.
    pub host_mem: Option<usize>,
    /// CPU threads that share a job; by default all the process may run on.
    pub threads: Option<usize>,
    /// AdamW's constants.
    pub adam: AdamOptions,
    /// Largest global gradient norm; 0 turns clipping off.
    pub clip: f64,
    /// Whether to record what each lane does, for [`Trainer::trace`](super::Trainer::trace).
    pub tracing: bool,
    /// Whether to add up what each lane does in training steps and saves, for
    /// [`Stats::busy_ns`](super::Stats::busy_ns).
    pub measuring: bool,
}

impl Default for TrainerOptions {
    /// The CPU, `exact`, bf16 gradients, one micro-batch of 1 × 256 tokens, two slots and slabs, clip 1.
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
    /// The numeric half of the policy these options ask for, on a device that stores activations so. Errors name the
    /// option and its value.
    #[doc(hidden)]
    pub fn numeric(&self, layout: &Layout, activation_dtype: DType) -> Result<Numeric> {
        self.adam.check()?;
        if !(self.clip.is_finite() && self.clip >= 0.0) {
            return Err(Error::argument(format!("clip is {}; it must be finite, ≥ 0 (0 = off)", self.clip)));
        }
        let vocabulary = layout.unit(layout.embedding()).tensors[0].shape[0];
        let chunk = self.logits_chunk.unwrap_or(match activation_dtype {
            DType::F32 => ((8 << 20) / vocabulary).max(16),
            // With a chunk the LM head is read twice, and its f32 gradient read and written: 12 bytes an element beside
            // 6 FLOP an element and row. From some 500 rows on the products of an H200 take longer than that.
            DType::Bf16 => ((1 << 29) / vocabulary).clamp(16, 2048),
        });
        Ok(Numeric {
            shape: self.shape,
            logits_chunk: chunk.min(self.shape.n().max(1)),
            grad_dtype: self.grad_dtype,
        })
    }

    /// The policy these options ask for, on a device that stores activations so. Errors name the option and its value.
    #[doc(hidden)]
    pub fn policy(&self, layout: &Layout, activation_dtype: DType) -> Result<Policy> {
        let numeric = self.numeric(layout, activation_dtype)?;
        let adam = self.adam_when.unwrap_or(AdamWhen::of(self.mode, self.grad_wait));
        if self.clip > 0.0 && adam == AdamWhen::UnderBackward {
            return Err(Error::argument(format!(
                "clip {} needs the norm of all gradients before the first update, which {} does not wait \
                 for: use clip 0, mode exact or compact, or gradients that wait on the device",
                self.clip,
                if self.mode == Mode::Streamed { "mode streamed" } else { "AdamW under backward" }
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

    /// What the plan's search is asked for these options, whose own placement does not matter. `room` is what
    /// must not be passed; `pins` is what of a placement is decided.
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

    /// Takes a placement over, such as the search finds.
    #[doc(hidden)]
    pub fn place(&mut self, placement: &Placement) {
        self.weight_slots = placement.weight_slots;
        self.slabs = placement.slabs;
        self.sweeps = placement.sweeps;
        self.grad_wait = placement.grad_wait;
        self.layers = placement.layers.clone();
        self.adam_when = Some(placement.adam);
    }

    /// The number of CPU threads that share a job.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())).max(1)
    }
}
