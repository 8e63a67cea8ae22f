//! Calibration: measures a device of this machine for the plan's time model.
//!
//! Small models of several shapes train for a few steps with all lanes recorded. Every task that
//! ran alone is a sample: an amount of work and its time. The rates are fitted to the samples.
//! Copies (one way and both ways), contention of threads, handoffs between lanes, RAM and the disk
//! are measured separately. A measurement during which other processes used the cores is repeated.
//!
//! The code is the same for all devices: a device reports the size of its arena, the memory kind of
//! host buffers, and which of its lanes use CPU cores. Only the models differ between CPU and CUDA
//! (`runs`).

mod fit;
mod lanes;
mod memory;
mod runs;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

pub use fit::fit;
use lanes::Link;
pub use memory::{Ram, measure_ram};
pub use runs::{Run, runs};

use crate::base::format::Size;
use crate::base::{DType, Error, Result, Status};
use crate::device::{DeviceInfo, Lane};
use crate::engine::{Backend, DeviceChoice, TrainerOptions};
use crate::host::folder::unnamed_file;
use crate::host::{Limits, MemoryKind, Others, Pool, Topology, check_threads, processor_name};
use crate::ops::cpu::CpuKernels;
use crate::plan::{ActivationDtype, Basis, Description, Machine, Work};

/// Work of a task that ran without contention, and its time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The lane.
    pub lane: Lane,
    /// The work.
    pub work: Work,
    /// Seconds.
    pub seconds: f64,
}

/// Options of a calibration.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// The device.
    pub device: DeviceChoice,
    /// CPU threads of the pool. Default: all that the process may use.
    pub threads: Option<usize>,
    /// The folder of the file that measures the disk. The file is unlinked before it is written.
    pub folder: PathBuf,
    /// The most attempts at a measurement while other processes use the cores.
    pub tries: usize,
}

/// Progress of a calibration.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The name of the next measurement; empty at the end.
    pub next: &'a str,
    /// The expected seconds of the finished measurements.
    pub done: f64,
    /// The expected seconds of all measurements, without repetitions.
    pub of: f64,
}

/// A calibrated machine.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The measured rates.
    pub machine: Machine,
    /// The device.
    pub device: DeviceInfo,
    /// The activation dtype of the device.
    pub activation_dtype: DType,
    /// Device memory that an arena may take; `None` if device memory is host memory.
    pub device_bytes: Option<usize>,
    /// Host memory.
    pub limits: Limits,
    /// RAM bandwidth of all cores.
    pub ram: Ram,
    /// CPU threads of the pool.
    pub threads: usize,
}

/// Opens the measured device. Called once per model, since each takes an arena of its own.
pub type OpenDevice<'a> = dyn Fn(&TrainerOptions) -> Result<Backend> + 'a;

/// [Resolves](DeviceChoice::resolve) the device to calibrate.
///
/// Errors: as [`DeviceChoice::resolve`].
pub fn measured_device(choice: DeviceChoice) -> Result<DeviceChoice> {
    let first = &runs(DeviceChoice::Cuda(0))[0];
    choice.resolve(&first.config(), first.shape)
}

/// Measures a device, RAM and the disk of this machine. A CPU takes about ten seconds, CUDA a
/// minute and up to 12 GiB of RAM. Both take at least 0.5 GiB of RAM and 0.25 GiB of disk.
///
/// Errors: the device does not exist; too little memory is free; `folder` is not writable; a rate
/// could not be measured.
pub fn calibrate(options: &CalibrateOptions, progress: &dyn Fn(Progress)) -> Result<Calibrated> {
    let device = measured_device(options.device)?;
    let open = |trainer: &TrainerOptions| Backend::open(&TrainerOptions { device, ..trainer.clone() });
    calibrate_by(&open, &runs(device), options, progress)
}

