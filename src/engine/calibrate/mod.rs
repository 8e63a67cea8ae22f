//! Measuring a machine for the plan: any device of this one.
//!
//! Small models of several shapes take a few steps, with every lane recorded. Whatever ran alone is a sample: so much
//! work in so much time; the rates are those at which work and time agree best, relative to the time. Copies, alone and
//! both ways at once, threads beside threads, the way from lane to lane, RAM and the disk are measured by themselves. What was
//! measured while other processes were at work is measured again.
//!
//! A device says by itself how large its arena may be, what host memory it copies from, and whose lanes are cores of this
//! machine; nothing else here knows which it is. What is small on a CPU is nothing on a GPU: each has `runs` of its own.

mod fit;
mod lanes;
mod memory;
mod runs;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
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
use crate::host::{Limits, MemoryKind, Others, Pool, Topology, check_threads, processor_name};
use crate::ops::cpu::CpuKernels;
use crate::plan::{ActivationDtype, Basis, Description, Machine, Work};

/// Some work on a lane that had what it needs to itself, and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The lane.
    pub lane: Lane,
    /// The work.
    pub work: Work,
    /// Seconds.
    pub seconds: f64,
}

/// What a measurement is asked for.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// The device.
    pub device: DeviceChoice,
    /// CPU threads that share a job; by default all the process may run on.
    pub threads: Option<usize>,
    /// Where a file is written to measure the disk; its name is removed before it is written.
    pub folder: PathBuf,
    /// How often something is measured, at most, while other processes are at work.
    pub tries: usize,
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What comes next.
    pub next: &'a str,
    /// Seconds that what is done was expected to take.
    pub done: f64,
    /// Seconds that all of it is expected to take while nobody disturbs it.
    pub of: f64,
}

/// A machine as it was measured.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// What it can do.
    pub machine: Machine,
    /// The device that it computes on.
    pub device: DeviceInfo,
    /// That device's type of activations.
    pub activation_dtype: DType,
    /// Device memory that an arena may take; nothing where it is host memory.
    pub device_bytes: Option<usize>,
    /// Host memory.
    pub limits: Limits,
    /// What RAM gives to all cores.
    pub ram: Ram,
    /// CPU threads that shared a job.
    pub threads: usize,
}

/// Opens the measured device anew, since each model takes an arena of its own.
pub type OpenDevice<'a> = dyn Fn(&TrainerOptions) -> Result<Backend> + 'a;

/// The device that a choice comes to for [`calibrate`]. Errors: as [`DeviceChoice::resolve`].
pub fn measured_device(choice: DeviceChoice) -> Result<DeviceChoice> {
    let first = &runs(DeviceChoice::Cuda(0))[0];
    choice.resolve(&first.config(), first.shape)
}

/// Measures a device of this machine, the memory around it and the disk. Takes some ten seconds on a CPU and a quarter of a
/// GiB of RAM, on CUDA a minute and up to 12 GiB; half a GiB in any case, and of the disk a quarter.
///
/// Errors: the device is not there; memory for the measurement is not there; `folder` cannot be written in; a figure could
/// not be measured.
pub fn calibrate(options: &CalibrateOptions, told: &dyn Fn(Progress)) -> Result<Calibrated> {
    let device = measured_device(options.device)?;
    let open = |trainer: &TrainerOptions| Backend::open(&TrainerOptions { device, ..trainer.clone() });
    calibrate_by(&open, &runs(device), options, told)
}

