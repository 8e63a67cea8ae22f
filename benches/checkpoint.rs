//! Loading and saving compared with a plain file copy:
//! `cargo bench --bench checkpoint -- [--gb N] [--dtype bf16|f32] [--rounds N] [--threads N]
//! [--folder DIR]`.
//!
//! A random model of N GB (10⁹ bytes) of weights is exported to a folder once. Every round then
//! copies those files (`fs::copy`, then `fsync`), saves the model (an export; files and folder
//! synced), loads it with the files in the page cache, and loads it with the files dropped from the
//! cache. For comparison it also measures the limits: writing a cached buffer of the same total
//! length, then `fsync`; reading the cached files through such a buffer with the same number of
//! threads; and reading the dropped files with one thread. Throughput is in bytes of weights per
//! second; one line of JSON has the medians of the rounds. *Extra memory* is the peak growth of the
//! process during saving and loading, including mapped pages; the trainer itself has allocated
//! all its memory before.

#[path = "probe/mod.rs"]
mod probe;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use horizon::base::{DType, Dims, Shape, unwatched};
use horizon::engine::{Trainer, TrainerOptions};
use horizon::hf::{ExportTarget, FolderConfig, SHARD_BYTES, Weights, export, export_bytes};
use horizon::model::{Layout, ModelConfig};
use horizon::schedule::{AdamWhen, Mode};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use probe::Clock;
use support::bench::{median, number, option, rounded};

fn main() {
    let gb = number("--gb").unwrap_or(4.0);
    let dtype = if option("--dtype").as_deref() == Some("bf16") { DType::Bf16 } else { DType::F32 };
    let rounds = number("--rounds").unwrap_or(3);
    let threads =
        number("--threads").unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let folder = PathBuf::from(option("--folder").unwrap_or_else(|| "target/checkpoint-bench".to_owned()));

    let config = model(gb, dtype);
    let options = TrainerOptions {
        // The mode with the least memory, 8 bytes per parameter, so that files stay in the page cache.
        // Loading and saving are the
        // same in every mode.
        mode: Mode::Compact,
        adam_when: Some(AdamWhen::UnderBackward),
        clip: 0.0,
        shape: Shape { b: 1, t: 1 },
        threads: Some(threads),
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::open(&config, &options).expect("the model fits");
    fill(&mut trainer);
    let config = FolderConfig::of(config).expect("a family");
    let bytes = export_bytes(trainer.layout(), dtype);
    let save = |trainer: &mut Trainer, name: &str| {
        let target = ExportTarget::check(&folder.join(name), bytes).expect("enough disk space");
        export(&target, &config, trainer, dtype, SHARD_BYTES, &unwatched).expect("it is saved");
    };
    save(&mut trainer, "model");
    let source = folder.join("model");

    let mut seconds: [Vec<f64>; 7] = Default::default();
    let (mut saving_extra, mut loading_extra) = (0, 0);
    for _ in 0..rounds {
        let copies = folder.join("copies");
        seconds[0].push(Clock::Wall.seconds(|| copy(&source, &copies)));
        fs::remove_dir_all(&copies).expect("the copies are removed");
        let before = reset_peak();
        seconds[1].push(Clock::Wall.seconds(|| save(&mut trainer, "saved")));
        saving_extra = saving_extra.max(peak() - before);
        fs::remove_dir_all(folder.join("saved")).expect("the saved files are removed");
        let mut load = || {
            let weights = Weights::open(&source, config.family, trainer.layout()).expect("it is whole");
            weights.load(&mut trainer, &unwatched).expect("it is read");
        };
        seconds[5].push(Clock::Wall.seconds(|| write_all(&source, &folder.join("written"))));
        fs::remove_dir_all(folder.join("written")).expect("the written files are removed");
        read_all(&source, threads);
        seconds[6].push(Clock::Wall.seconds(|| read_all(&source, threads)));
        let before = reset_peak();
        seconds[2].push(Clock::Wall.seconds(&mut load));
        drop_cached(&source);
        seconds[3].push(Clock::Wall.seconds(load));
        loading_extra = loading_extra.max(peak() - before);
        drop_cached(&source);
        seconds[4].push(Clock::Wall.seconds(|| read_all(&source, 1)));
    }
    fs::remove_dir_all(&folder).expect("the bench cleans up");
    let rate = |seconds: &[f64]| rounded(bytes as f64 / median(seconds.iter().copied()) / 1e9, 3);
    let [copied, saved, warm, cold, read, written, read_warm] =
        seconds.each_ref().map(|seconds| rate(seconds));
    println!(
        "{}",
        serde_json::json!({
            "bench": "checkpoint", "dtype": dtype.name(), "gb": rounded(bytes as f64 / 1e9, 3), "threads": threads,
            "rounds": rounds, "copy_gb_per_second": copied, "save_gb_per_second": saved,
            "save_over_copy": rounded(saved / copied, 3), "load_gb_per_second": warm,
            "load_over_copy": rounded(warm / copied, 3), "load_cold_gb_per_second": cold,
            "read_cold_gb_per_second": read, "load_cold_over_read_cold": rounded(cold / read, 3),
            "write_gb_per_second": written, "save_over_write": rounded(saved / written, 3),
            "read_gb_per_second": read_warm, "load_over_read": rounded(warm / read_warm, 3),
            "saving_extra_mib": saving_extra >> 20, "loading_extra_mib": loading_extra >> 20,
            "host_gb_planned": rounded(trainer.plan().host.bytes() as f64 / 1e9, 3),
        })
    );
}

/// A Llama of fixed width with as many layers as give the size.
fn model(gb: f64, dtype: DType) -> ModelConfig {
    let dims = |l| Dims { c: 2048, h: 16, g: 4, d: 128, f: 5632, v: 32000, l };
    let config = |l| ModelConfig { positions_max: 64, ..ModelConfig::llama(dims(l)) };
    let bytes = |l| export_bytes(&Layout::new(&config(l)), dtype) as f64;
    let layers = 1.0 + (gb * 1e9 - bytes(1)) / (bytes(2) - bytes(1));
    config(layers.round().max(1.0) as usize)
}

/// Writes finite numbers that do not compress.
fn fill(trainer: &mut Trainer) {
    let order: Vec<usize> = (0..trainer.layout().tensors().count()).collect();
    let filled = trainer.each_slice(&order, &|slice| {
        let mut state = (slice.index as u64) << 40 | slice.elements.start as u64;
        let mut run = [0f32; 1024];
        for at in (0..slice.elements.len()).step_by(run.len()) {
            for value in &mut run {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *value = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            }
            slice.write(at, &run[..run.len().min(slice.elements.len() - at)]);
        }
        Ok(())
    });
    filled.expect("nothing fails");
}

/// The weight files of a folder.
fn weight_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for path in weight_files(from) {
        let copy = to.join(path.file_name().expect("a file's name"));
        fs::copy(&path, &copy).expect("the file is copied");
        File::open(&copy).and_then(|file| file.sync_all()).expect("the copy is on the disk");
    }
}