/// Like [`calibrate`], with the caller's models and device.
///
/// Errors: those of [`calibrate`]; the models do not cover all kinds of work of the plan.
pub fn calibrate_by(
    open: &OpenDevice,
    runs: &[Run],
    options: &CalibrateOptions,
    progress: &dyn Fn(Progress),
) -> Result<Calibrated> {
    let (cores, tries) = (cores(), options.tries);
    let threads = options.threads.unwrap_or(cores);
    check_threads(threads)?;
    let reopen = || open(&TrainerOptions::default());
    let Backend { device, activation_dtype, .. } = reopen()?;
    let sharing = Sharing { computes_on_cores: device.runs_on_cores(Lane::Compute) };
    let is_discrete = matches!(device.wire_memory(0), MemoryKind::Pinned { .. });
    let memory_free = || device.capacity().map(|_| device.info().memory_free);
    let device_bytes = is_discrete.then(memory_free).transpose()?;
    let (info, limits) = (device.info(), Limits::read(None));
    drop(device);
    let runs = Admitted::new(runs, threads, activation_dtype, device_bytes, &limits)?;

    let (mut done, of) = (0.0, LINK_S + RAM_S + DISK_S + runs.seconds());
    let mut next = |next: &str, seconds: f64| {
        progress(Progress { next, done, of });
        done += seconds;
    };
    next("copies", LINK_S);
    let pool = Pool::over(cores, &Topology::read())?;
    let (link, common) = measure_undisturbed(tries, cores, || {
        let device = reopen()?.device;
        let link = Link::measure(&device, &pool)?;
        let common = lanes::common(&*device, threads, &link)?;
        Ok((link, common))
    })?;
    drop(pool);
    next("RAM", RAM_S);
    let ram = measure_undisturbed(tries, cores, || measure_ram(cores))?;
    next("the disk", DISK_S);
    let disk_bytes_per_s = measure_undisturbed(tries, cores, || disk(&options.folder))?;
    let mut samples = Vec::new();
    for (run, seconds) in &runs.runs {
        next(&run.to_string(), *seconds);
        samples.extend(measure_undisturbed(tries, cores, || run.samples(reopen()?, threads, sharing))?);
    }
    next("", 0.0);
    runs.require_cover(samples.iter().map(|sample| &sample.work))?;
    let machine = Machine {
        up_bytes_per_s: link.up,
        down_bytes_per_s: link.down,
        ram_bytes_per_s: ram.most(),
        disk_bytes_per_s,
        handoff_s: link.handoff,
        common,
        ..fit(&samples)?
    };
    Ok(Calibrated { machine, device: info, activation_dtype, device_bytes, limits, ram, threads })
}

/// Expected seconds of the separate measurements.
const LINK_S: f64 = 0.5;
const RAM_S: f64 = 1.5;
const DISK_S: f64 = 0.5;
/// The share of free memory that runs may take.
const MEMORY: f64 = 0.5;

/// The runs that fit this machine's memory, with their expected seconds.
struct Admitted<'a> {
    runs: Vec<(&'a Run, f64)>,
    /// The reason why the first run that does not fit was left out.
    left_out: Option<Error>,
}

impl<'a> Admitted<'a> {
    /// Errors: the runs that fit do not cover all kinds of work.
    fn new(
        all: &'a [Run],
        threads: usize,
        activation_dtype: DType,
        device_bytes: Option<usize>,
        limits: &Limits,
    ) -> Result<Admitted<'a>> {
        // A shipped machine of the same kind, for the expected times.
        let similar = if activation_dtype == CpuKernels::ACTIVATION_DTYPE { "cpu" } else { "h100-pcie" };
        let similar = Description::shipped(similar).expect("it is shipped").rates;
        let (mut runs, mut left_out) = (Vec::new(), None);
        for run in all {
            let plan = run.plan(threads, activation_dtype)?;
            let (host, device) = (plan.host.bytes(), plan.device.bytes());
            let allowed = |bytes: usize| (bytes as f64 * MEMORY) as usize;
            let too_large = |memory: &str, bytes: usize, free: usize, status| {
                let (needed, allowed, free) = (Size(bytes), Size(allowed(free)), Size(free));
                let message =
                    format!("{run} needs {needed} of {memory}, the limit is {allowed} ({free} are free)");
                Error::new(status, message)
            };
            let host_bytes = host + if device_bytes.is_none() { device } else { 0 };
            if host_bytes > allowed(limits.bytes) {
                let error = too_large("host memory", host_bytes, limits.bytes, Status::OutOfHostMemory);
                left_out.get_or_insert(error);
            } else if let Some(free) = device_bytes.filter(|free| device > allowed(*free)) {
                left_out.get_or_insert(too_large("device memory", device, free, Status::OutOfDeviceMemory));
            } else {
                runs.push((run, run.seconds(&plan, &similar)?));
            }
        }
        let admitted = Admitted { runs, left_out };
        let works = admitted.runs.iter().map(|(run, _)| run.works(threads, activation_dtype));
        let works = works.collect::<Result<Vec<_>>>()?;
        admitted.require_cover(works.iter().flatten())?;
        Ok(admitted)
    }

    fn seconds(&self) -> f64 {
        self.runs.iter().map(|(_, seconds)| seconds).sum()
    }

    /// Errors: the works do not cover all kinds of work of the plan.
    fn require_cover<'w>(&self, works: impl Iterator<Item = &'w Work>) -> Result<()> {
        match (fit::uncovered(works), &self.left_out) {
            (None, _) => Ok(()),
            (Some(what), Some(error)) => Err(error.clone().within(format!("{what} cannot be measured"))),
            (Some(what), None) => Err(Error::argument(format!(
                "{what} cannot be measured: every such task overlapped others; stop other processes and \
                 repeat"
            ))),
        }
    }
}

