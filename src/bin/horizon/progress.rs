//! Progress on standard error: a moving line on a terminal, plain lines elsewhere.

use std::path::Path;
use std::time::{Duration, Instant};

use horizon::base::format::{count, duration, shown};
use horizon::base::{Front, Message};
use horizon::engine::calibrate;
use horizon::train::Observer;
use horizon::train::metrics::StepRecord;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Progress of loading weights: a moving line on a terminal, removed at the end; nothing elsewhere.
pub struct Bytes(Option<ProgressBar>);

impl Bytes {
    /// `verb` opens the line; `shown` is false if nothing is to be printed.
    pub fn new(verb: &'static str, shown: bool) -> Bytes {
        let style = ProgressStyle::with_template(
            "{msg} {bar:20} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        )
        .expect("the template is well-formed");
        Bytes(shown.then(|| ProgressBar::no_length().with_style(style).with_message(verb)))
    }

    /// Shows that `done` of `total` bytes are loaded. Threads may call it out of order.
    pub fn moved(&self, done: u64, total: u64) {
        if let Some(bar) = self.0.as_ref().filter(|bar| !bar.is_finished()) {
            bar.set_length(total);
            bar.set_position(bar.position().max(done));
            if done == total {
                bar.finish_and_clear();
            }
        }
    }
}

/// Progress of a measurement: a moving line on a terminal, removed at the end; a line per part
/// elsewhere.
pub struct Measuring(Option<ProgressBar>);

impl Measuring {
    /// `terminal`: standard error is one.
    pub fn new(terminal: bool) -> Measuring {
        let style = ProgressStyle::with_template("measuring {bar:20} {elapsed} {wide_msg}")
            .expect("the template is well-formed");
        Measuring(terminal.then(|| ProgressBar::no_length().with_style(style)))
    }

    /// Shows the progress.
    pub fn at(&self, progress: &calibrate::Progress) {
        if let Some(bar) = &self.0 {
            let ms = |seconds: f64| (seconds * 1e3) as u64;
            bar.set_length(ms(progress.of));
            bar.set_position(ms(progress.done));
            bar.set_message(progress.next.to_owned());
        } else if !progress.next.is_empty() {
            let calibrate::Progress { next, done, of } = progress;
            message!("measuring {next} ({done:.0} of about {of:.0} s)");
        }
    }

    /// Removes the moving line.
    pub fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The progress of a run.
pub struct Progress {
    steps: u64,
    /// The line of the last step.
    last: String,
    kind: Kind,
    best_val: f64,
}

enum Kind {
    Quiet,
    Bar(ProgressBar),
    /// The time of the last line, if there was one.
    Lines(Option<Instant>),
}

/// A plain line is written for every hundredth of the run, and at least this often.
const LINES_AT_LEAST: Duration = Duration::from_secs(30);

/// Smallest share of a step spent waiting for data that the line mentions.
const WAIT_SHOWN: f64 = 0.02;

impl Progress {
    /// For a run of `steps` steps; `terminal`: standard error is one.
    pub fn new(steps: u64, terminal: bool, quiet: bool) -> Progress {
        let kind = if quiet {
            Kind::Quiet
        } else if terminal {
            let style = ProgressStyle::with_template("{bar:10} {pos}/{len} {wide_msg}")
                .expect("the template is well-formed");
            Kind::Bar(ProgressBar::new(steps).with_style(style))
        } else {
            Kind::Lines(None)
        };
        Progress { steps, last: String::new(), kind, best_val: f64::INFINITY }
    }

    /// Prints a message, unless quiet.
    pub fn say(&self, message: &str) {
        match &self.kind {
            Kind::Quiet => {}
            Kind::Bar(bar) => bar.suspend(|| message!("{message}")),
            Kind::Lines(_) => message!("{message}"),
        }
    }

    /// Ends the moving line, which stays; later messages are below it.
    pub fn finish(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.abandon_with_message(self.last.clone());
            message!("");
            self.kind = Kind::Lines(None);
        }
    }
}

impl Observer for Progress {
    fn stepped(&mut self, record: &StepRecord, steps: u64, remaining: f64) {
        if let Some(val_loss) = record.val_loss {
            self.best_val = self.best_val.min(val_loss);
            let best = if val_loss > self.best_val {
                format!(" (best {:.4})", self.best_val)
            } else {
                String::new()
            };
            self.say(&format!("step {}: validation loss {val_loss:.4}{best}", record.step));
        }
        let start = format!("loss {:.4}  norm {:.3}  lr {:.2e}", record.loss, record.grad_norm, record.lr);
        let tokens_per_second = count(record.tokens_per_second);
        let share = record.data_seconds / record.step_seconds;
        let waits = if share >= WAIT_SHOWN {
            format!("  {:.0} % waiting for data", 100.0 * share)
        } else {
            String::new()
        };
        let rest = duration(remaining);
        let last = record.step == steps;
        match &mut self.kind {
            Kind::Quiet => {}
            Kind::Bar(bar) => {
                // Fits 80 columns; a narrower terminal shows the beginning.
                self.last = format!("{start}  {tokens_per_second} tok/s  {rest} left{waits}");
                bar.set_message(self.last.clone());
                bar.set_position(record.step);
            }
            Kind::Lines(written) => {
                let every = self.steps.div_ceil(100).max(1);
                if record.step.is_multiple_of(every)
                    || last
                    || written.is_none_or(|written| written.elapsed() >= LINES_AT_LEAST)
                {
                    message!(
                        "step {}/{steps}  {start}  {tokens_per_second} tokens/s  {:.3} TFLOP/s  {rest} left{waits}",
                        record.step,
                        record.tflops
                    );
                    *written = Some(Instant::now());
                }
            }
        }
    }

    fn saved(&mut self, step: u64, folder: &Path) {
        self.say(&format!("step {step}: wrote a checkpoint to {}", shown(folder)));
    }

    fn exporting(&self, done: u64, total: u64) {
        if let Kind::Bar(bar) = &self.kind {
            bar.set_message(format!("exporting: {} of {}", HumanBytes(done), HumanBytes(total)));
        }
    }

    fn warned(&mut self, message: &Message) {
        let message = message.render(Front::Command);
        match &self.kind {
            Kind::Bar(bar) => bar.suspend(|| message!("warning: {message}")),
            Kind::Quiet | Kind::Lines(_) => message!("warning: {message}"),
        }
    }
}