/// Bytes read or written per call, through a buffer that stays in the CPU cache.
const BUFFER: usize = 1 << 20;

/// Writes files of the same lengths, and syncs them.
fn write_all(like: &Path, to: &Path) {
    let buffer = vec![0x55; BUFFER];
    fs::create_dir(to).expect("a folder");
    for path in weight_files(like) {
        let mut left = fs::metadata(&path).expect("a file").len() as usize;
        let mut file = File::create(to.join(path.file_name().expect("a file's name"))).expect("a file");
        while left > 0 {
            let count = left.min(BUFFER);
            file.write_all(&buffer[..count]).expect("it is written");
            left -= count;
        }
        file.sync_all().expect("it is on the disk");
    }
}

/// Reads through a buffer, like `cat FILES > /dev/null`; each thread reads its share of every file.
fn read_all(folder: &Path, threads: usize) {
    for path in weight_files(folder) {
        let file = File::open(path).expect("a file");
        let bytes = file.metadata().expect("a length").len();
        let chunk = bytes.div_ceil(threads as u64);
        std::thread::scope(|scope| {
            for thread in 0..threads as u64 {
                let file = &file;
                scope.spawn(move || {
                    let (mut at, end) = (thread * chunk, bytes.min((thread + 1) * chunk));
                    let mut buffer = vec![0u8; BUFFER];
                    while at < end {
                        let count = (BUFFER as u64).min(end - at) as usize;
                        file.read_exact_at(&mut buffer[..count], at).expect("it is read");
                        black_box(&buffer);
                        at += count as u64;
                    }
                });
            }
        });
    }
}

/// Drops the files, which are synced, from the page cache.
fn drop_cached(folder: &Path) {
    for path in weight_files(folder) {
        let file = File::open(path).expect("a file");
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("advice about a file");
    }
}

/// Resets the peak of resident memory; returns the resident bytes.
fn reset_peak() -> usize {
    fs::write("/proc/self/clear_refs", "5").expect("the peak is reset");
    status("VmRSS:")
}

/// The peak of resident bytes since [`reset_peak`].
fn peak() -> usize {
    status("VmHWM:")
}

fn status(field: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").expect("the process's status");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a size in kB") << 10
}