/// Contention between the lanes of a device.
#[derive(Clone, Copy, Debug)]
struct Sharing {
    /// True if the compute lane uses the CPU cores that copies and AdamW use.
    computes_on_cores: bool,
}

impl Sharing {
    /// Returns true if a task of `other` slows down a concurrent task of `one`.
    fn slows(self, other: Lane, one: Lane) -> bool {
        other != one && (self.computes_on_cores || ![one, other].contains(&Lane::Compute))
    }
}

impl Calibrated {
    /// The machine description, with the source of every figure.
    pub fn describe(&self, name: &str) -> Description {
        let cores = cores();
        let processor = processor_name().unwrap_or_else(|| "a processor without a name".to_owned());
        let on = match self.device_bytes {
            Some(_) => format!("{} with {cores} cores of {processor}", self.device.name),
            None => format!("the CPU device on {cores} cores of {processor}"),
        };
        let on = format!("{on}, {} threads", self.threads);
        let figures = serde_json::to_value(&self.machine).expect("numbers can be written");
        let names = figures.as_object().into_iter().flat_map(|figures| figures.keys().cloned());
        let mut sources: BTreeMap<String, String> =
            names.map(|figure| (figure, format!("horizon calibrate on {on}"))).collect();
        let gigabytes = |bytes: f64| format!("{:.1} GB/s", bytes / 1e9);
        let Ram { read, write, .. } = self.ram;
        sources.insert(
            "ram_bytes_per_s".to_owned(),
            format!(
                "horizon calibrate on {cores} cores of {processor}: maximum of reading ({}), writing ({}) and AdamW ({})",
                gigabytes(read),
                gigabytes(write),
                gigabytes(self.ram.adam_bytes())
            ),
        );
        let free = format!("free memory at the time of calibration ({})", self.limits.limit);
        sources.insert("host_bytes".to_owned(), free);
        sources.extend(self.device_bytes.map(|_| {
            ("device_bytes".to_owned(), "free device memory at the time of calibration".to_owned())
        }));
        Description {
            basis: sources.keys().map(|figure| (figure.clone(), Basis::Measured)).collect(),
            name: name.to_owned(),
            about: on,
            device: self.device.hardware.clone(),
            activation_dtype: if self.activation_dtype == DType::F32 {
                ActivationDtype::F32
            } else {
                ActivationDtype::Bf16
            },
            device_bytes: self.device_bytes,
            host_bytes: self.limits.bytes,
            shared: self.device_bytes.is_none(),
            rates: self.machine.clone(),
            sources,
        }
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// The share of the cores that other processes may use during a measurement.
const OTHERS: f64 = 0.075;

/// Repeats a measurement until other processes leave the cores idle, `tries` times at most. Returns
/// the least disturbed result.
fn measure_undisturbed<T>(tries: usize, cores: usize, measure: impl Fn() -> Result<T>) -> Result<T> {
    let mut calmest: Option<(f64, T)> = None;
    for _ in 0..tries.max(1) {
        let others = Others::watch();
        let measured = measure()?;
        let taken = others.cores() / cores as f64;
        if calmest.as_ref().is_none_or(|(least, _)| taken < *least) {
            calmest = Some((taken, measured));
        }
        if taken <= OTHERS {
            break;
        }
    }
    Ok(calmest.expect("it is measured at least once").1)
}

/// Measures writing and syncing a file, in bytes per second.
fn disk(folder: &Path) -> Result<f64> {
    const BYTES: usize = 256 << 20;
    let slice = vec![0x5a; 4 << 20];
    let start = Instant::now();
    let written = unnamed_file(folder).and_then(|mut file| {
        (0..BYTES / slice.len()).try_for_each(|_| file.write_all(&slice))?;
        file.sync_all()
    });
    let seconds = start.elapsed().as_secs_f64();
    written.map_err(|error| Error::io(format!("cannot write to {}", folder.display()), &error))?;
    Ok(BYTES as f64 / seconds)
}
