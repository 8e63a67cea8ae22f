//! Metrics of a run: the log with one record per step, useful FLOPs, and the estimate of the
//! remaining time.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use crate::base::{Error, Result, Status};
use crate::device::Lane;
use crate::model::{ModelConfig, matmul_parameters};

/// Useful FLOPs of a training step: recomputation and padding are not counted.
///
/// ```text
/// FLOP = 6 · P_matmul · tokens + 12 · H · D · (L · pairs − L_window · outside)
/// ```
///
/// `P_matmul` is the number of weights in matmuls: all weights except norms and the embedding; the
/// head counts even if it is tied to the embedding. Each does one multiplication and one addition
/// per token forward, and twice that backward. `pairs` is the number of (query, key) pairs of
/// causal attention: N·(T + 1)/2 for N tokens in sequences of T that are one document each. In
/// every head each pair costs 2·D multiply-adds forward and 4·D backward. `outside` is the number
/// of these pairs outside the sliding window; L_window layers skip them. (Kaplan et al. 2020, table
/// 1; the causal half as in PaLM, appendix B.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsefulWork {
    per_token: f64,
    per_pair: f64,
    per_pair_outside: f64,
    /// Size of the sliding window; 0 if there is none.
    window: usize,
}

impl UsefulWork {
    /// Prepares the formula for a model.
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
            per_pair_outside: per_pair(windowed),
            window,
        }
    }

    /// Returns the FLOPs of training on `tokens` tokens with `attention_pairs` (query, key) pairs,
    /// `outside` of them outside the window.
    pub fn flop(&self, tokens: u64, attention_pairs: u64, outside: u64) -> f64 {
        self.per_token * tokens as f64 + self.per_pair * attention_pairs as f64
            - self.per_pair_outside * outside as f64
    }

    /// Counts the causal pairs outside the model's window, in sequences of `t` tokens. `starts` has
    /// the index in its sequence at which each token's document starts; `None` if every sequence is
    /// one document.
    pub fn pairs_outside(&self, tokens: usize, t: usize, starts: Option<&[i32]>) -> u64 {
        if self.window == 0 {
            return 0;
        }
        let causal = |n: usize| n % t + 1 - starts.map_or(0, |starts| starts[n] as usize);
        (0..tokens).map(|n| causal(n).saturating_sub(self.window) as u64).sum()
    }
}

/// One record of the log, written after every step. The fields are the log's JSON keys.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepRecord {
    /// Number of completed optimizer steps, this one included.
    pub step: u64,
    /// Mean negative log-likelihood over the step's targets, in nats.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Number of tokens of the step, without padding.
    pub tokens: u64,
    /// Epochs of the data completed after the step, with a fractional part.
    pub epoch: f64,
    /// Seconds from the end of the previous step to the end of this one, without validation.
    pub step_seconds: f64,
    /// Seconds, within `step_seconds`, that the step waited for its batch.
    pub data_seconds: f64,
    /// Throughput: `tokens / step_seconds`.
    pub tokens_per_second: f64,
    /// Useful TFLOP/s: [`UsefulWork::flop`] / `step_seconds` / 10¹².
    pub tflops: f64,
    /// Bytes of RAM resident in this process, [`resident_bytes`](crate::host::resident_bytes).
    pub rss_bytes: usize,
    /// Seconds a step takes as predicted by the search for a plan; absent without a search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_step_seconds: Option<f64>,
    /// Lanes, indexed by [`Lane::at`]; in the log an object with the lanes' names as keys.
    #[serde(serialize_with = "by_name")]
    pub lanes: [LaneRecord; Lane::COUNT],
    /// Mean negative log-likelihood of the validation data after this step, in nats; absent if not
    /// evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
}

/// A lane in a [`StepRecord`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LaneRecord {
    /// Seconds that the lane was busy with tasks of training steps and saves that ended since the
    /// previous record. Steps overlap: most of the AdamW time in a record belongs to the previous
    /// step, and that of the last step is in no record. Validation is not counted, but AdamW that
    /// runs during it is.
    pub busy_seconds: f64,
    /// Seconds the lane is busy in a step without a save, as predicted by the search for a plan;
    /// absent without a search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_seconds: Option<f64>,
}

fn by_name<S: Serializer>(lanes: &[LaneRecord; Lane::COUNT], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(Lane::ALL.iter().map(|lane| (lane.name(), lanes[lane.at()])))
}

/// The log: a file with one JSON object per line, written after every step.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
    /// Bytes of complete lines.
    complete: u64,
}

impl JsonLines {
    /// Creates a log; replaces an existing file.
    pub fn create(path: &Path) -> Result<JsonLines> {
        let file = File::create(path)
            .map_err(|error| Error::io(format!("cannot write the log {}", path.display()), &error))?;
        Ok(JsonLines { path: path.to_owned(), file, complete: 0 })
    }

