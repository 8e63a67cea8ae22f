//! One fault in each run, at every I/O call.
//!
//! Calls of all threads are counted together, so that the n-th call of two runs may differ. Every n
//! is tried, and what must hold does not depend on the call.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::errno::Errno;

use crate::inject::{self, Action, Fault, Report};
use crate::invariants::{Export, Results, clean, complete, equal, export, files, old_or_new, steps};
use crate::is_long;
use crate::work::{Ran, TRAIN, copy, horizon, run, workplace};

struct Scenario {
    name: &'static str,
    /// Commands that make the state before; empty for none.
    before: String,
    command: String,
    /// The command to continue once there is a checkpoint; the same by default.
    resume: Option<&'static str>,
}

fn scenarios() -> [Scenario; 4] {
    let save = "--checkpoint-dir ckpts --checkpoint-every 1 --log log.jsonl --out hf";
    let begun = format!("{TRAIN} --steps 2 {save}");
    [
        Scenario {
            name: "train",
            before: String::new(),
            command: format!("{TRAIN} --steps 4 {save}"),
            resume: Some("train --quiet --resume ckpts"),
        },
        Scenario {
            name: "resume",
            before: begun.clone(),
            command: "train --quiet --resume ckpts --steps 4 --resume-change steps --keep 2".into(),
            resume: None,
        },
        // No step is left, and the export becomes another.
        Scenario {
            name: "export",
            before: begun,
            command: "train --quiet --resume ckpts --export-dtype f32 --out hf".into(),
            resume: None,
        },
        Scenario {
            name: "tokenize",
            before: String::new(),
            command:
                "tokenize --quiet --threads 1 --model base --data rows.jsonl rows.jsonl --out tokens.bin"
                    .into(),
            resume: None,
        },
    ]
}

/// The outcomes that a fault may have.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Promise {
    /// The command does what it does without the fault.
    Harmless,
    /// As without the fault, or a warning or an error that names the file.
    Named,
    /// The process is killed.
    Killed,
}

struct Kind {
    action: Action,
    calls: &'static str,
    lasts: bool,
    promise: Promise,
}

const ALL: &str =
    "open create read write sync rename exchange map resize allocate remove mkdir lock stat list close";
const TAKES_SPACE: &str = "create write sync rename exchange resize allocate mkdir";

const fn kind(action: Action, calls: &'static str, promise: Promise) -> Kind {
    Kind { action, calls, lasts: false, promise }
}

const fn lasting(action: Action, calls: &'static str) -> Kind {
    Kind { action, calls, lasts: true, promise: Promise::Named }
}

const KINDS: [Kind; 18] = [
    kind(Action::Fail(Errno::EIO), ALL, Promise::Named),
    lasting(Action::Fail(Errno::EIO), ALL),
    kind(Action::Fail(Errno::ENOSPC), TAKES_SPACE, Promise::Named),
    lasting(Action::Fail(Errno::ENOSPC), TAKES_SPACE),
    kind(Action::Fail(Errno::EDQUOT), TAKES_SPACE, Promise::Named),
    kind(Action::Fail(Errno::EACCES), "open create mkdir rename remove", Promise::Named),
    kind(Action::Fail(Errno::EMFILE), "open create", Promise::Named),
    kind(Action::Fail(Errno::ENOMEM), "map", Promise::Named),
    kind(Action::Fail(Errno::EAGAIN), "lock", Promise::Named),
    lasting(Action::Fail(Errno::EAGAIN), "lock"),
    kind(Action::Fail(Errno::EINTR), "open create read write sync resize allocate lock", Promise::Harmless),
    // File systems without them.
    kind(Action::Fail(Errno::ENOLCK), "lock", Promise::Harmless),
    kind(Action::Fail(Errno::EOPNOTSUPP), "allocate", Promise::Harmless),
    kind(Action::Fail(Errno::EINVAL), "exchange", Promise::Harmless),
    kind(Action::Short, "read write", Promise::Harmless),
    kind(Action::Before, ALL, Promise::Killed),
    kind(Action::After, ALL, Promise::Killed),
    kind(Action::Torn, "write", Promise::Killed),
];

impl Scenario {
    /// Makes the state before in a new folder: a copy would not belong to the same run.
    fn begin(&self, origin: &Path, folder: &Path) {
        copy(origin, folder);
        if !self.before.is_empty() {
            run(horizon(folder, &self.before)).succeeded();
        }
    }
}

