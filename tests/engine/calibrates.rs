//! Measuring a device: the CPU, and what looks like CUDA.

use std::cell::RefCell;
use std::fs;

use horizon::base::{DType, Dims, Shape};
use horizon::device::Lane;
use horizon::device::cuda::{CudaDevice, CudaOptions};
use horizon::engine::calibrate::{CalibrateOptions, Calibrated, OpenDevice, Run, calibrate_by};
use horizon::engine::{Backend, DeviceChoice, TrainerOptions};
use horizon::model::{ModelConfig, Recompute};
use horizon::plan::{Description, Fixed, MemoryLimits};
use horizon::schedule::Mode;
use horizon::train::planning::{Planned, Why};

use support::fake_cuda::{FakeCuda, Setting, backend};

/// Small models that between them have every class of work.
fn small() -> Vec<Run> {
    let narrow = Dims { c: 64, h: 2, g: 1, d: 32, f: 176, v: 256, l: 2 };
    let middle = Dims { c: 192, h: 6, g: 3, d: 32, f: 528, v: 512, l: 2 };
    let wide = Dims { c: 544, h: 17, g: 17, d: 32, f: 576, v: 576, l: 1 };
    let run = |dims, t, recompute, mode| {
        let recompute = vec![recompute];
        Run { dims, shape: Shape { b: 1, t }, recompute, mode }
    };
    vec![
        run(narrow, 64, Recompute::Full, Mode::Exact),
        run(middle, 160, Recompute::None, Mode::Exact),
        run(wide, 576, Recompute::None, Mode::Exact),
        run(narrow, 64, Recompute::None, Mode::Streamed),
        run(narrow, 64, Recompute::None, Mode::Compact),
    ]
}

/// Measures by small models, holds that nothing is left behind, and gives what came out and the description of it.
fn measured(open: &OpenDevice) -> (Calibrated, Description) {
    let folder = tempfile::tempdir().unwrap();
    let options = CalibrateOptions {
        device: DeviceChoice::Cpu,
        threads: Some(1),
        folder: folder.path().to_owned(),
        tries: 1,
    };
    let told = RefCell::new(Vec::new());
    let runs = small();
    let tell = |progress: horizon::engine::calibrate::Progress| {
        assert!(progress.done <= progress.of * (1.0 + 1e-9), "{progress:?}");
        told.borrow_mut().push((progress.next.to_owned(), progress.done));
    };
    let calibrated = calibrate_by(open, &runs, &options, &tell).unwrap();
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "it leaves nothing behind");
    let told = told.into_inner();
    assert_eq!(told.len(), 3 + runs.len() + 1);
    assert!(told.is_sorted_by(|(_, one), (_, other)| one <= other), "{told:?}");
    let described = calibrated.describe("measured");
    (calibrated, described)
}

/// What every description has to be, whatever was measured.
fn is_sane(described: &Description) {
    described.rates.check().unwrap();
    assert_eq!(&Description::parse(&described.to_json()).unwrap(), described);
    // No rate is beyond what any machine does, as one that nothing was measured of would be.
    let rates = &described.rates;
    let [small, middle, large] = rates.matrix_flop_per_s;
    assert!(small <= middle && middle <= large && large < 1e17, "{rates:?}");
    let bytes =
        [rates.device_bytes_per_s, rates.up_bytes_per_s, rates.down_bytes_per_s, rates.ram_bytes_per_s];
    let bytes = bytes.into_iter().chain([rates.disk_bytes_per_s]).chain(rates.host_bytes_per_s);
    assert!(bytes.into_iter().all(|rate| rate < 1e15), "{rates:?}");
    assert!(rates.attention_flop_per_s.iter().all(|rate| *rate < 1e17), "{rates:?}");

    let mut figures: Vec<String> =
        serde_json::to_value(rates).unwrap().as_object().unwrap().keys().cloned().collect();
    figures.push("host_bytes".into());
    figures.extend(described.device_bytes.map(|_| "device_bytes".into()));
    figures.sort();
    assert_eq!(described.sources.keys().cloned().collect::<Vec<_>>(), figures);
    assert_eq!(described.basis.keys().cloned().collect::<Vec<_>>(), figures);
    assert_eq!(described.basis_line(), "measured: all");

    let config = ModelConfig {
        positions_max: 64,
        ..ModelConfig::llama(Dims { c: 64, h: 2, g: 1, d: 32, f: 176, v: 256, l: 3 })
    };
    let trainer = TrainerOptions { shape: Shape { b: 1, t: 64 }, micros_max: 2, ..TrainerOptions::default() };
    let limits = MemoryLimits::of(described, None, None);
    let planned =
        Planned::search("small", &config, &trainer, described, limits, &Fixed::default(), Why::Gains)
            .unwrap();
    assert!(planned.tokens_per_second.is_finite() && planned.tokens_per_second > 0.0);
}

