//! Searches the fastest plan for a machine and describes it as text and JSON, for `horizon plan`
//! and `hz_plan_search`.

use std::fmt;

use serde_json::{Value, json};

use crate::base::format::{Size, count, several, time};
use crate::base::{Result, Shape};
use crate::device::{DeviceInfo, Lane};
use crate::engine::{DeviceChoice, TrainerOptions, device_info};
use crate::model::{Layout, ModelConfig, Recompute};
use crate::plan::{
    ActivationDtype, Description, Explanation, Fixed, Found, Machine, MemoryLimits, Plan, Region,
};
use crate::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Operation, Placement};
use crate::train::metrics::UsefulWork;
use crate::train::times::StepTimes;

/// Name of the shipped machine description for the CPU device.
const CPU: &str = "cpu";

/// Describes this machine with a [resolved](DeviceChoice::resolve) device. Throughputs and
/// bandwidths come from the description `named`, or else from the shipped one most like this
/// machine. Memory limits are the given bytes, or else this machine's.
pub fn here(
    device: DeviceChoice,
    named: Option<&str>,
    device_mem: Option<usize>,
    host_mem: Option<usize>,
) -> Result<(Description, MemoryLimits)> {
    let shared = device == DeviceChoice::Cpu;
    let info = (!shared).then(|| device_info(device)).transpose()?;
    let mut machine = match (named, shared) {
        (Some(named), _) => Description::open(named)?,
        (None, true) => Description::open(CPU)?,
        (None, false) => most_like(info.as_ref())?,
    };
    machine.activation_dtype = if shared { ActivationDtype::F32 } else { ActivationDtype::Bf16 };
    machine.shared = shared;
    let free = info.map(|info| info.memory_free);
    Ok((machine, MemoryLimits::here(device_mem, free, host_mem, shared)))
}

/// Returns the shipped description for this device; H100 PCIe if there is none.
fn most_like(info: Option<&DeviceInfo>) -> Result<Description> {
    let hardware = info.and_then(|info| info.hardware.as_deref());
    hardware.and_then(Description::shipped_with).map_or_else(|| Description::open("h100-pcie"), Ok)
}

/// Detail of a plan's explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Busy times of the lanes, and what limits the step.
    Times,
    /// Also the gain from more memory, faster hardware, or another micro-batch; this takes further
    /// searches.
    Gains,
}

/// The fastest plan of a model on a machine, with an explanation of its step time.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan and its step time.
    pub found: Found,
    /// Explanation of the step time.
    pub explanation: Explanation,
    /// P: number of parameters.
    pub parameters: usize,
    /// Tokens of a step.
    pub tokens: usize,
    /// Simulated throughput.
    pub tokens_per_second: f64,
    /// Simulated useful TFLOP/s, see [`UsefulWork`].
    pub tflops: f64,
    /// The machine for which the plan was searched.
    pub rates: Machine,
    /// Bytes of a checkpoint's state, and the seconds that the disk lane takes to write them.
    pub saved: (usize, f64),
    model: String,
    machine: String,
    /// Bases of the machine's rates as text, see [`Description::basis_line`].
    basis: String,
    /// Every machine figure with its basis, see [`Description::figures_json`].
    figures: Value,
}

