//! `horizon calibrate`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use horizon::base::{Error, Result, Shape};
use horizon::engine::{TrainerOptions, calibrate, calibrate_products};
use horizon::host::{Limits, processor_name};
use horizon::plan::{Description, Storage};
use serde_json::Value;

use crate::measure::measure;
use crate::options::CalibrateOptions;
use crate::{plan, print};

/// Measures what the options name: the products of a model on CUDA, or this machine's CPU device.
pub fn calibrate(options: &CalibrateOptions) -> Result<()> {
    let text = match &options.products {
        Some(model) => products(options, model)?,
        None => describe(options)?,
    };
    match &options.out {
        Some(path) => fs::write(path, text).map_err(|error| Error::writing(path, &error)),
        None => print(text.as_bytes()),
    }
}

/// The table of algorithms by which a CUDA device multiplies for a model.
fn products(options: &CalibrateOptions, model: &str) -> Result<String> {
    let config = plan::model(model)?;
    let trainer = TrainerOptions {
        device: options.device,
        shape: Shape { b: options.micro_batch, t: options.seq_len },
        ..TrainerOptions::default()
    };
    Ok(calibrate_products(&config, &trainer, &mut |message| eprintln!("warning: {message}"))?.to_json()
        + "\n")
}

/// This machine's CPU device, measured and described.
fn describe(options: &CalibrateOptions) -> Result<String> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let threads = options.threads.unwrap_or(cores);
    let folder =
        options.out.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    let rates = calibrate::calibrate(threads, folder.unwrap_or(Path::new(".")), options.tries)?;
    let limits = Limits::read(None);
    let memory = measure(threads, &limits)?;
    let processor = processor_name().unwrap_or_else(|| "a processor without a name".to_owned());
    let source = format!("horizon calibrate on {cores} cores of {processor}, {threads} threads a job");
    let figures = serde_json::to_value(&rates).map_err(|error| Error::internal(error.to_string()))?;
    let mut sources: BTreeMap<String, String> = match figures {
        Value::Object(figures) => figures.keys().map(|figure| (figure.clone(), source.clone())).collect(),
        _ => BTreeMap::new(),
    };
    sources.insert("host_bytes".to_owned(), format!("what was free when it was measured ({})", limits.limit));
    let adam = format!(
        "{source}; apart from the engine AdamW moves {:.1} GB/s, where reading alone gives {:.1} and writing alone {:.1}",
        memory.adam * 26.0 / 1e9,
        memory.read / 1e9,
        memory.write / 1e9
    );
    sources.insert("host_bytes_per_s".to_owned(), adam);
    let described = Description {
        name: options.name.clone(),
        about: format!("the CPU device on {cores} cores of {processor}, {threads} threads a job"),
        storage: Storage::F32,
        device_bytes: None,
        host_bytes: limits.bytes,
        shared: true,
        rates,
        sources,
    };
    Ok(described.to_json())
}