#[test]
fn the_cpu_device_is_measured_and_planned_with() {
    let open = |trainer: &TrainerOptions| Backend::open(trainer);
    let (calibrated, described) = measured(&open);
    is_sane(&described);
    assert!(
        described.shared && described.device_bytes.is_none() && calibrated.activation_dtype == DType::F32
    );
    // Its arithmetic, its copies and AdamW take the same cores.
    let cores = described.rates.common.iter().find(|common| common.name == "cores").unwrap();
    for lane in [Lane::Compute, Lane::H2d, Lane::D2h, Lane::Host] {
        assert!(cores.used[lane.at()] > 0.0, "{lane}");
    }
}

#[test]
fn a_device_with_memory_of_its_own_is_measured_and_planned_with() {
    let opened = RefCell::new(Vec::new());
    let open = |_: &TrainerOptions| {
        let calls = FakeCuda::new(Setting::default());
        opened.borrow_mut().push(calls.clone());
        Ok(backend(CudaDevice::open(calls.ordinal(), CudaOptions::default())?))
    };
    let (_, described) = measured(&open);
    is_sane(&described);
    assert!(!described.shared && described.about.contains("fake CUDA"), "{}", described.about);
    // A sixteenth is left for kernels.
    assert_eq!(described.device_bytes, Some(Setting::default().memory / 16 * 15));
    // Streams take no cores, so none are shared; copies may slow each other down.
    for common in &described.rates.common {
        assert_eq!(common.used[Lane::Compute.at()], 0.0, "{common:?}");
        assert_ne!(common.name, "cores");
    }
    for calls in opened.into_inner() {
        assert_eq!(calls.violations(), Vec::<String>::new());
        assert_eq!((calls.device_bytes(), calls.pinned()), (0, 0), "all memory was given back");
    }
}

#[test]
fn what_cannot_be_measured_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = CalibrateOptions {
        device: DeviceChoice::Cpu,
        threads: Some(1),
        folder: folder.path().to_owned(),
        tries: 1,
    };
    // Refused before anything is measured.
    let refused = |open: &OpenDevice, runs: &[Run]| {
        calibrate_by(open, runs, &options, &|progress| panic!("{progress:?}")).unwrap_err()
    };
    let cpu = |trainer: &TrainerOptions| Backend::open(trainer);
    let error = refused(&cpu, &small()[..4]);
    assert!(error.message().contains("AdamW of mode compact"), "{error}");
    let little = |_: &TrainerOptions| {
        // What others have and a sixteenth for kernels leave 32 MiB.
        let (memory, memory_of_others) = (64 << 20, 28 << 20);
        let calls = FakeCuda::new(Setting { memory, memory_of_others, ..Setting::default() });
        Ok(backend(CudaDevice::open(calls.ordinal(), CudaOptions::default())?))
    };
    let error = refused(&little, &small());
    for word in ["the widest class of products cannot be measured", "of device memory", "32.0 MiB"] {
        assert!(error.message().contains(word), "{word}: {error}");
    }
}
