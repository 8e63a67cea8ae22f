//! What a run reports of itself: one record a step, and how much of the work was useful.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use crate::base::{Error, Result, Status};
use crate::device::Lane;
use crate::model::{ModelConfig, matmul_parameters};

/// Floating-point operations of a training step that are useful: no recompute is counted, no padding.
///
/// ```text
/// FLOP = 6 · P_matmul · tokens + 12 · H · D · (L · attended − L_window · beyond)
/// ```
///
/// `P_matmul` are the weights of matrix products: all but norms and the embedding's rows, the head's product
/// included though it may share the embedding's weights. Each does one multiplication and one addition per
/// token forward, and twice that backward. `attended` counts the (query, key) pairs of causal attention, N·(T + 1)/2 for
/// N tokens in rows of T without document bounds; each costs two products of D, forward once and
/// backward twice, in every head. `beyond` counts those of them that are farther apart than a sliding window, which
/// L_window layers pass over. (Kaplan et al. 2020, table 1; the causal half as in PaLM, appendix B.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsefulWork {
    per_token: f64,
    per_pair: f64,
    per_pair_beyond: f64,
    /// 0 without one.
    window: usize,
}

impl UsefulWork {
    /// The work of a model.
    pub fn new(model: &ModelConfig) -> UsefulWork {
        let dims = &model.dims;
        let (window, windowed) = model
            .window
            .as_ref()
            .map_or((0, 0), |window| (window.size, window.layers.iter().filter(|&&holds| holds).count()));
        let per_pair = |layers: usize| 12.0 * (layers * dims.attention_width()) as f64;
        UsefulWork {
            per_token: 6.0 * matmul_parameters(model),
            per_pair: per_pair(dims.l),
            per_pair_beyond: per_pair(windowed),
            window,
        }
    }

    /// FLOP of training on `tokens` tokens with `attended` (query, key) pairs, `beyond` of them beyond the window.
    pub fn flop(&self, tokens: u64, attention_pairs: u64, beyond: u64) -> f64 {
        self.per_token * tokens as f64 + self.per_pair * attention_pairs as f64
            - self.per_pair_beyond * beyond as f64
    }

    /// Pairs beyond the model's window in rows of `t` tokens, whose documents start where `starts` says.
    pub fn beyond(&self, tokens: usize, t: usize, starts: Option<&[i32]>) -> u64 {
        if self.window == 0 {
            return 0;
        }
        let seen = |n: usize| n % t + 1 - starts.map_or(0, |starts| starts[n] as usize);
        (0..tokens).map(|n| seen(n).saturating_sub(self.window) as u64).sum()
    }
}

/// One step, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepRecord {
    /// Optimizer steps done, counted from 1.
    pub step: u64,
    /// Mean negative log-likelihood over the step's targets, nats.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Tokens of this step, padding left out.
    pub tokens: u64,
    /// Epochs of the data that are done, a fraction.
    pub epoch: f64,
    /// From the end of the last step to the end of this one, validation left out.
    pub step_seconds: f64,
    /// The part of it that the step waited for its batch.
    pub data_seconds: f64,
    /// `tokens / step_seconds`.
    pub tokens_per_second: f64,
    /// [`UsefulWork`] over `step_seconds`, 10¹² FLOP/s.
    pub tflops: f64,
    /// What this process holds of RAM, [`resident_bytes`](crate::host::resident_bytes).
    pub rss_bytes: usize,
    /// `step_seconds` as the plan's search predicted it, if the run follows one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_step_seconds: Option<f64>,
    /// What every lane did, by [`Lane::at`]; in the log by its name.
    #[serde(serialize_with = "by_name")]
    pub lanes: [LaneRecord; Lane::COUNT],
    /// Mean negative log-likelihood of the validation data after this step, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
}

/// A lane in a [`StepRecord`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LaneRecord {
    /// How long the lane was at tasks of training steps, and of saves, that have ended since the record before. Steps
    /// overlap: what a step's record counts of AdamW is for the most part that of the step before, and the last step's is in
    /// no record. Validation does not count; AdamW that runs under it does.
    pub busy_seconds: f64,
    /// The same of a step beside which nothing is saved, as the plan's search predicted it, if the run follows one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_seconds: Option<f64>,
}

