//! `horizon calibrate`.

use std::collections::BTreeMap;
use std::fs;

use horizon::base::{Error, Result};
use horizon::engine::calibrate;
use horizon::host::{Limits, processor_name};
use horizon::plan::{Description, Storage};
use serde_json::Value;

use crate::measure::measure;
use crate::options::CalibrateOptions;
use crate::print;

/// Measures this machine's CPU device and describes it.
pub fn calibrate(options: &CalibrateOptions) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let threads = options.threads.unwrap_or(cores);
    let rates = calibrate::calibrate(threads)?;
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
    match &options.out {
        Some(path) => fs::write(path, described.to_json()).map_err(|error| Error::writing(path, &error)),
        None => print(described.to_json().as_bytes()),
    }
}
