//! The first lines of `horizon train`: model, data, steps, memory and predicted speed.

use std::path::PathBuf;

use horizon::base::format::{Size, count, escaped, several, shown, time};
use horizon::data::DataReport;
use horizon::engine::Trainer;
use horizon::plan::Region;
use horizon::train::planning::Planned;
use horizon::train::{LrSchedule, LrShape};

/// Facts about a run that are known before it is opened.
pub struct Opening {
    pub model: String,
    pub weights: String,
    pub data: String,
    pub windows: u64,
    /// Windows held out for validation, with `--val-fraction`.
    pub held_out: Option<u64>,
    pub report: DataReport,
    /// CPU threads, if they are given.
    pub threads: Option<usize>,
    pub gemm_table: Option<PathBuf>,
    /// The commands that autotune, for a CUDA device without a table.
    pub autotune: String,
    /// Log, export and folder of checkpoints; empty if there are none.
    pub outputs: String,
}

impl Opening {
    /// Describes an opened run, one fact per line.
    pub fn describe(&self, schedule: &LrSchedule, trainer: &Trainer, planned: &Planned) -> String {
        let plan = trainer.plan();
        let (mode, numeric) = (plan.policy.mode, &plan.policy.numeric);
        let shape = numeric.shape;
        let mut text = format!(
            "model      {}: {} parameters, {}, {}\n",
            escaped(&self.model, ""),
            count(planned.parameters as f64),
            several(plan.policy.placement.layers.len(), "layer"),
            self.weights
        );
        let held_out = self.held_out.map_or(String::new(), |windows| format!(", {windows} held out"));
        text += &format!(
            "data       {}: {} tokens, {} of {}{held_out}\n",
            self.data,
            count(self.report.tokens as f64),
            several(self.windows as usize, "window"),
            shape.t
        );
        if let Some(padding) = self.report.padding() {
            text += &format!("           packing: {:.1} % of the tokens are padding\n", 100.0 * padding);
        }
        text += &format!(
            "training   {} of {} tokens (gradient accumulation {} × {} × {}), {}\n",
            several(schedule.steps as usize, "step"),
            planned.tokens,
            plan.micros_max,
            several(shape.b, "sequence"),
            shape.t,
            learning_rate(schedule)
        );
        let shared = if plan.shares_memory() { ", in host RAM" } else { "" };
        let device = trainer.device().name;
        let threads = self.threads.filter(|_| plan.shares_memory());
        let threads = threads.map_or(String::new(), |used| format!(", {} used", several(used, "thread")));
        let (device_regions, host_regions) = (plan.device.regions().to_vec(), plan.host.regions());
        text += &format!(
            "device     {device}{threads}: {}{shared}: {}\n",
            Size(plan.device.bytes()),
            largest(device_regions)
        );
        text += &format!(
            "host RAM   {}, mode {}: {}\n",
            Size(plan.host.bytes()),
            mode.name(),
            largest(host_regions)
        );
        text += &format!(
            "simulated  {} per step, {} tokens/s, {:.3} TFLOP/s useful, on machine {}; bound by {}; \
             --verbose prints the plan\n",
            time(planned.found.step_ns),
            count(planned.tokens_per_second),
            planned.tflops,
            planned.machine_name(),
            planned.bound()
        );
        match &self.gemm_table {
            Some(file) if !plan.shares_memory() => text += &format!("GEMM table {}\n", shown(file)),
            None if !plan.shares_memory() => text += &format!("GEMM table none: {}\n", self.autotune),
            _ => {}
        }
        if !self.outputs.is_empty() {
            text += &format!("outputs    {}\n", self.outputs);
        }
        text
    }
}

fn learning_rate(schedule: &LrSchedule) -> String {
    let warmup = several(schedule.warmup as usize, "warmup step");
    match schedule.shape {
        LrShape::Constant => format!("learning rate {:.1e} after {warmup}", schedule.lr),
        shape => {
            format!(
                "learning rate {:.1e} after {warmup}, {} decay to {:.1e}",
                schedule.lr,
                shape.name(),
                schedule.min_lr
            )
        }
    }
}

/// The three largest regions.
fn largest(mut regions: Vec<Region>) -> String {
    regions.sort_by_key(|region| std::cmp::Reverse(region.bytes));
    let shown: Vec<String> = regions
        .iter()
        .filter(|region| region.bytes > 0)
        .take(3)
        .map(|region| format!("{} {}", region.name, Size(region.bytes)))
        .collect();
    shown.join(", ")
}