/// As [`calibrate`], by other runs, on a device that `open` makes.
///
/// Errors: as [`calibrate`]; the runs do not meet all that a plan asks of a machine.
pub fn calibrate_by(
    open: &OpenDevice,
    runs: &[Run],
    options: &CalibrateOptions,
    told: &dyn Fn(Progress),
) -> Result<Calibrated> {
    let (cores, tries) = (cores(), options.tries);
    let threads = options.threads.unwrap_or(cores);
    check_threads(threads)?;
    let anew = || open(&TrainerOptions::default());
    let Backend { device, activation_dtype, .. } = anew()?;
    let sharing = Sharing { computes_on_cores: device.runs_on_cores(Lane::Compute) };
    let is_apart = matches!(device.wire_memory(0), MemoryKind::Pinned { .. });
    let memory_free = || device.capacity().map(|_| device.info().memory_free);
    let device_bytes = is_apart.then(memory_free).transpose()?;
    let (info, limits) = (device.info(), Limits::read(None));
    drop(device);
    let runs = Admitted::new(runs, threads, activation_dtype, device_bytes, &limits)?;

    let (mut done, of) = (0.0, LINK_S + RAM_S + DISK_S + runs.seconds());
    let mut next = |next: &str, seconds: f64| {
        told(Progress { next, done, of });
        done += seconds;
    };
    next("copies", LINK_S);
    let pool = Pool::over(cores, &Topology::read())?;
    let (link, common) = calm(tries, cores, || {
        let device = anew()?.device;
        let link = Link::measure(&device, &pool)?;
        let common = lanes::common(&*device, threads, &link)?;
        Ok((link, common))
    })?;
    drop(pool);
    next("RAM", RAM_S);
    let ram = calm(tries, cores, || measure_ram(cores))?;
    next("the disk", DISK_S);
    let disk_bytes_per_s = calm(tries, cores, || disk(&options.folder))?;
    let mut samples = Vec::new();
    for (run, seconds) in &runs.runs {
        next(&run.to_string(), *seconds);
        samples.extend(calm(tries, cores, || run.samples(anew()?, threads, sharing))?);
    }
    next("", 0.0);
    runs.meet(samples.iter().map(|sample| &sample.work))?;
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

/// Seconds that the measurements take that are no runs, about.
const LINK_S: f64 = 0.5;
const RAM_S: f64 = 1.5;
const DISK_S: f64 = 0.5;
/// Of the memory that is free, the part that runs may take.
const MEMORY: f64 = 0.5;

/// The runs that fit this machine's memory, each with the seconds that it takes about.
struct Admitted<'a> {
    runs: Vec<(&'a Run, f64)>,
    /// Why the first that does not fit was left out.
    left_out: Option<Error>,
}

impl<'a> Admitted<'a> {
    /// Errors: without those that do not fit, something would not be measured.
    fn new(
        all: &'a [Run],
        threads: usize,
        activation_dtype: DType,
        device_bytes: Option<usize>,
        limits: &Limits,
    ) -> Result<Admitted<'a>> {
        let like = if activation_dtype == CpuKernels::ACTIVATION_DTYPE { "cpu" } else { "h100-pcie" };
        let like = Description::shipped(like).expect("it is shipped").rates;
        let (mut runs, mut left_out) = (Vec::new(), None);
        for run in all {
            let plan = run.plan(threads, activation_dtype)?;
            let (host, device) = (plan.host.bytes(), plan.device.bytes());
            let short = |place: &str, bytes: usize, free: usize, status| {
                let has = format!("{} of the {} that are free", Size(free / 2), Size(free));
                Error::new(status, format!("{run} takes {} of {place}; it may take {has}", Size(bytes)))
            };
            let chunk = |bytes: usize| (bytes as f64 * MEMORY) as usize;
            let host_bytes = host + if device_bytes.is_none() { device } else { 0 };
            if host_bytes > chunk(limits.bytes) {
                let error = short("host memory", host_bytes, limits.bytes, Status::OutOfHostMemory);
                left_out.get_or_insert(error);
            } else if let Some(free) = device_bytes.filter(|free| device > chunk(*free)) {
                left_out.get_or_insert(short("device memory", device, free, Status::OutOfDeviceMemory));
            } else {
                runs.push((run, run.seconds(&plan, &like)?));
            }
        }
        let admitted = Admitted { runs, left_out };
        let works = admitted.runs.iter().map(|(run, _)| run.works(threads, activation_dtype));
        let works = works.collect::<Result<Vec<_>>>()?;
        admitted.meet(works.iter().flatten())?;
        Ok(admitted)
    }

    fn seconds(&self) -> f64 {
        self.runs.iter().map(|(_, seconds)| seconds).sum()
    }

    /// Errors: something that a plan asks of a machine is in none of the works.
    fn meet<'w>(&self, works: impl Iterator<Item = &'w Work>) -> Result<()> {
        match (fit::unmet(works), &self.left_out) {
            (None, _) => Ok(()),
            (Some(what), Some(error)) => Err(error.clone().within(format!("{what} cannot be measured"))),
            (Some(what), None) => Err(Error::argument(format!("{what} is met by none of the runs alone"))),
        }
    }
}