/// A scenario with its results.
struct Prepared<'a> {
    scenario: &'a Scenario,
    /// A folder with the files that the scenario needs.
    origin: &'a Path,
    old: Results,
    new: Results,
    /// Exports after fewer steps: a run that cannot make a step exports the model of the step before, unless an
    /// export is there.
    shorter: &'a [Export],
    /// Calls of the uninterrupted command by kind.
    counts: BTreeMap<String, usize>,
}

struct Case<'a> {
    of: &'a Prepared<'a>,
    fault: Fault,
    promise: Promise,
}

fn prepare<'a>(
    scenario: &'a Scenario,
    origin: &'a Path,
    scratch: &Path,
    shorter: &'a [Export],
) -> Prepared<'a> {
    let (folder, report) = (scratch.join(scenario.name), scratch.join("counts"));
    scenario.begin(origin, &folder);
    let old = Results::of(&folder).unwrap();
    let mut command = horizon(&folder, &scenario.command);
    inject::load(&mut command, &folder, None, &report);
    run(command).succeeded();
    let counts = inject::report(&report).counts;
    fs::remove_file(report).unwrap();
    let shorter = if old.export.is_empty() { shorter } else { &[] };
    Prepared { scenario, origin, old, new: Results::of(&folder).unwrap(), shorter, counts }
}

/// Every call of every kind, or a sample of `sample` calls spread over each kind.
fn cases<'a>(of: &'a Prepared<'a>, sample: Option<usize>) -> Vec<Case<'a>> {
    let mut cases = Vec::new();
    for &Kind { action, calls, lasts, promise } in &KINDS {
        let total: usize = calls.split(' ').filter_map(|kind| of.counts.get(kind)).sum();
        let number = sample.map_or(total, |sample| sample.min(total));
        for k in 0..number {
            let fault = Fault { action, calls, at: 1 + (2 * k + 1) * total / (2 * number), lasts };
            cases.push(Case { of, fault, promise });
        }
    }
    cases
}

impl Case<'_> {
    /// Runs the command with the fault in `folder`, and again without it. Returns false if the
    /// call was not made: the order of threads varies.
    fn holds(&self, folder: &Path, report: &Path) -> Result<bool, String> {
        let _ = fs::remove_dir_all(folder);
        let _ = fs::remove_file(report);
        let Prepared { scenario, origin, old, new, shorter, .. } = self.of;
        scenario.begin(origin, folder);
        let inputs = |folder: &Path| (files(&folder.join("base")), fs::read(folder.join("rows.jsonl")).ok());
        let inputs_before = inputs(folder);
        let mut command = horizon(folder, &scenario.command);
        inject::load(&mut command, folder, Some(self.fault), report);
        let (ran, report) = (run(command), inject::report(report));
        let is_hit = report.hit.is_some();
        self.ended_as_promised(&ran, &report)?;
        complete(folder)?;
        let shorter = if ran.code() == Some(1) { shorter } else { &[][..] };
        old_or_new(folder, old, new, shorter)?;
        if inputs(folder) != inputs_before {
            return Err("changed input".to_owned());
        }
        let is_harmless = ran.code() == Some(0) && !ran.err.contains("warning:");
        // The next run removes what a failed removal has left.
        if !is_harmless || clean(folder).is_err() {
            if self.promise == Promise::Named && !self.fault.lasts {
                Results::of(folder)?;
            }
            let again = scenario.resume.filter(|_| !steps(folder).is_empty());
            let again = run(horizon(folder, again.unwrap_or(&scenario.command)));
            if again.code() != Some(0) {
                return Err(format!("no second try: {}", again.err));
            }
            complete(folder)?;
        }
        let mut found = Results::of(folder)?;
        if ran.err.contains("without a log") {
            // The records up to the fault are there.
            found.log.extend(new.log.iter().skip(found.log.len()).copied().collect::<Vec<_>>());
        }
        equal(&found, new)?;
        if inputs(folder) != inputs_before {
            return Err("changed input".to_owned());
        }
        clean(folder)?;
        Ok(is_hit)
    }

    fn ended_as_promised(&self, ran: &Ran, report: &Report) -> Result<(), String> {
        let Some(status) = ran.status else { return Err("hang".to_owned()) };
        if ran.err.contains("panicked") {
            return Err(format!("panic: {}", ran.err));
        }
        let Some((_, path)) = &report.hit else {
            return if status.success() {
                Ok(())
            } else {
                Err(format!("failed without a fault: {}", ran.err))
            };
        };
        let is_silent = !ran.err.contains("error:") && !ran.err.contains("warning:");
        match (self.promise, status.code()) {
            (Promise::Killed, None) => Ok(()),
            (Promise::Harmless, Some(0)) if is_silent => Ok(()),
            (Promise::Named, Some(0)) if is_silent => Ok(()),
            (Promise::Named, Some(0 | 1)) if is_silent => Err("failed without a message".to_owned()),
            (Promise::Named, Some(0 | 1)) if self.fault.lasts || names_a_part(&ran.err, path) => Ok(()),
            (Promise::Named, Some(0 | 1)) => Err(format!("unnamed file: {path} in: {}", ran.err)),
            (Promise::Harmless, _) => Err(format!("not retried: {}", ran.err)),
            (_, code) => Err(format!("exit status {code:?} ({status}): {}", ran.err)),
        }
    }
}