impl Planned {
    /// Searches the fastest plan and explains it in the detail of `why`. `model` is the model's
    /// name in the output.
    ///
    /// Errors: nothing fits; the error names the smallest change that does. Or an option is
    /// invalid.
    pub fn search(
        model: &str,
        config: &ModelConfig,
        options: &TrainerOptions,
        machine: &Description,
        limits: MemoryLimits,
        fixed: &Fixed,
        why: Why,
    ) -> Result<Planned> {
        let layout = Layout::new(config);
        let activation_dtype = machine.activation_dtype.into();
        let question = options.question(config, &layout, activation_dtype, &machine.rates, limits, fixed)?;
        let found = question.search()?;
        let explanation = match why {
            Why::Times => question.look(&found)?,
            Why::Gains => question.explain(&found)?,
        };
        let Shape { b, t } = options.shape;
        let tokens = b * t * options.micros_max;
        let seconds = found.step_ns as f64 / 1e9;
        let attention_pairs = (options.micros_max * b * t * (t + 1) / 2) as u64;
        let work = UsefulWork::new(config);
        let outside = work.pairs_outside(tokens, t, None);
        let cost = found.plan.cost(&layout, options.micros_max);
        let saves = found.plan.geometry.units().map(|unit| Operation::Save { unit });
        let saved = saves.fold((0, 0.0), |(bytes, seconds), save| {
            let (work, ns) = (cost.work(&save), cost.ns(&machine.rates, &save));
            (bytes + work.disk_bytes as usize, seconds + ns as f64 / 1e9)
        });
        Ok(Planned {
            parameters: layout.parameters(),
            tokens,
            tokens_per_second: tokens as f64 / seconds,
            tflops: work.flop(tokens as u64, attention_pairs, outside) / seconds / 1e12,
            rates: machine.rates.clone(),
            saved,
            found,
            explanation,
            model: model.to_owned(),
            machine: format!("{}: {}", machine.name, machine.about),
            basis: machine.basis_line(),
            figures: machine.figures_json(),
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.found.plan
    }

    /// The predicted times of a step.
    pub fn predicted(&self) -> StepTimes {
        let busy = |lane: Lane| self.explanation.prediction.lanes[lane.at()].busy_ns as f64 / 1e9;
        StepTimes { step_seconds: self.found.step_ns as f64 / 1e9, busy_seconds: Lane::ALL.map(busy) }
    }

    /// Returns the summary of the plan: a few lines of text.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        self.write_summary(&mut text).expect("writing to a string cannot fail");
        text
    }

    /// Name of the machine.
    pub fn machine_name(&self) -> &str {
        self.machine.split(':').next().unwrap_or_default()
    }

    /// Describes what limits the step.
    pub fn bound(&self) -> String {
        let Explanation { busiest, longest, .. } = &self.explanation;
        bound(*busiest, *longest, self.busy(*busiest))
    }

    /// Fraction of a step that a lane is busy.
    fn busy(&self, lane: Lane) -> f64 {
        self.explanation.prediction.lanes[lane.at()].busy_ns as f64 / self.found.step_ns as f64
    }

    /// Returns the plan as one JSON object. Keys with the suffixes `_seconds` and `_bytes` have
    /// these units; `tflops` is useful TFLOP/s; `lanes_busy` has fractions of the step;
    /// `placement.layers` has runs of equally placed layers.
    pub fn json(&self) -> Value {
        let plan = self.plan();
        let (placement, numeric) = (&plan.policy.placement, &plan.policy.numeric);
        let regions = |regions: &[Region]| -> Vec<Value> {
            regions.iter().map(|region| json!({ "name": region.name, "bytes": region.bytes })).collect()
        };
        let lanes: serde_json::Map<String, Value> =
            Lane::ALL.iter().map(|&lane| (lane.name().to_owned(), self.busy(lane).into())).collect();
        let gains: Vec<Value> = self
            .explanation
            .gains
            .iter()
            .map(|gain| json!({ "what": gain.what, "step_seconds": gain.step_ns as f64 / 1e9 }))
            .collect();
        let better = self.explanation.micro_batch.map(|(shape, micros, step_ns)| {
            json!({ "sequences": shape.b, "sequence_length": shape.t, "micros": micros,
                    "step_seconds": step_ns as f64 / 1e9 })
        });
        json!({
            "model": self.model, "parameters": self.parameters, "machine": self.machine,
            "mode": plan.policy.mode.name(), "grad_dtype": numeric.grad_dtype.name(),
            "sequences": numeric.shape.b, "sequence_length": numeric.shape.t, "micros": plan.micros_max,
            "logits_chunk": numeric.logits_chunk, "tokens": self.tokens,
            "step_seconds": self.found.step_ns as f64 / 1e9, "tokens_per_second": self.tokens_per_second,
            "tflops": self.tflops, "placements_simulated": self.found.simulated,
            "placement": {
                "weight_slots": placement.weight_slots, "slabs": placement.slabs, "ring": placement.ring,
                "sweeps": placement.sweeps, "grad_wait": wait_name(placement.grad_wait),
                "adam": adam_name(placement.adam), "layers": runs(placement).collect::<Vec<_>>(),
            },
            "device_bytes": plan.device.bytes(), "host_bytes": plan.host.bytes(),
            "host_wire_bytes": plan.host.wire_bytes(), "host_state_bytes": plan.host.state_bytes(),
            "ram_bytes": plan.host.bytes() + if plan.shares_memory() { plan.device.bytes() } else { 0 },
            "device_regions": regions(plan.device.regions()), "host_regions": regions(&plan.host.regions()),
            "save_bytes": self.saved.0, "save_seconds": self.saved.1,
            "lanes_busy": lanes, "busiest_lane": self.explanation.busiest.name(),
            "critical_lane": self.explanation.longest.name(), "with": gains, "better_micro_batch": better,
            "machine_rates": self.figures,
        })
    }
}

fn wait_name(wait: GradWait) -> &'static str {
    match wait {
        GradWait::Host => "host",
        GradWait::Device => "device",
    }
}

fn adam_name(when: AdamWhen) -> &'static str {
    match when {
        AdamWhen::AfterNorm => "after the norm",
        AdamWhen::UnderBackward => "under backward",
    }
}

