//! L9, training data: text, chats and token files become windows of tokens.
//!
//! A source is a token file, all text files of one weight, or all JSONL files of one weight, its documents end to end.
//! There are two ways to windows of S inputs and, one token on, their S targets:
//!
//! - **As a stream**: window k is tokens [k·S, k·S + S], the next starts S on; a rest too short for a window is left out.
//! - **Whole documents**: as many as fit, the last rows empty; of a document longer than S + 1 tokens the beginning
//!   is kept, and one without a target in it is left out. Both are counted.
//!
//! Where a document ends the next token is not a target (−100), attention does not cross, and positions restart.
//!
//! An epoch takes from each source as many windows as its weight says, and all of them are shuffled together by the seed and
//! the number of the epoch alone. So a place in the data is three numbers ([`Position`](crate::base::Position)), from which the stream
//! goes on exactly.
#![forbid(unsafe_code)]

pub mod chat;
mod documents;
mod encode;
mod feeder;
mod jsonl;
mod loader;
mod order;
mod pack;
mod rows;
mod source;
mod split;
mod text;
mod token_file;
mod token_stream;
mod token_writer;
pub mod tokenizer;

use std::fmt;
use std::sync::Arc;

use crate::base::{Error, Result};

pub use documents::Documents;
pub use encode::{Encoder, EncoderSource};
pub use feeder::{Feeder, StepData};
pub use jsonl::{BadLines, Skipped};
pub use loader::{Loader, Micro};
pub use order::Order;
pub use rows::Row;
pub use source::{DataPath, Packing, Sink, read_documents};
pub use token_file::{TokenFile, TokenFormat};
pub use token_stream::{Cells, Filled, LeftOut};
pub use token_writer::TokenWriter;

use source::{Opened, open_sources};
use split::Split;
use token_stream::{TokenStream, Tokens};
use tokenizer::fingerprint;

/// How data is read.
#[derive(Clone, Copy, Debug)]
pub struct DataOptions {
    /// S: tokens of a window.
    pub seq_len: usize,
    /// How documents become windows.
    pub packing: Packing,
    /// What is done about a line that cannot be used.
    pub bad_lines: BadLines,
    /// Threads that tokenize.
    pub threads: usize,
}

impl DataOptions {
    /// Windows of so many tokens, everything else as usual.
    pub fn new(seq_len: usize) -> DataOptions {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        DataOptions { seq_len, packing: Packing::Auto, bad_lines: BadLines::Refuse, threads }
    }
}

/// What was read, and what of it is not learned from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataReport {
    /// Tokens of all sources.
    pub tokens: u64,
    /// Documents, where they are known.
    pub documents: u64,
    /// What packing left out.
    pub left_out: LeftOut,
    /// Lines that were passed over.
    pub skipped: Skipped,
    /// Rows of windows of whole documents, and those of them that stay empty.
    pub packed_rows: (u64, u64),
}

impl fmt::Display for DataReport {
    /// What a person should know of it, a line each; nothing if all is learned from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LeftOut { truncated, cut_tokens, targetless } = self.left_out;
        if let (rows @ 1.., empty) = self.packed_rows {
            writeln!(
                f,
                "whole documents: {:.1} % of the windows' rows stay empty",
                100.0 * empty as f64 / rows as f64
            )?;
        }
        if truncated > 0 {
            writeln!(
                f,
                "truncated: {truncated} of {} documents are longer than a window; {cut_tokens} tokens are cut off",
                self.documents
            )?;
        }
        if targetless > 0 {
            writeln!(f, "left out: {targetless} documents have nothing to learn within a window")?;
        }
        if let Some(first) = &self.skipped.first {
            writeln!(f, "skipped: {} lines cannot be used, the first: {first}", self.skipped.lines)?;
        }
        Ok(())
    }
}

/// The windows that are taken from a stream.
#[derive(Clone, Debug)]
struct Source {
    stream: Arc<TokenStream>,
    split: Split,
    weight: f64,
    /// Windows an epoch takes, and those it takes from sources before this one.
    draws: u64,
    before: u64,
}

/// Sources cut into windows of S tokens.
#[derive(Clone, Debug)]
pub struct Data {
    sources: Vec<Source>,
    windows: u64,
    seq_len: usize,
    report: DataReport,
    fingerprint: u64,
}

impl Data {
    /// Opens what `paths` name: token files (`.bin`, `.u16`, `.u32`), JSONL (`.jsonl`, `.json`), text files, folders of
    /// text.
    ///
    /// The encoder is opened only if there is text or JSONL. Errors name the path and the line: not found, not
    /// understood, a token beyond the vocabulary, too little for one window.
    pub fn open(paths: &[DataPath], encoder: &EncoderSource, options: &DataOptions) -> Result<Data> {
        let mut report = DataReport::default();
        let sources =
            open_sources(paths, encoder, options.bad_lines, options.threads.max(1), &mut report.skipped)?;
        let names: Vec<String> = paths.iter().map(|data| data.path.display().to_string()).collect();
        Data::assemble(sources, options, report).map_err(|error| error.within(names.join(", ")))
    }

    /// Documents that are already in memory, as a stream.
    pub fn from_documents(documents: Documents, seq_len: usize) -> Result<Data> {
        let source = Opened { tokens: Tokens::Memory(documents), keeps_documents: false, weight: 1.0 };
        Data::assemble(vec![source], &DataOptions::new(seq_len), DataReport::default())
    }

    /// A token file that is already open.
    pub fn from_tokens(file: TokenFile, options: &DataOptions) -> Result<Data> {
        let keeps_documents = file.keeps_documents();
        let source = Opened { tokens: Tokens::File(file), keeps_documents, weight: 1.0 };
        Data::assemble(vec![source], options, DataReport::default())
    }

