//! `horizon calibrate`.

use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::Path;

use horizon::base::{Error, Result, Shape};
use horizon::engine::calibrate::{self, measured_device};
use horizon::engine::{DeviceChoice, TrainerOptions, calibrate_products};
use horizon::ops::cuda::table::Table;

use crate::options::CalibrateOptions;
use crate::progress::Measuring;
use crate::{plan, print};

/// Measures the device that the options choose: its description, the table of products for a model, or both.
pub fn calibrate(options: &CalibrateOptions) -> Result<()> {
    if options.products.is_some() && !options.only_products && options.out.is_none() {
        return Err(Error::argument(
            "--products writes its table beside the description: --out FILE says where; --only-products writes the table alone",
        ));
    }
    let device = measured_device(options.device)?;
    eprintln!("device {device}{}", if options.device == DeviceChoice::Auto { " (auto)" } else { "" });
    let table = options.products.as_deref().map(|model| products(options, device, model)).transpose()?;
    let out = options.out.as_deref();
    match (table, out) {
        (Some(table), _) if options.only_products => write(out, &table),
        (Some(table), Some(described)) => {
            write(out, &describe(options, device)?)?;
            write(Some(&Table::beside(described)), &table)
        }
        _ => write(out, &describe(options, device)?),
    }
}

/// Writes to a file, and says so; without one, to standard output.
fn write(path: Option<&Path>, text: &str) -> Result<()> {
    let Some(path) = path else { return print(text.as_bytes()) };
    fs::write(path, text).map_err(|error| Error::writing(path, &error))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// The table of algorithms by which a CUDA device multiplies for a model.
fn products(options: &CalibrateOptions, device: DeviceChoice, model: &str) -> Result<String> {
    let trainer = TrainerOptions {
        device,
        shape: Shape { b: options.micro_batch, t: options.seq_len },
        ..TrainerOptions::default()
    };
    let mut warn = |message: &str| eprintln!("warning: {message}");
    Ok(calibrate_products(&plan::model(model)?, &trainer, &mut warn)?.to_json() + "\n")
}

/// The device and what is around it, measured and described.
fn describe(options: &CalibrateOptions, device: DeviceChoice) -> Result<String> {
    let folder =
        options.out.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    let asked = calibrate::CalibrateOptions {
        device,
        threads: options.threads,
        folder: folder.unwrap_or(Path::new(".")).to_owned(),
        tries: options.tries,
    };
    let line = Measuring::new(stderr().is_terminal());
    let calibrated = calibrate::calibrate(&asked, &|progress| line.at(&progress));
    line.finish();
    Ok(calibrated?.describe(&options.name).to_json())
}
