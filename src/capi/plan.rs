//! `hz_plan_t`: the memory and the predicted speed of a trainer.

use std::ffi::CString;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::base::{Error, Name, Result, Status};
use crate::capi::argument::{LentText, OutPointer, Text};
use crate::capi::guard::guard;
use crate::capi::handle::{Handle, HandleKind, Object, Table};
use crate::capi::lane::LANES;
use crate::capi::model::{hz_model_config_t, model_config};
use crate::capi::options::{ADAM_TIMES, fixed, hz_trainer_options_t, options_json, trainer_options};
use crate::capi::sized::{In, Out, SizedStruct, sized_struct};
use crate::capi::status::{c_string, hz_status_t};
use crate::capi::trainer::hz_trainer_t;
use crate::capi::values::Values;
use crate::device::{DeviceInfo, Lane};
use crate::engine::{DeviceChoice, Trainer, TrainerOptions, device_info};
use crate::host::folder::replace_file;
use crate::model::{Layout, ModelConfig};
use crate::plan::{Description, Fixed, MemoryLimits, Plan, Region};
use crate::train::planning::{Planned, Why};

sized_struct! {
    hz_plan_summary_t, hz_plan_summary_init {
        adam_when: u32 = ADAM_TIMES.number(None) => Values::of(&ADAM_TIMES),
        parameters: u64 = 0,
        logits_chunk: u64 = 0 => Values::ANY.unit("rows"),
        device_bytes: u64 = 0,
        device_bytes_per_micro: u64 = 0,
        host_bytes: u64 = 0,
        host_wire_bytes: u64 = 0,
        host_state_bytes: u64 = 0,
        ram_bytes: u64 = 0,
        step_seconds: f64 = 0.0,
        tokens_per_second: f64 = 0.0 => Values::ANY.unit("tokens/s"),
        tflops: f64 = 0.0 => Values::ANY.unit("10^12 FLOP/s"),
    }
}

/// A plan. Immutable, so threads may share it.
pub struct hz_plan_t {
    plan: Plan,
    config: ModelConfig,
    options: TrainerOptions,
    /// The machine of `hz_plan_search`.
    machine: Option<Description>,
    summary: hz_plan_summary_t,
    busy_seconds: [f64; Lane::COUNT],
    json: CString,
}

impl Object for hz_plan_t {
    fn table() -> &'static Table<Self> {
        static TABLE: Table<hz_plan_t> = Table::new(HandleKind::Plan);
        &TABLE
    }
}

impl hz_plan_t {
    fn new(config: &ModelConfig, options: TrainerOptions) -> Result<Self> {
        let plan = Trainer::plan_for(config, &options)?;
        let summary = summary(&plan, Layout::new(config).parameters());
        let json = plan_json(&plan, &summary, &options, Map::new());
        let busy_seconds = [0.0; Lane::COUNT];
        Ok(hz_plan_t { plan, config: config.clone(), options, machine: None, summary, busy_seconds, json })
    }

    fn search(
        config: &ModelConfig,
        mut options: TrainerOptions,
        machine: &str,
        fixed: &Fixed,
    ) -> Result<Self> {
        let machine = Description::open(machine)?;
        options.device = choice(options.device, &machine)?;
        options.device.supports(config, options.shape)?;
        let limits = MemoryLimits::of(&machine, options.device_mem, options.host_mem);
        let planned = Planned::search("", config, &options, &machine, limits, fixed, Why::Gains)?;
        let plan = planned.plan().clone();
        options.place(&plan.policy.placement);
        let summary = hz_plan_summary_t {
            step_seconds: planned.found.step_ns as f64 / 1e9,
            tokens_per_second: planned.tokens_per_second,
            tflops: planned.tflops,
            ..summary(&plan, planned.parameters)
        };
        let Value::Object(found) = planned.json() else { unreachable!("a plan is an object") };
        let json = plan_json(&plan, &summary, &options, found);
        let (machine, busy_seconds) = (Some(machine), planned.predicted().busy_seconds);
        Ok(hz_plan_t { plan, config: config.clone(), options, machine, summary, busy_seconds, json })
    }

    /// The model and options of a trainer that follows the plan.
    ///
    /// Errors: `DeviceUnavailable` if the chosen device is missing or is not the machine's.
    pub(super) fn trainer(&self) -> Result<(&ModelConfig, &TrainerOptions)> {
        if let Some(machine) = &self.machine {
            check_device(machine, device_info(self.options.device))?;
        }
        Ok((&self.config, &self.options))
    }

    /// Writes the simulated step to a file. Checks that the plan has a machine before it creates
    /// the file.
    fn trace(&self, path: &Path) -> Result<()> {
        let Some(Description { rates, .. }) = &self.machine else {
            return Err(Error::new(
                Status::InvalidState,
                "this plan has no machine model, so there is nothing to simulate; use hz_plan_search",
            ));
        };
        let Self { plan, config, .. } = self;
        let layout = Layout::new(config);
        replace_file(path, |mut out| plan.write_trace(&layout, rates, plan.micros_max, &mut out))
    }
}