    /// Opens the log of a run that resumes after `step`. Records of later steps are removed. After
    /// step 0, or if there is no file, creates a new log.
    ///
    /// Errors: the file cannot be read or written, or its first line is not a record (`BadFormat`).
    pub fn resume(path: &Path, step: u64) -> Result<JsonLines> {
        #[derive(Deserialize)]
        struct Stepped {
            step: u64,
        }
        if step == 0 || !path.exists() {
            return JsonLines::create(path);
        }
        let cannot =
            |error: io::Error| Error::io(format!("cannot continue the log {}", path.display()), &error);
        let mut file = File::options().read(true).write(true).open(path).map_err(cannot)?;
        let (mut complete, mut line, mut lines) = (0, Vec::new(), BufReader::new(&file));
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(cannot)? == 0 {
                break;
            }
            // A killed process may have left an incomplete last line.
            match serde_json::from_slice::<Stepped>(&line) {
                Ok(record) if record.step <= step && line.ends_with(b"\n") => complete += line.len() as u64,
                Err(_) if complete == 0 => {
                    return Err(Error::new(
                        Status::BadFormat,
                        format!("{} is not the log of a run; give another file", path.display()),
                    ));
                }
                _ => break,
            }
        }
        file.set_len(complete).map_err(cannot)?;
        file.seek(SeekFrom::End(0)).map_err(cannot)?;
        Ok(JsonLines { path: path.to_owned(), file, complete })
    }

    /// Appends a record. After an error the file ends with the previous record.
    pub fn write(&mut self, record: &StepRecord) -> Result<()> {
        let mut line = serde_json::to_vec(record).map_err(|error| Error::internal(error.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|error| {
            let _ = self.file.set_len(self.complete);
            Error::io(format!("cannot write the log {}", self.path.display()), &error)
        })?;
        self.complete += line.len() as u64;
        Ok(())
    }
}

/// Estimates the remaining time from the median of the last 15 steps, so that a single slow step
/// has no effect.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    last: VecDeque<f64>,
}

impl Pace {
    const STEPS: usize = 15;

    /// Adds the time of a step.
    pub fn push(&mut self, step_seconds: f64) {
        if self.last.len() == Self::STEPS {
            self.last.pop_front();
        }
        self.last.push_back(step_seconds);
    }

    /// Returns the estimated seconds for `steps` more steps; 0 before the first.
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

    /// LLaMA 7B: 6.607e9 weights in matmuls (6.738e9 in total, without embedding and norms).
    #[test]
    fn useful_work_is_six_p_and_causal_attention() {
        let dims = Dims { c: 4096, h: 32, g: 32, d: 128, f: 11008, v: 32000, l: 32 };
        let model = ModelConfig { positions_max: 4096, ..ModelConfig::llama(dims) };
        let work = UsefulWork::new(&model);
        assert_eq!(work.flop(1, 0, 0), 6.0 * 6_607_077_376.0);
        // One sequence of 2048: 2048·2049/2 pairs, per token close to 6·L·C·T.
        let pairs = 2048 * 2049 / 2;
        let per_token = work.flop(0, pairs, 0) / 2048.0;
        assert_eq!(per_token, 6.0 * 32.0 * 4096.0 * 2049.0);
    }

    /// A window of 3 in one of two layers.
    #[test]
    fn pairs_outside_a_window_are_not_useful_work() {
        let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 2 };
        let window = Window { size: 3, layers: vec![false, true] };
        let work = UsefulWork::new(&ModelConfig { window: Some(window), ..ModelConfig::llama(dims) });
        // The tokens of a sequence of 5 have 1, 2, 3, 4, 5 pairs, 1 + 2 of them outside. With
        // `starts` the second sequence is two documents, of 4 tokens and of 1.
        let starts = [0, 0, 0, 0, 0, 0, 0, 0, 0, 4];
        assert_eq!(work.pairs_outside(10, 5, None), 2 * (1 + 2));
        assert_eq!(work.pairs_outside(10, 5, Some(&starts)), (1 + 2) + 1);
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
    fn a_log_is_resumed_after_the_step_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let full = "{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n{\"step\":3}\n";
        for (text, step, want) in [
            (full, 2, "{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n"),
            (full, 9, full),
            (full, 0, ""),
            (&full[..full.len() - 1], 3, "{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n"),
            (&full[..full.len() - 6], 3, "{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n"),
            ("{\"step\":4}\n", 3, ""),
            ("", 3, ""),
        ] {
            std::fs::write(&path, text).unwrap();
            JsonLines::resume(&path, step).unwrap().file.write_all(b"more").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{want}more"), "{text} after {step}");
        }
        std::fs::write(&path, "another file\n").unwrap();
        let error = JsonLines::resume(&path, 1).unwrap_err();
        assert!(error.message().contains("is not the log of a run"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "another file\n");
        std::fs::remove_file(&path).unwrap();
        JsonLines::resume(&path, 1).unwrap();
    }

    #[test]
    fn the_remaining_time_follows_the_median_step() {
        let mut pace = Pace::default();
        assert_eq!(pace.remaining(5), 0.0);
        [9.0, 1.0, 1.0, 1.0].into_iter().for_each(|s| pace.push(s));
        assert_eq!(pace.remaining(5), 5.0);
        (0..15).for_each(|_| pace.push(2.0));
        assert_eq!(pace.remaining(5), 10.0);
    }
}