/// Returns runs of consecutive layers with equal placement, as JSON.
fn runs(placement: &Placement) -> impl Iterator<Item = Value> {
    let mut first = 0;
    placement.layers.chunk_by(|one, other| one == other).map(move |run| {
        let LayerPlacement { recompute, boundary, resident, accumulator } = run[0];
        let last = first + run.len() - 1;
        let value = json!({
            "first": first, "last": last, "recompute": Recompute::name(recompute),
            "boundary": if boundary == Boundary::Kept { "device" } else { "spilled" },
            "resident": resident, "accumulator": if accumulator == Accumulator::OnDevice { "device" } else { "spilled" },
        });
        first = last + 1;
        value
    })
}

impl Planned {
    fn write_summary(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let plan = self.plan();
        let (placement, numeric) = (&plan.policy.placement, &plan.policy.numeric);
        let Shape { b, t } = numeric.shape;
        let layers = placement.layers.len();
        writeln!(
            f,
            "model      {}: {} parameters, {}",
            self.model,
            count(self.parameters as f64),
            several(layers, "layer")
        )?;
        writeln!(f, "machine    {}", self.machine)?;
        writeln!(f, "rates      {}", self.basis)?;
        writeln!(
            f,
            "step       {} × {} × {t} = {} tokens; mode {}, {} gradients",
            several(plan.micros_max, "micro-batch"),
            several(b, "sequence"),
            self.tokens,
            plan.policy.mode.name(),
            numeric.grad_dtype
        )?;
        writeln!(
            f,
            "simulated  {} per step, {} tokens/s, {:.3} TFLOP/s useful",
            time(self.found.step_ns),
            count(self.tokens_per_second),
            self.tflops
        )?;
        write_placement(f, placement)?;
        let lanes: Vec<String> =
            Lane::ALL.iter().map(|&lane| format!("{lane} {:.0} %", 100.0 * self.busy(lane))).collect();
        writeln!(f, "busy       {}", lanes.join(", "))?;
        let (bytes, seconds) = self.saved;
        writeln!(f, "checkpoint {}, {seconds:.1} s to write while training continues", Size(bytes))?;
        writeln!(f, "bound by   {}", self.bound())
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_summary(f)?;
        let Explanation { gains, micro_batch, .. } = &self.explanation;
        for gain in gains {
            let percent = 100.0 * (1.0 - gain.step_ns as f64 / self.found.step_ns as f64);
            let gained =
                if percent < 0.05 { "no gain".to_owned() } else { format!("{percent:.1} % less time") };
            writeln!(f, "  with {:<30} {gained}", gain.what)?;
        }
        if let Some((shape, micros, step_ns)) = micro_batch {
            writeln!(
                f,
                "better     {} of {} × {}: {} per step",
                several(*micros, "micro-batch"),
                shape.b,
                shape.t,
                time(*step_ns)
            )?;
        }
        self.plan().fmt(f)
    }
}

/// Describes what limits a step. `longest` is the lane with the largest share of the critical path.
fn bound(busiest: Lane, longest: Lane, share: f64) -> String {
    const SATURATED: f64 = 0.9;
    let name = |lane: Lane| match lane {
        Lane::Compute => "compute: arithmetic on the device",
        Lane::H2d => "h2d: uploads to the device",
        Lane::D2h => "d2h: downloads from the device",
        Lane::Host => "host: AdamW, by RAM bandwidth",
        Lane::Disk => "disk: checkpoints",
    };
    if share >= SATURATED || busiest == longest {
        name(busiest).to_owned()
    } else {
        format!("waits between lanes, mostly for {}", name(longest))
    }
}

fn write_placement(f: &mut dyn fmt::Write, placement: &Placement) -> fmt::Result {
    let of =
        |has: &dyn Fn(&LayerPlacement) -> bool| placement.layers.iter().filter(|layer| has(layer)).count();
    let recompute = |which: Recompute| of(&|layer| layer.recompute == which);
    let list = |counts: &[(usize, &str)]| {
        let nonzero: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
        nonzero.join(", ")
    };
    writeln!(
        f,
        "placement  {}, {} weight slots, {} gradient slabs; AdamW {}; gradients wait on the {}",
        several(placement.sweeps, "sweep"),
        placement.weight_slots,
        placement.slabs,
        adam_name(placement.adam),
        wait_name(placement.grad_wait)
    )?;
    let recomputed = Recompute::ALL.map(|which| (recompute(which), which.name()));
    let spilled = of(&|layer| layer.boundary == Boundary::Spilled);
    write!(
        f,
        "layers     recompute {}; inputs {}; {} resident",
        list(&recomputed),
        list(&[(placement.layers.len() - spilled, "on the device"), (spilled, "spilled")]),
        placement.residents()
    )?;
    if placement.sweeps > 1 {
        let on_device = of(&|layer| layer.accumulator == Accumulator::OnDevice);
        write!(f, "; {} on the device", several(on_device, "gradient accumulator"))?;
    }
    writeln!(f)
}