/// Which lanes of a device slow one another down.
#[derive(Clone, Copy, Debug)]
struct Sharing {
    /// Whether its arithmetic takes the cores that copies and AdamW take.
    computes_on_cores: bool,
}

impl Sharing {
    /// Whether a task of `one` takes longer beside one of `other`.
    fn slows(self, other: Lane, one: Lane) -> bool {
        other != one && (self.computes_on_cores || ![one, other].contains(&Lane::Compute))
    }
}

impl Calibrated {
    /// The machine as a file, with where every figure is from.
    pub fn describe(&self, name: &str) -> Description {
        let cores = cores();
        let processor = processor_name().unwrap_or_else(|| "a processor without a name".to_owned());
        let on = match self.device_bytes {
            Some(_) => format!("{} beside {cores} cores of {processor}", self.device.name),
            None => format!("the CPU device on {cores} cores of {processor}"),
        };
        let on = format!("{on}, {} threads a job", self.threads);
        let figures = serde_json::to_value(&self.machine).expect("numbers can be written");
        let names = figures.as_object().into_iter().flat_map(|figures| figures.keys().cloned());
        let mut sources: BTreeMap<String, String> =
            names.map(|figure| (figure, format!("horizon calibrate on {on}"))).collect();
        let gigabytes = |bytes: f64| format!("{:.1} GB/s", bytes / 1e9);
        let Ram { read, write, .. } = self.ram;
        sources.insert(
            "ram_bytes_per_s".to_owned(),
            format!(
                "horizon calibrate on {cores} cores of {processor}: the most of reading ({}), writing ({}) and AdamW ({})",
                gigabytes(read),
                gigabytes(write),
                gigabytes(self.ram.adam_bytes())
            ),
        );
        let free = format!("what was free when it was measured ({})", self.limits.limit);
        sources.insert("host_bytes".to_owned(), free);
        sources.extend(self.device_bytes.map(|_| {
            ("device_bytes".to_owned(), "what an arena could take when it was measured".to_owned())
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

/// Of each core, what others may take during a measurement.
const OTHERS: f64 = 0.075;

/// What is measured when others leave the cores alone, or leave them alone most.
fn calm<T>(tries: usize, cores: usize, measure: impl Fn() -> Result<T>) -> Result<T> {
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

/// Bytes a second that a file takes, until they are on the disk.
fn disk(folder: &Path) -> Result<f64> {
    const BYTES: usize = 256 << 20;
    let path = folder.join(format!(".horizon-calibrate-{}", process::id()));
    let slice = vec![0x5a; 4 << 20];
    let start = Instant::now();
    let written = fs::File::create(&path).and_then(|mut file| {
        // The open file needs no name, and a process that is killed leaves none.
        fs::remove_file(&path)?;
        (0..BYTES / slice.len()).try_for_each(|_| file.write_all(&slice))?;
        file.sync_all()
    });
    let seconds = start.elapsed().as_secs_f64();
    written.map_err(|error| Error::io(format!("cannot write {}", path.display()), &error))?;
    Ok(BYTES as f64 / seconds)
}
