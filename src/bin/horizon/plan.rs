//! `horizon plan`.

use std::path::Path;

use horizon::base::format::escaped;
use horizon::base::{Error, Result, Shape, Status};
use horizon::engine::{DeviceChoice, TrainerOptions};
use horizon::hf::FolderConfig;
use horizon::host::folder::write_output;
use horizon::model::{Layout, ModelConfig, preset_names, shape, shape_names};
use horizon::plan::{Description, MemoryLimits};
use horizon::train::TraceFile;
use horizon::train::planning::{Planned, Why, here};

use crate::memory::with_uses;
use crate::options::PlanOptions;
use crate::paths::Paths;
use crate::print::{print, warn_of_memory};

/// Prints the fastest placement that fits, with its step time and memory.
pub fn plan(options: &PlanOptions) -> Result<()> {
    let mut paths = Paths::default().writes_file("--trace", options.trace.as_ref())?;
    paths = paths.reads("--model", Path::new(&options.model).join("config.json"))?;
    if let Some(machine) = &options.placement.machine {
        paths = paths.reads_machine(machine)?;
    }
    paths.check()?;
    options.trace.as_deref().map(TraceFile::plan).transpose()?;
    let config = model(&options.model)?;
    let trainer = TrainerOptions {
        mode: options.state.mode,
        grad_dtype: options.state.grad_dtype.into(),
        shape: Shape { b: options.micro_batch, t: options.seq_len.unwrap_or(4096.min(config.positions_max)) },
        micros_max: options.grad_accum,
        clip: options.clip,
        ..TrainerOptions::default()
    };
    let (machine, limits) = match options.placement.machine.as_deref() {
        Some(name) => {
            let machine = Description::open(name)?;
            let limits = MemoryLimits::of(&machine, options.device_mem, options.host_mem);
            (machine, limits)
        }
        None => {
            let device = DeviceChoice::Auto.resolve(&config, trainer.shape)?;
            let (machine, limits) = here(device, None, options.device_mem, options.host_mem)?;
            warn_of_memory(&limits);
            (machine, limits)
        }
    };
    let fixed = options.placement.fixed(config.dims.l, options.state.mode, options.clip)?;
    let planned = Planned::search(&options.model, &config, &trainer, &machine, limits, &fixed, Why::Gains)?;
    if let Some(path) = &options.trace {
        write_trace(path, &planned, &config)?;
    }
    if options.json {
        return print(format!("{:#}\n", planned.json()).as_bytes());
    }
    print(escaped(&with_uses(&planned.to_string()), "\n").as_bytes())
}

/// Writes the simulated step as a Chrome trace, lane by lane.
fn write_trace(path: &Path, planned: &Planned, config: &ModelConfig) -> Result<()> {
    let (plan, layout) = (planned.plan(), Layout::new(config));
    write_output(path, |mut out| plan.write_trace(&layout, &planned.rates, plan.micros_max, &mut out))
}

/// The model of a name or a Hugging Face folder.
pub fn model(name_or_folder: &str) -> Result<ModelConfig> {
    if let Some(config) = shape(name_or_folder) {
        return Ok(config);
    }
    let folder = Path::new(name_or_folder);
    if folder.is_dir() {
        return Ok(FolderConfig::open(folder)?.model);
    }
    let names: Vec<_> = preset_names().iter().copied().chain(shape_names()).collect();
    Err(Error::new(
        Status::NotFound,
        format!("model {name_or_folder} is neither a folder nor one of {}", names.join(", ")),
    ))
}
