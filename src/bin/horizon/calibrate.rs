//! `horizon calibrate`.

use std::io::{IsTerminal, stderr};
use std::path::Path;

use horizon::base::format::shown;
use horizon::base::{Error, Result, Shape};
use horizon::engine::calibrate::{self, measured_device};
use horizon::engine::{DeviceChoice, TrainerOptions, autotune};
use horizon::host::folder::{check_output, check_own, is_stream, write_output};
use horizon::model::ModelConfig;
use horizon::ops::cuda::table::Table;
use serde_json::Value;

use crate::options::CalibrateOptions;
use crate::paths::Paths;
use crate::plan;
use crate::print::print;
use crate::progress::Measuring;

/// Longest file that can be a machine file or a GEMM table.
const FILE_BYTES_MAX: u64 = 1 << 26;

/// Measures a device and writes its machine file, its GEMM table for a model, or both.
pub fn calibrate(options: &CalibrateOptions) -> Result<()> {
    if options.autotune.is_some() && !options.autotune_only && options.out.is_none() {
        return Err(Error::argument(
            "--autotune writes its table next to the machine file: give --out FILE.json, or --autotune-only",
        ));
    }
    let table_beside = options.autotune.as_ref().filter(|_| !options.autotune_only);
    check_paths(options)?;
    if let Some(out) = &options.out {
        check_file(out)?;
        table_beside.map_or(Ok(()), |_| check_file(&Table::beside(out)))?;
    }
    let asked = options.compute.device;
    let device = measured_device(asked)?;
    let tuning =
        options.autotune.as_deref().map(|model| Tuning::check(options, device, model)).transpose()?;
    message!("device {device}{}", if asked == DeviceChoice::Auto { " (auto)" } else { "" });
    let table = tuning.map(|tuning| tuning.run()).transpose()?;
    let out = options.out.as_deref();
    match (table, out) {
        (Some(table), _) if options.autotune_only => write(out, &table),
        (Some(table), Some(described)) => {
            write(out, &describe(options, device)?)?;
            write(Some(&Table::beside(described)), &table)
        }
        _ => write(out, &describe(options, device)?),
    }
}

/// Refuses outputs that conflict with the model or with each other.
fn check_paths(options: &CalibrateOptions) -> Result<()> {
    let table = options.out.as_deref().filter(|_| options.autotune.is_some() && !options.autotune_only);
    let paths = Paths::default()
        .writes_file("--out", options.out.as_ref())?
        .writes_file("the GEMM table next to --out", table.map(Table::beside))?;
    let config = options.autotune.iter().map(|model| Path::new(model).join("config.json"));
    config.into_iter().try_fold(paths, |paths, config| paths.reads("--autotune", config))?.check()
}

/// Checks that a file can be written, and that it replaces at most a machine file or a GEMM table.
fn check_file(path: &Path) -> Result<()> {
    let is_own = |head: &[u8]| {
        let json: Value = serde_json::from_slice(head).unwrap_or_default();
        json.pointer("/rates/matrix_flop_per_s").or(json.get("choices")).is_some()
    };
    check_own(path, "a machine file or GEMM table", FILE_BYTES_MAX, is_own)?;
    check_output(path)
}

/// Writes to a file and reports it; without a file, writes to standard output.
fn write(path: Option<&Path>, text: &str) -> Result<()> {
    let Some(path) = path else { return print(text.as_bytes()) };
    write_output(path, |out| out.write_all(text.as_bytes()).map_err(|error| Error::writing(path, &error)))?;
    message!("wrote {}", shown(path));
    Ok(())
}

/// An autotune run that can start.
struct Tuning<'a> {
    model: &'a str,
    config: ModelConfig,
    trainer: TrainerOptions,
}

impl<'a> Tuning<'a> {
    /// Errors: the device is not CUDA's; the model is unknown or cannot be computed on CUDA.
    fn check(options: &CalibrateOptions, device: DeviceChoice, model: &'a str) -> Result<Tuning<'a>> {
        if !matches!(device, DeviceChoice::Cuda(_)) {
            return Err(Error::argument(format!(
                "--autotune needs a CUDA device, and --device {} is `{device}`: choose --device cuda, \
                 or leave --autotune out",
                options.compute.device
            )));
        }
        let config = plan::model(model)?;
        let shape = Shape { b: options.micro_batch, t: options.seq_len };
        config.check_cuda(shape)?;
        Ok(Tuning { model, config, trainer: TrainerOptions { device, shape, ..TrainerOptions::default() } })
    }

    /// Returns the GEMM table as JSON.
    fn run(&self) -> Result<String> {
        message!("autotuning the GEMMs and attention of {}, which takes up to a minute", self.model);
        let mut note = |line: &str| message!("{line}");
        Ok(autotune(&self.config, &self.trainer, &mut note)?.to_json() + "\n")
    }
}

/// Measures the device, RAM and disk, and returns the machine file.
fn describe(options: &CalibrateOptions, device: DeviceChoice) -> Result<String> {
    let file = options.out.as_deref().filter(|out| !is_stream(out));
    let folder = file.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    let asked = calibrate::CalibrateOptions {
        device,
        threads: options.compute.threads,
        folder: folder.unwrap_or(Path::new(".")).to_owned(),
        tries: options.tries,
    };
    let line = Measuring::new(stderr().is_terminal());
    let calibrated = calibrate::calibrate(&asked, &|progress| line.at(&progress));
    line.finish();
    Ok(calibrated?.describe(&options.name).to_json())
}