/// True if a message has a component of a path, hidden names without what makes them temporary.
fn names_a_part(message: &str, path: &str) -> bool {
    let words = message.split(|c: char| !c.is_alphanumeric() && !"._-".contains(c));
    let words: Vec<_> = words.map(|word| word.trim_matches('.')).filter(|word| !word.is_empty()).collect();
    let is_name = |part: &str| {
        let rest = |word: &&str| part.trim_start_matches('.').strip_prefix(word);
        words.iter().filter_map(rest).any(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    // The folder of a file that is named.
    path.is_empty() || path == "/." || path.split('/').any(is_name)
}

#[test]
fn a_fault_at_any_call_loses_nothing() {
    let scenarios = scenarios();
    let origin = workplace();
    let scratch = tempfile::tempdir_in(origin.path().parent().unwrap()).unwrap();
    let shorter = [1, 2, 3].map(|steps| {
        let folder = scratch.path().join(format!("{steps} steps"));
        copy(origin.path(), &folder);
        run(horizon(&folder, &format!("{TRAIN} --steps {steps} --out hf"))).succeeded();
        export(&folder)
    });
    let prepared =
        scenarios.each_ref().map(|scenario| prepare(scenario, origin.path(), scratch.path(), &shorter));
    assert_eq!(prepared[0].new, prepared[1].new, "a run in one piece and a run in two");
    let sample = (!is_long()).then_some(1);
    let cases: Vec<_> = prepared.iter().flat_map(|prepared| cases(prepared, sample)).collect();

    let (next, hits, findings) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for worker in 0..thread::available_parallelism().map_or(1, |cores| cores.get()) {
            let (folder, report) = (
                scratch.path().join(format!("case {worker}")),
                scratch.path().join(format!("report {worker}")),
            );
            let (cases, next, hits, findings) = (&cases, &next, &hits, &findings);
            scope.spawn(move || {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let held = case.holds(&folder, &report);
                    hits.fetch_add(usize::from(inject::report(&report).hit.is_some()), Ordering::Relaxed);
                    if let Err(finding) = held {
                        let (kind, path) = inject::report(&report).hit.unwrap_or_default();
                        let Fault { action, at, lasts, .. } = case.fault;
                        let name = case.of.scenario.name;
                        findings.lock().unwrap().push(format!(
                            "{finding}, {name}: {action:?} at call {at}{} ({kind} {path})",
                            if lasts { " and later" } else { "" }
                        ));
                    }
                }
            });
        }
    });
    let mut findings = findings.into_inner().unwrap();
    findings.sort();
    println!("injection: {} faults, {} lost", hits.into_inner(), findings.len());
    assert!(findings.is_empty(), "{} findings: {findings:#?}", findings.len());
}

#[test]
fn an_old_checkpoint_that_cannot_be_removed_is_a_warning() {
    let dir = workplace();
    let mut command = horizon(
        dir.path(),
        &format!("{TRAIN} --steps 2 --checkpoint-dir ckpts --checkpoint-every 1 --keep 1"),
    );
    let fault = Fault { action: Action::Fail(Errno::EACCES), calls: "remove", at: 1, lasts: true };
    inject::load(&mut command, dir.path(), Some(fault), Path::new("/dev/null"));
    let ran = run(command).succeeded();
    assert!(ran.err.contains("warning: step-00000002 is complete, but the old"), "{}", ran.err);
    assert!(ran.err.contains("step-00000001 cannot be removed"), "{}", ran.err);
    assert_eq!(steps(dir.path()).last().unwrap(), "step-00000002");
}