fn by_name<S: Serializer>(lanes: &[LaneRecord; Lane::COUNT], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(Lane::ALL.iter().map(|lane| (lane.name(), lanes[lane.at()])))
}

/// A file of records, one JSON object a line, each line written as soon as it is known.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    whole: u64,
}

impl JsonLines {
    /// Begins a log; an earlier file of that name is replaced.
    pub fn create(path: &Path) -> Result<JsonLines> {
        let file = File::create(path)
            .map_err(|error| Error::io(format!("cannot write the log {}", path.display()), &error))?;
        Ok(JsonLines { path: path.to_owned(), file, whole: 0 })
    }

    /// Goes on with the log of a run after `step`: the records up to it stay, whatever follows goes. After step 0 that
    /// is a new log.
    ///
    /// Errors: it cannot be read or written, or it begins with a line that is no record (`BadFormat`).
    pub fn go_on(path: &Path, step: u64) -> Result<JsonLines> {
        #[derive(Deserialize)]
        struct Stepped {
            step: u64,
        }
        if step == 0 || !path.exists() {
            return JsonLines::create(path);
        }
        let cannot =
            |error: io::Error| Error::io(format!("cannot go on with the log {}", path.display()), &error);
        let mut file = File::options().read(true).write(true).open(path).map_err(cannot)?;
        let (mut whole, mut line, mut lines) = (0, Vec::new(), BufReader::new(&file));
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(cannot)? == 0 {
                break;
            }
            // What a killed process was writing last may be part of a line.
            match serde_json::from_slice::<Stepped>(&line) {
                Ok(record) if record.step <= step && line.ends_with(b"\n") => whole += line.len() as u64,
                Err(_) if whole == 0 => {
                    return Err(Error::new(
                        Status::BadFormat,
                        format!("{} is not the log of a run; name another file", path.display()),
                    ));
                }
                _ => break,
            }
        }
        file.set_len(whole).map_err(cannot)?;
        file.seek(SeekFrom::End(0)).map_err(cannot)?;
        Ok(JsonLines { path: path.to_owned(), file, whole })
    }

    /// Appends a record, or says why it cannot; then the file ends with the record before.
    pub fn write(&mut self, record: &StepRecord) -> Result<()> {
        let mut line = serde_json::to_vec(record).map_err(|error| Error::internal(error.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|error| {
            let _ = self.file.set_len(self.whole);
            Error::io(format!("cannot write the log {}", self.path.display()), &error)
        })?;
        self.whole += line.len() as u64;
        Ok(())
    }
}

/// The pace of a run, from the median of its last steps: one slow step does not shake it.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    last: VecDeque<f64>,
}

impl Pace {
    const STEPS: usize = 15;

    /// Takes in a step.
    pub fn push(&mut self, step_seconds: f64) {
        if self.last.len() == Self::STEPS {
            self.last.pop_front();
        }
        self.last.push_back(step_seconds);
    }

    /// Seconds that `steps` more steps take; 0 before the first.
    pub fn remaining(&self, steps: u64) -> f64 {
        let mut sorted: Vec<f64> = self.last.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0) * steps as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Dims;
    use crate::model::Window;

    /// LLaMA 7B: 6.607e9 matrix weights (6.738e9 in all, less embedding and norms).
    #[test]
    fn useful_work_is_six_p_and_causal_attention() {
        let dims = Dims { c: 4096, h: 32, g: 32, d: 128, f: 11008, v: 32000, l: 32 };
        let model = ModelConfig { positions_max: 4096, ..ModelConfig::llama(dims) };
        let work = UsefulWork::new(&model);
        assert_eq!(work.flop(1, 0, 0), 6.0 * 6_607_077_376.0);
        // One row of 2048: pairs 2048·2049/2, per token close to 6·L·C·T.
        let pairs = 2048 * 2049 / 2;
        let per_token = work.flop(0, pairs, 0) / 2048.0;
        assert_eq!(per_token, 6.0 * 32.0 * 4096.0 * 2049.0);
    }

