//! `horizon calibrate`.

use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::Path;

use horizon::base::{Error, Result, Shape};
use horizon::engine::calibrate::{self, measured_device};
use horizon::engine::{DeviceChoice, TrainerOptions, autotune};
use horizon::host::folder::{check_replaceable, replace_file};
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
    let table_beside = options.products.as_ref().filter(|_| !options.only_products);
    if let Some(out) = &options.out {
        check_writable(out)?;
        table_beside.map_or(Ok(()), |_| check_writable(&Table::beside(out)))?;
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

/// What is no file, such as a device or a pipe, cannot be replaced by one.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|facts| !facts.is_file() && !facts.is_dir())
}

/// Whether the end of a long measurement can be written there.
fn check_writable(path: &Path) -> Result<()> {
    if is_special(path) { Ok(()) } else { check_replaceable(path) }
}

/// Writes to a file, and says so; without one, to standard output.
fn write(path: Option<&Path>, text: &str) -> Result<()> {
    let Some(path) = path else { return print(text.as_bytes()) };
    let cannot = |error| Error::writing(path, &error);
    if is_special(path) {
        fs::write(path, text).map_err(cannot)?;
    } else {
        replace_file(path, |out| out.write_all(text.as_bytes()).map_err(cannot))?;
    }
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
    eprintln!("autotuning the GEMMs and attention of {model}, which takes up to a minute");
    let mut note = |line: &str| eprintln!("{line}");
    Ok(autotune(&plan::model(model)?, &trainer, &mut note)?.to_json() + "\n")
}

/// The device and what is around it, measured and described.
fn describe(options: &CalibrateOptions, device: DeviceChoice) -> Result<String> {
    let file = options.out.as_deref().filter(|out| !is_special(out));
    let folder = file.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
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