    fn assemble(sources: Vec<Opened>, options: &DataOptions, mut report: DataReport) -> Result<Data> {
        let seq_len = options.seq_len;
        if seq_len == 0 {
            return Err(Error::argument(
                "a window of 0 tokens teaches nothing; the sequence length must be ≥ 1",
            ));
        }
        let mut taken = Vec::new();
        for Opened { tokens, keeps_documents, weight } in sources {
            report.tokens += tokens.count();
            report.documents += tokens.starts().len() as u64;
            let whole = match options.packing {
                Packing::Auto => keeps_documents,
                Packing::Stream => false,
                // A file without bounds has no documents to keep.
                Packing::Documents => !tokens.starts().is_empty(),
            };
            let stream = if whole {
                let (stream, left_out) = TokenStream::packed(tokens, seq_len);
                report.left_out += left_out;
                let rows = stream.windows() * seq_len as u64;
                report.packed_rows.0 += rows;
                report.packed_rows.1 += rows - stream.filled_rows();
                stream
            } else {
                TokenStream::cut(tokens, seq_len)
            };
            let split = Split::All { windows: stream.windows() };
            taken.push((Arc::new(stream), split, weight));
        }
        let data = Data::of_parts(taken, seq_len, report)?;
        match data.windows {
            0 if data.report.packed_rows.0 > 0 || data.report.left_out.targetless > 0 => {
                Err(Error::argument(format!(
                    "none of {} documents has anything to learn within a window of {seq_len} tokens; give a longer \
                     sequence length",
                    data.report.documents
                )))
            }
            0 => Err(Error::argument(format!(
                "{} tokens are too few: one window of {seq_len} takes {} in one stream; give more data or a shorter \
                 sequence length",
                data.report.tokens,
                seq_len + 1
            ))),
            _ => Ok(data),
        }
    }

    fn of_parts(
        taken: Vec<(Arc<TokenStream>, Split, f64)>,
        seq_len: usize,
        report: DataReport,
    ) -> Result<Data> {
        let mut windows = 0;
        let mut sources = Vec::new();
        for (stream, split, weight) in taken.into_iter().filter(|(_, split, _)| split.len() > 0) {
            let draws = if weight == 1.0 {
                split.len()
            } else {
                ((split.len() as f64 * weight).round() as u64).max(1)
            };
            sources.push(Source { stream, split, weight, draws, before: windows });
            windows += draws;
        }
        let mut data = Data { sources, windows, seq_len, report, fingerprint: 0 };
        data.fingerprint = data.print()?;
        Ok(data)
    }

    /// Holds out a share of every source's windows, evenly spread, for validation. Of a source of one window nothing is.
    ///
    /// Errors: the fraction is not between 0 and 1, or nothing can be held out.
    pub fn hold_out(self, fraction: f64) -> Result<(Data, Data)> {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(Error::argument(format!(
                "the validation fraction is {fraction}; it must be between 0 and 1"
            )));
        }
        let (mut kept, mut held) = (Vec::new(), Vec::new());
        for Source { stream, weight, .. } in self.sources {
            match Split::of(stream.windows(), fraction) {
                Some((kept_part, held_part)) => {
                    kept.push((stream.clone(), kept_part, weight));
                    held.push((stream, held_part, 1.0));
                }
                None => {
                    let split = Split::All { windows: stream.windows() };
                    kept.push((stream, split, weight));
                }
            }
        }
        if held.is_empty() {
            return Err(Error::argument(
                "there are too few windows to hold any out for validation; give --val, or more data",
            ));
        }
        let report = DataReport::default();
        Ok((Data::of_parts(kept, self.seq_len, self.report)?, Data::of_parts(held, self.seq_len, report)?))
    }

    /// Windows of one epoch.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// S: tokens of a window.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// What was read.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// Tells data apart, for a run that goes on: a hash of sizes, weights, S, and some windows from all over.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Reads the window that is taken at `position`, counted from 0 over all epochs.
    pub fn window(&self, shuffle: Option<u64>, position: u64, cells: &mut Cells) -> Result<Filled> {
        let slot = Order { windows: self.windows, shuffle }.window(position);
        let at = self.sources.partition_point(|source| source.before <= slot) - 1;
        let Source { stream, split, draws, before, .. } = &self.sources[at];
        let mut index = slot - before;
        if *draws != split.len() {
            // Some of its windows, or some more than once: an order of its own, that goes on where the last epoch stopped.
            let taken = position / self.windows * draws + index;
            let shuffle = shuffle.map(|seed| seed ^ fingerprint(&(at as u64).to_le_bytes()));
            index = Order { windows: split.len(), shuffle }.window(taken);
        }
        stream.window(split.window(index), cells)
    }

    fn print(&self) -> Result<u64> {
        const SAMPLES: u64 = 64;
        let s = self.seq_len;
        let mut bytes = (s as u64).to_le_bytes().to_vec();
        let (mut tokens, mut targets, mut starts) = (vec![0; s], vec![0; s], vec![0; s]);
        for Source { stream, split, weight, .. } in &self.sources {
            for number in [stream.tokens().count(), stream.windows(), split.len(), weight.to_bits()] {
                bytes.extend(number.to_le_bytes());
            }
            let samples = split.len().min(SAMPLES);
            for sample in 0..samples {
                let index = (u128::from(sample) * u128::from(split.len()) / u128::from(samples)) as u64;
                let mut cells = Cells { tokens: &mut tokens, targets: &mut targets, starts: &mut starts };
                stream.window(split.window(index), &mut cells)?;
                for value in tokens.iter().chain(&targets).chain(&starts) {
                    bytes.extend(value.to_le_bytes());
                }
            }
        }
        Ok(fingerprint(&bytes))
    }
}

#[cfg(test)]
mod tests;