    /// A window of 3 in one of two layers.
    #[test]
    fn what_a_window_passes_over_is_no_work() {
        let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 2 };
        let window = Window { size: 3, layers: vec![false, true] };
        let work = UsefulWork::new(&ModelConfig { window: Some(window), ..ModelConfig::llama(dims) });
        // Rows of 5 see 1, 2, 3, 4, 5: 1 + 2 too many; the second row is two documents of 4 and 1.
        let starts = [0, 0, 0, 0, 0, 0, 0, 0, 0, 4];
        assert_eq!(work.beyond(10, 5, None), 2 * (1 + 2));
        assert_eq!(work.beyond(10, 5, Some(&starts)), (1 + 2) + 1);
        assert_eq!(work.flop(0, 15, 3), 12.0 * 8.0 * (15.0 + 12.0));
    }

    #[test]
    fn a_record_is_one_line_of_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let mut record = StepRecord {
            step: 1,
            loss: 5.5,
            grad_norm: 2.0,
            lr: 1e-3,
            tokens: 512,
            epoch: 0.25,
            step_seconds: 0.5,
            data_seconds: 0.0,
            tokens_per_second: 1024.0,
            tflops: 0.01,
            rss_bytes: 0,
            predicted_step_seconds: None,
            lanes: Default::default(),
            val_loss: None,
        };
        std::fs::write(&path, "an old log\n").unwrap();
        let mut log = JsonLines::create(&path).unwrap();
        record.lanes[Lane::Compute.at()].busy_seconds = 0.25;
        log.write(&record).unwrap();
        record.val_loss = Some(5.25);
        log.write(&record).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            concat!(
                r#"{"step":1,"loss":5.5,"grad_norm":2.0,"lr":0.001,"tokens":512,"epoch":0.25,"step_seconds":0.5,"#,
                r#""data_seconds":0.0,"tokens_per_second":1024.0,"tflops":0.01,"rss_bytes":0,"lanes":{"#,
                r#""compute":{"busy_seconds":0.25},"h2d":{"busy_seconds":0.0},"d2h":{"busy_seconds":0.0},"#,
                r#""host":{"busy_seconds":0.0},"disk":{"busy_seconds":0.0}}}"#
            )
        );
        assert!(lines[1].ends_with(r#""val_loss":5.25}"#) && lines.len() == 2);
        assert!(JsonLines::create(dir.path()).is_err());
    }

    #[test]
    fn a_log_goes_on_where_the_run_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let whole = "{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n{\"step\":3}\n";
        for (text, step, want) in [
            (whole, 2, "{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n"),
            (whole, 9, whole),
            (whole, 0, ""),
            (&whole[..whole.len() - 1], 3, "{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n"),
            (&whole[..whole.len() - 6], 3, "{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n"),
            ("{\"step\":4}\n", 3, ""),
            ("", 3, ""),
        ] {
            std::fs::write(&path, text).unwrap();
            JsonLines::go_on(&path, step).unwrap().file.write_all(b"more").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{want}more"), "{text} after {step}");
        }
        std::fs::write(&path, "years of work\n").unwrap();
        let error = JsonLines::go_on(&path, 1).unwrap_err();
        assert!(error.message().contains("is not the log of a run"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "years of work\n");
        std::fs::remove_file(&path).unwrap();
        JsonLines::go_on(&path, 1).unwrap();
    }

    #[test]
    fn the_pace_is_a_median() {
        let mut pace = Pace::default();
        assert_eq!(pace.remaining(5), 0.0);
        [9.0, 1.0, 1.0, 1.0].into_iter().for_each(|s| pace.push(s));
        assert_eq!(pace.remaining(5), 5.0);
        (0..15).for_each(|_| pace.push(2.0));
        assert_eq!(pace.remaining(5), 10.0);
    }
}
