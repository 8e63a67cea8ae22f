//! Power cuts: a run on a file system of its own, of which only the blocks remain that have reached
//! the disk.
//!
//! Half of the cuts shut the file system down under the running processes, so that a cut may fall
//! within a sync. For the others the processes are killed, and the disk is copied as it is then,
//! without a sync or an unmount. What is not synced stays in memory: the file system is mounted
//! with a long commit interval.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::inject::{self, Action, Fault};
use crate::invariants::{Results, TOKENS, clean, complete, equal, steps};
use crate::is_long;
use crate::kills::latest_step;
use crate::work::{TRAIN, copy, furnish, horizon, run, start, wait, workplace};

const STEPS: u64 = 60;
const TOKENIZE: &str = "tokenize --quiet --threads 1 --model base --data rows.jsonl --out again.bin";

/// Program that makes a file system, its bytes, and its mount options.
const FILE_SYSTEMS: [(&[&str], u64, &str); 2] = [
    (&["mkfs.ext4", "-q", "-F"], 24 << 20, "commit=300,data=writeback"),
    (&["mkfs.ext4", "-q", "-F"], 24 << 20, "commit=300"),
];

/// A disk in a file, and the folder at which it is mounted.
struct Disk {
    image: PathBuf,
    folder: PathBuf,
    options: &'static str,
}

fn does(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = || format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    output.status.success().then_some(()).ok_or_else(text)
}

impl Disk {
    /// Makes a disk with the files that a run needs, not mounted.
    fn make(below: &Path, make: &[&str], bytes: u64, options: &'static str) -> Result<Disk, String> {
        let disk = Disk { image: below.join("image"), folder: below.join("disk"), options };
        fs::create_dir_all(&disk.folder).unwrap();
        File::create(&disk.image).unwrap().set_len(bytes).unwrap();
        does(Command::new(make[0]).args(&make[1..]).arg(&disk.image))?;
        disk.mount()?;
        furnish(&disk.folder);
        disk.unmount();
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        let options = format!("loop,{}", self.options);
        does(Command::new("mount").args(["-o", &options]).arg(&self.image).arg(&self.folder))
    }

    fn unmount(&self) {
        does(Command::new("umount").arg(&self.folder)).unwrap();
    }

    /// Cuts the power under processes, and returns what each printed. The disk is then mounted
    /// again, as after a restart.
    fn cut<const N: usize>(&self, mut processes: [Child; N], within_io: bool) -> [(Option<i32>, String); N] {
        let is_shut_down = within_io && self.shut_down();
        processes.iter_mut().for_each(|process| process.kill().unwrap());
        let ended = processes.map(wait).map(|ran| (ran.code(), ran.err));
        let copied = self.image.with_extension("cut");
        if !is_shut_down {
            copy(&self.image, &copied);
        }
        self.unmount();
        if !is_shut_down {
            fs::rename(copied, &self.image).unwrap();
        }
        self.mount().unwrap();
        ended
    }

    /// Makes the file system write nothing more, neither data nor its journal. Returns false if it
    /// cannot.
    fn shut_down(&self) -> bool {
        const SHUTDOWN: libc::Ioctl = libc::_IOR::<u32>(b'X' as u32, 125);
        let without_log: u32 = 2;
        let folder = File::open(&self.folder).unwrap();
        // SAFETY: the request reads one `u32`.
        unsafe { libc::ioctl(folder.as_raw_fd(), SHUTDOWN, &raw const without_log) == 0 }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may be unmounted already.
        let _ = does(Command::new("umount").arg("--lazy").arg(&self.folder));
    }
}

/// A run that is cut again and again, and what it must end with.
struct Cuts<'a> {
    disk: &'a Disk,
    expected: &'a Results,
    lifetime: Duration,
    /// Syncs do nothing.
    without_sync: bool,
    rng: ChaCha8Rng,
    cuts: usize,
}