/// The device for a plan: for `auto` the machine's kind.
///
/// Errors: a device of another kind (`InvalidArgument`).
fn choice(asked: DeviceChoice, machine: &Description) -> Result<DeviceChoice> {
    let (found, has) = match asked {
        DeviceChoice::Auto if machine.shared => return Ok(DeviceChoice::Cpu),
        DeviceChoice::Auto => return Ok(DeviceChoice::Cuda(0)),
        DeviceChoice::Cpu if !machine.shared => ("cpu", "a CUDA device"),
        DeviceChoice::Cuda(_) if machine.shared => ("cuda", "the CPU device"),
        DeviceChoice::Cpu | DeviceChoice::Cuda(_) => return Ok(asked),
    };
    Err(Error::argument(format!(
        "{}, but the machine {} has {has}: use {}, or another machine",
        Name::Device.is(found),
        machine.name,
        Name::Device.is("auto")
    )))
}

/// Checks that a device, of the machine's kind, has the name of the machine's.
fn check_device(machine: &Description, found: Result<DeviceInfo>) -> Result<()> {
    let Description { name, about, .. } = machine;
    let refused = |why: String| {
        format!("the plan is for the machine {name} ({about}): {why}; search a plan for this machine")
    };
    match found {
        Ok(device) if device.hardware.as_ref().is_none_or(|hardware| machine.has(hardware)) => Ok(()),
        Ok(device) => {
            let wanted = machine.device.as_deref().unwrap_or_default();
            let why = format!("it needs a CUDA device named {wanted}, the options choose {}", device.name);
            Err(Error::new(Status::DeviceUnavailable, refused(why)))
        }
        // The CPU cannot follow a plan for a GPU.
        Err(error) => Err(error.map(|message| refused(message.replace(&Name::without_gpu(), "")))),
    }
}

fn summary(plan: &Plan, parameters: usize) -> hz_plan_summary_t {
    let (device, host) = (plan.device.bytes(), plan.host.bytes());
    hz_plan_summary_t {
        adam_when: ADAM_TIMES.number(Some(plan.policy.placement.adam)),
        parameters: parameters as u64,
        logits_chunk: plan.policy.numeric.logits_chunk as u64,
        device_bytes: device as u64,
        device_bytes_per_micro: plan.device.bytes_per_micro() as u64,
        host_bytes: host as u64,
        host_wire_bytes: plan.host.wire_bytes() as u64,
        host_state_bytes: plan.host.state_bytes() as u64,
        ram_bytes: (host + if plan.shares_memory() { device } else { 0 }) as u64,
        ..hz_plan_summary_t::defaults()
    }
}