impl Cuts<'_> {
    fn start(&self, words: &str) -> Child {
        let mut command = horizon(&self.disk.folder, words);
        if self.without_sync {
            let fault = Fault { action: Action::Skip, calls: "sync", at: 1, lasts: true };
            inject::load(&mut command, &self.disk.folder, Some(fault), Path::new("/dev/null"));
        }
        start(command)
    }

    /// Trains and tokenizes until training has ended before the cut. A finding is an error.
    fn run(&mut self) -> Result<(), String> {
        let disk = self.disk;
        let (folder, train) = (&disk.folder, TRAIN.replace("--quiet ", ""));
        let fresh = format!(
            "{train} --steps {STEPS} --checkpoint-dir ckpts --checkpoint-every 1 --keep 3 --log log.jsonl --out hf"
        );
        let mut promised = 0;
        loop {
            let command = if steps(folder).is_empty() { &fresh } else { "train --resume ckpts" };
            let _ = fs::remove_file(folder.join("again.bin"));
            let processes = [self.start(command), self.start(TOKENIZE)];
            std::thread::sleep(self.lifetime.mul_f64(self.rng.random_range(0.0..0.3)));
            self.cuts += 1;
            let within_io = self.rng.random();
            let [(trained, log), (tokenized, _)] = disk.cut(processes, within_io);
            complete(folder)?;
            promised = log.lines().filter_map(reported).fold(promised, u64::max);
            let latest = latest_step(folder);
            if latest < promised {
                return Err(format!("lost checkpoint: of step {promised}, the latest is {latest}"));
            }
            let tokens = fs::read(folder.join("again.bin")).ok();
            let is_whole = tokens.as_ref() == Some(&self.expected.tokens);
            if !is_whole && (tokens.is_some() || tokenized == Some(0)) {
                return Err(format!("lost token file: {:?} bytes", tokens.map(|it| it.len())));
            }
            match trained {
                Some(0) => break,
                None => {}
                // Writing fails once the file system is shut down.
                Some(1) if within_io => {}
                code => return Err(format!("exit status {code:?}: {log}")),
            }
        }
        let found = Results::of(folder)?;
        equal(&Results { log: self.expected.log.clone(), ..found.clone() }, self.expected)?;
        // Nothing is left to do, except to sweep and to export again.
        for words in ["train --quiet --resume ckpts", TOKENIZE] {
            let again = run(horizon(folder, words));
            if again.code() != Some(0) {
                return Err(format!("no second try: {}", again.err));
            }
        }
        clean(folder)?;
        equal(&found, self.expected)
    }
}

/// The step of a line that reports a checkpoint.
fn reported(line: &str) -> Option<u64> {
    let (step, _) = line.strip_prefix("step ")?.split_once(": wrote a checkpoint")?;
    step.parse().ok()
}

#[test]
fn a_power_cut_loses_nothing_that_was_reported() {
    if !is_long() {
        return println!("skipped: power cuts take minutes; set HZ_LONG=1");
    }
    let origin = workplace();
    let whole = origin.path().join("whole");
    fs::create_dir(&whole).unwrap();
    furnish(&whole);
    let save = "--checkpoint-dir ckpts --checkpoint-every 1 --keep 3 --log log.jsonl --out hf";
    run(horizon(&whole, &format!("{TRAIN} --steps {STEPS} {save}"))).succeeded();
    let expected = Results::of(&whole).unwrap();
    assert!(!expected.tokens.is_empty(), "no {TOKENS}");

    for (make, bytes, options) in FILE_SYSTEMS {
        let scratch = tempfile::tempdir_in(origin.path()).unwrap();
        let disk = match Disk::make(scratch.path(), make, bytes, options) {
            Ok(disk) => disk,
            Err(reason) => {
                println!("skipped: {} with {options}: {reason}", make[0]);
                continue;
            }
        };
        let empty = scratch.path().join("empty");
        copy(&disk.image, &empty);
        // A run in one piece, for its duration.
        disk.mount().unwrap();
        let begun = Instant::now();
        run(horizon(&disk.folder, &format!("{TRAIN} --steps {STEPS} {save}"))).succeeded();
        let lifetime = begun.elapsed();
        let mut cuts = Cuts {
            disk: &disk,
            expected: &expected,
            lifetime,
            without_sync: true,
            rng: ChaCha8Rng::seed_from_u64(2),
            cuts: 0,
        };
        let renewed = |cuts: &mut Cuts| {
            disk.unmount();
            copy(&empty, &disk.image);
            disk.mount().unwrap();
            cuts.run()
        };
        // The test finds what is lost without syncs.
        let lost =
            (0..10).filter_map(|_| renewed(&mut cuts).err()).find(|finding| finding.starts_with("lost"));
        let lost = lost.expect("without syncs something is lost");
        println!("power: without syncs, {} with {options}: found {lost}", make[0]);
        (cuts.without_sync, cuts.cuts) = (false, 0);
        let (mut runs, mut findings) = (0, Vec::new());
        while cuts.cuts < 500 {
            findings.extend(renewed(&mut cuts).err());
            runs += 1;
        }
        println!(
            "power: {} cuts in {runs} runs, {} with {options}, {} lost",
            cuts.cuts,
            make[0],
            findings.len()
        );
        assert!(findings.is_empty(), "{findings:#?}");
        disk.unmount();
    }
}