/// The summary, the options of a trainer that has the plan, and the memory, added to what a search
/// `found`.
fn plan_json(
    plan: &Plan,
    summary: &hz_plan_summary_t,
    options: &TrainerOptions,
    mut found: Map<String, Value>,
) -> CString {
    let regions = |regions: &[Region]| -> Value {
        regions.iter().map(|region| json!({ "name": region.name, "bytes": region.bytes })).collect()
    };
    let mut options =
        TrainerOptions { logits_chunk: Some(plan.policy.numeric.logits_chunk), ..options.clone() };
    options.place(&plan.policy.placement);
    options.layers = options.placements(plan.geometry.layers).collect();
    // Models have no names in C.
    found.shift_remove("model");
    found.extend(summary.named());
    found.insert("options".to_owned(), options_json(&options).into());
    found.insert("device_regions".to_owned(), regions(plan.device.regions()));
    found.insert("host_regions".to_owned(), regions(&plan.host.regions()));
    c_string(&Value::Object(found).to_string())
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_plan_open(
    model: In<hz_model_config_t>,
    options: In<hz_trainer_options_t>,
    out_plan: OutPointer<Handle<hz_plan_t>>,
) -> hz_status_t {
    guard(|| {
        out_plan.check("out_plan")?;
        let config = model_config(&model.read("model")?)?;
        let options = trainer_options(&options.or_defaults("options")?, config.dims.l)?;
        out_plan.write(Handle::open(hz_plan_t::new(&config, options)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_plan_search(
    model: In<hz_model_config_t>,
    options: In<hz_trainer_options_t>,
    machine: Text,
    out_plan: OutPointer<Handle<hz_plan_t>>,
) -> hz_status_t {
    guard(|| {
        out_plan.check("out_plan")?;
        let config = model_config(&model.read("model")?)?;
        let raw = options.or_defaults("options")?;
        let options = trainer_options(&raw, config.dims.l)?;
        let fixed = fixed(&raw, &options, config.dims.l)?;
        let machine = machine.optional("machine")?.unwrap_or(MACHINE_DEFAULT);
        out_plan.write(Handle::open(hz_plan_t::search(&config, options, machine, &fixed)?));
        Ok(())
    })
}

/// The machine of `hz_plan_search` for NULL.
const MACHINE_DEFAULT: &str = "cpu";

#[unsafe(no_mangle)]
pub extern "C" fn hz_plan_admit(plan: Handle<hz_plan_t>) -> hz_status_t {
    guard(|| {
        let plan = plan.get("plan")?;
        let (config, options) = plan.trainer()?;
        hz_trainer_t::admit(config, options)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_plan_summary(
    plan: Handle<hz_plan_t>,
    out_summary: Out<hz_plan_summary_t>,
) -> hz_status_t {
    guard(|| {
        let plan = plan.get("plan")?;
        out_summary.check("out_summary")?.write(plan.summary);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_plan_busy_seconds(
    plan: Handle<hz_plan_t>,
    lane: u32,
    out_seconds: OutPointer<f64>,
) -> hz_status_t {
    guard(|| {
        let plan = plan.get("plan")?;
        out_seconds.check("out_seconds")?;
        out_seconds.write(plan.busy_seconds[LANES.value(lane, "lane")?.at()]);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_plan_json(plan: Handle<hz_plan_t>, out_json: OutPointer<LentText>) -> hz_status_t {
    guard(|| {
        let plan = plan.get("plan")?;
        out_json.check("out_json")?;
        out_json.write(LentText::new(&plan.json));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_plan_trace(plan: Handle<hz_plan_t>, file: Text) -> hz_status_t {
    guard(|| {
        let plan = plan.get("plan")?;
        plan.trace(file.path("path")?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_plan_close(plan: Handle<hz_plan_t>) {
    if !plan.is_null() {
        guard(|| plan.close("plan"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, hardware: Option<&str>) -> DeviceInfo {
        DeviceInfo {
            name: name.to_owned(),
            hardware: hardware.map(str::to_owned),
            ordinal: hardware.map(|_| 1),
            memory: 1 << 31,
            memory_free: 1 << 30,
        }
    }

    #[test]
    fn a_plan_runs_only_on_the_device_it_was_searched_for() {
        let [h200, cpu] = ["h200", "cpu"].map(|name| Description::shipped(name).unwrap());
        let here = device("cpu (2 threads, avx2)", None);
        let gpu = |name| device(&format!("cuda:1 ({name})"), Some(name));
        assert_eq!(check_device(&h200, Ok(gpu("NVIDIA H200"))), Ok(()));
        assert_eq!(check_device(&cpu, Ok(here)), Ok(()));
        let any = Description { device: None, ..h200.clone() };
        assert_eq!(check_device(&any, Ok(gpu("NVIDIA L40S"))), Ok(()));
        let refused = |found: Result<DeviceInfo>, words: &str| {
            let error = check_device(&h200, found).unwrap_err();
            assert_eq!(error.status(), Status::DeviceUnavailable);
            for word in [&h200.name[..], &h200.about[..], words] {
                assert!(error.message().contains(word), "no {word} in: {error}");
            }
            assert!(!error.message().contains("without a GPU"), "{error}");
        };
        refused(
            Ok(gpu("NVIDIA GH200 480GB")),
            "a CUDA device named H200, the options choose cuda:1 (NVIDIA GH200 480GB)",
        );
        let missing = format!("device cuda:1 is not there{}", Name::without_gpu());
        refused(Err(Error::new(Status::DeviceUnavailable, missing)), "cuda:1 is not there; search");
    }

    #[test]
    fn json_has_the_summary_and_the_options_and_its_keys_are_documented() {
        let header = include_str!("../../include/horizon.h");
        let (_, text) = header.split_once("Sets *out_json to the plan").unwrap();
        let (text, _) = text.split_once("*/").unwrap();
        let config = crate::model::preset("tiny").unwrap();
        let options = TrainerOptions { sweeps: 2, micros_max: 2, ..TrainerOptions::default() };
        let searched = hz_plan_t::search(&config, options.clone(), "cpu", &Fixed::default()).unwrap();
        for plan in [hz_plan_t::new(&config, options).unwrap(), searched] {
            let json: Map<String, Value> = serde_json::from_slice(plan.json.as_bytes()).unwrap();
            for (name, value) in plan.summary.named() {
                assert_eq!(json[&name], value, "{name}");
            }
            let chosen = &plan.plan.policy.placement;
            assert_eq!(json["options"]["sweeps"], chosen.sweeps);
            assert_eq!(json["options"]["adam_when"], plan.summary.adam_when);
            assert_eq!(json["options"]["layers"][0]["count"], config.dims.l);
            for key in json.keys().filter(|key| plan.summary.named().all(|(name, _)| name != **key)) {
                assert!(text.contains(&format!("\"{key}\"")), "{key} is not documented");
            }
        }
    }

    #[test]
    fn device_auto_means_the_kind_of_the_machine() {
        let [h200, cpu] = ["h200", "cpu"].map(|name| Description::shipped(name).unwrap());
        assert_eq!(choice(DeviceChoice::Auto, &h200), Ok(DeviceChoice::Cuda(0)));
        assert_eq!(choice(DeviceChoice::Auto, &cpu), Ok(DeviceChoice::Cpu));
        assert_eq!(choice(DeviceChoice::Cuda(2), &h200), Ok(DeviceChoice::Cuda(2)));
        assert_eq!(choice(DeviceChoice::Cpu, &h200).unwrap_err().status(), Status::InvalidArgument);
        assert_eq!(choice(DeviceChoice::Cuda(0), &cpu).unwrap_err().status(), Status::InvalidArgument);
    }
}
