//! L9, training data: turns text, chats and token files into windows of tokens.
//!
//! A source is one token file, all texts of one weight, or all rows of one weight. Its documents are
//! concatenated. A window has S inputs and S targets (the inputs shifted by one
//! token). There are two ways to cut windows:
//!
//! - **Token stream**: window k is tokens [k·S, k·S + S]; a remainder shorter than a window is
//!   unused, and a window without a supervised target is skipped.
//! - **Whole documents**: as many documents as fit share a window, the rest is padding. A document
//!   longer than S + 1 tokens is truncated; one without a supervised token in its window is
//!   skipped. Both are counted ([`LeftOut`]).
//!
//! Of a conversation the assistant's turns are supervised: each from behind its header to the token
//! that ends it, not the newline that templates write behind ([`chat`]). TRL supervises that
//! newline, too, where a row is a prompt with a completion.
//!
//! At a document's end there is no target (−100); attention does not cross the border, and
//! positions restart at 0.
//!
//! In an epoch each source contributes its number of windows times its weight. All windows of the
//! epoch are shuffled together; the order depends only on the seed and the epoch number. A
//! [`Position`](crate::base::Position) (epoch, window, seed) therefore suffices to resume exactly.
#![forbid(unsafe_code)]

pub mod chat;
mod documents;
mod encode;
mod feeder;
mod fingerprint;
mod loader;
mod order;
mod pack;
mod read;
mod rows;
mod source;
mod split;
mod token_file;
mod token_stream;
mod token_writer;
pub mod tokenizer;
mod turn_ends;
mod warning;

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::base::format::several;
use crate::base::{Error, Meter, Name, Progress, Result, phrase, unwatched};

pub use documents::Documents;
pub use encode::{Encoder, EncoderSource};
pub use feeder::{Feeder, StepData};
pub use fingerprint::Cache;
pub use loader::{Loader, Micro};
pub use order::Order;
pub use read::{BadLines, read_documents};
pub use rows::Row;
pub use source::{DataPath, Packing, Sink};
pub use token_file::{TokenFile, TokenFormat};
pub use token_stream::{Cells, Filled, LeftOut};
pub use token_writer::TokenWriter;
pub use turn_ends::TurnEnds;
pub use warning::{Warning, Warnings};

use fingerprint::{Hashing, hash_numbers};
use source::{Opened, open_sources};
use split::Split;
use token_stream::{TokenStream, Tokens};
use tokenizer::fingerprint;

/// Options for reading data.
#[derive(Clone, Copy, Debug)]
pub struct DataOptions {
    /// S: tokens of a window.
    pub seq_len: usize,
    /// Token stream or whole documents.
    pub packing: Packing,
    /// Handling of invalid JSONL lines.
    pub bad_lines: BadLines,
    /// Of a folder that has files for validation or test by their names, and others: only the
    /// former are read if true, only the others if false.
    pub validation: bool,
    /// Number of tokenizer threads.
    pub threads: usize,
}

impl DataOptions {
    /// Returns the defaults for windows of `seq_len` tokens.
    pub fn new(seq_len: usize) -> DataOptions {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        let (packing, bad_lines) = (Packing::Auto, BadLines::Refuse);
        DataOptions { seq_len, packing, bad_lines, validation: false, threads }
    }
}

/// Counts of the data read, and of the data not trained on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataReport {
    /// Tokens of all sources.
    pub tokens: u64,
    /// Documents of all sources; a token file without document starts counts as 0.
    pub documents: u64,
    /// Documents truncated or skipped by packing, and windows skipped.
    pub left_out: LeftOut,
    /// Special tokens that end trained turns.
    pub turn_ends: TurnEnds,
    /// Data that may not be as the user means it.
    pub warnings: Warnings,
    /// Token rows in windows of whole documents: (all, padding).
    pub packed_rows: (u64, u64),
}

impl DataReport {
    /// The share of padding in windows of whole documents; `None` without such windows.
    pub fn padding(&self) -> Option<f64> {
        let (rows, padding) = self.packed_rows;
        (rows > 0).then(|| padding as f64 / rows as f64)
    }
}

impl fmt::Display for DataReport {
    /// Writes the [warnings](DataReport::warnings) and one line per kind of unused data; nothing if
    /// there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.warnings)?;
        let LeftOut { truncated, cut_tokens, targetless, targetless_windows } = self.left_out;
        let some = |number: u64, noun: &str, [one, more]: [&str; 2]| {
            format!("{} {}", several(number as usize, noun), if number == 1 { one } else { more })
        };
        let (are, have) = (["is", "are"], ["has", "have"]);
        if truncated > 0 {
            writeln!(
                f,
                "warning: truncated: {} longer than a window, of {} in all; {} cut off",
                some(truncated, "document", are),
                self.documents,
                some(cut_tokens, "token", are)
            )?;
        }
        if targetless > 0 {
            let documents = some(targetless, "document", have);
            writeln!(f, "warning: left out: {documents} no supervised tokens within a window")?;
        }
        if targetless_windows > 0 {
            let windows = some(targetless_windows, "window", have);
            writeln!(f, "warning: left out: {windows} no supervised tokens")?;
        }
        Ok(())
    }
}

/// The error for a source of which nothing can be trained on.
fn without_targets(tokens: &Tokens, seq_len: usize) -> Result<Error> {
    let documents = several(tokens.starts().len(), "document");
    Ok(Error::argument(if tokens.have_target()? {
        format!(
            "none of {documents} has supervised tokens within a window of {seq_len} tokens; give a longer sequence \
             length"
        )
    } else {
        format!(
            "there is nothing to train on in {documents}: every token is masked from the loss, or is the first of its \
             document, which nothing predicts; to see the masks: horizon tokenize --show 3"
        )
    }))
}

/// A token stream and the windows taken from it.
#[derive(Clone, Debug)]
struct Source {
    stream: Arc<TokenStream>,
    split: Split,
    weight: f64,
    /// Windows per epoch.
    draws: u64,
    /// Windows per epoch of the sources before this one.
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
    /// Opens token files, files of rows (JSON, Parquet, CSV), text files and folders of rows or text;
    /// gzip and zstd are decompressed.
    ///
    /// The encoder is opened only if there are rows or text. Errors name the path and the line:
    /// file not found, format not supported, line invalid, token outside the vocabulary, or too few
    /// tokens for one window.
    pub fn open(paths: &[DataPath], encoder: &EncoderSource, options: &DataOptions) -> Result<Data> {
        Data::open_with(paths, encoder, options, None, &unwatched)
    }

    /// As [`Data::open`], with a cache for the hashes of token files; `progress` counts their bytes.
    pub fn open_with(
        paths: &[DataPath],
        encoder: &EncoderSource,
        options: &DataOptions,
        cache: Option<&Cache>,
        progress: Progress,
    ) -> Result<Data> {
        let mut report = DataReport::default();
        let bytes = |data: &DataPath| std::fs::metadata(&data.path).map_or(0, |metadata| metadata.len());
        let is_tokens = |data: &&DataPath| TokenFormat::of(&data.path).is_some();
        let meter = Meter::new(paths.iter().filter(is_tokens).map(bytes).sum(), progress);
        let hashing = Hashing { cache, progress: &|bytes| meter.add(bytes) };
        let sources = open_sources(paths, encoder, options, &hashing, &mut report.warnings)?;
        let names: Vec<String> = paths.iter().map(|data| data.path.display().to_string()).collect();
        Data::assemble(sources, options, report).map_err(|error| error.within(names.join(", ")))
    }

    /// Cuts documents in memory as a token stream.
    pub fn from_documents(documents: Documents, seq_len: usize) -> Result<Data> {
        let source = Opened { tokens: Tokens::Memory(documents), keeps_documents: false, weight: 1.0 };
        Data::assemble(vec![source], &DataOptions::new(seq_len), DataReport::default())
    }

    /// Takes an open token file as the only source.
    pub fn from_tokens(file: TokenFile, options: &DataOptions) -> Result<Data> {
        let keeps_documents = file.keeps_documents();
        let source = Opened { tokens: Tokens::File(file), keeps_documents, weight: 1.0 };
        Data::assemble(vec![source], options, DataReport::default())
    }

    fn assemble(sources: Vec<Opened>, options: &DataOptions, mut report: DataReport) -> Result<Data> {
        let seq_len = options.seq_len;
        if !(1..=i32::MAX as usize).contains(&seq_len) {
            return Err(Error::argument(format!(
                "{} is {seq_len}; it must be 1 … {}",
                Name::SequenceLength,
                i32::MAX
            )));
        }
        let mut streams = Vec::new();
        for Opened { tokens, keeps_documents, weight } in sources {
            report.tokens += tokens.count();
            report.documents += tokens.starts().len() as u64;
            report.turn_ends.extend(tokens.turn_ends());
            let whole = match options.packing {
                Packing::Auto => keeps_documents,
                Packing::Stream => false,
                // A file without document starts can only be cut as a token stream.
                Packing::Documents => !tokens.starts().is_empty(),
            };
            let (stream, left_out) = match whole {
                true => TokenStream::packed(tokens, seq_len)?,
                false => TokenStream::cut(tokens, seq_len)?,
            };
            report.left_out += left_out;
            if stream.windows() == 0 && left_out != LeftOut::default() {
                return Err(without_targets(stream.tokens(), seq_len)?);
            }
            if whole {
                let rows = stream.windows() * seq_len as u64;
                report.packed_rows.0 += rows;
                report.packed_rows.1 += rows - stream.filled_rows();
            }
            let split = Split::All { windows: stream.windows() };
            streams.push((Arc::new(stream), split, weight));
        }
        let data = Data::of_streams(streams, seq_len, report)?;
        match data.windows {
            0 => Err(Error::argument(format!(
                "{} tokens are too few: one window of {seq_len} tokens takes {} from one source; give more data or a \
                 shorter sequence length",
                data.report.tokens,
                seq_len + 1
            ))),
            _ => Ok(data),
        }
    }

    fn of_streams(
        streams: Vec<(Arc<TokenStream>, Split, f64)>,
        seq_len: usize,
        report: DataReport,
    ) -> Result<Data> {
        // Positions over many epochs still fit 64 bits.
        const WINDOWS_MAX: u64 = 1 << 53;
        let mut windows = 0;
        let mut sources = Vec::new();
        for (stream, split, weight) in streams.into_iter().filter(|(_, split, _)| split.len() > 0) {
            let draws = if weight == 1.0 {
                split.len()
            } else {
                ((split.len() as f64 * weight).round() as u64).max(1)
            };
            sources.push(Source { stream, split, weight, draws, before: windows });
            windows = draws.saturating_add(windows);
            if windows > WINDOWS_MAX {
                return Err(Error::argument(format!(
                    "the data weight {weight:?} gives more than {WINDOWS_MAX} windows an epoch; give a smaller one"
                )));
            }
        }
        let mut hash = Xxh3::new();
        for Source { stream, split, weight, .. } in &sources {
            hash_numbers(&mut hash, &[stream.hash(), weight.to_bits()], u64::to_le_bytes);
            hash_numbers(&mut hash, &split.numbers(), u64::to_le_bytes);
        }
        Ok(Data { sources, windows, seq_len, report, fingerprint: hash.digest() })
    }

    /// Splits the windows into training and validation data. `fraction` of every source's windows,
    /// evenly spread, is held out for validation. A source that would have no window left for
    /// training is not split.
    ///
    /// Errors: the fraction is not between 0 and 1, or no source can be split.
    pub fn hold_out(self, fraction: f64) -> Result<(Data, Data)> {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(Error::argument(format!(
                "{} is {fraction:?}; it must be between 0 and 1",
                phrase("--val-fraction", "the fraction", "the fraction")
            )));
        }
        let (mut training, mut validation) = (Vec::new(), Vec::new());
        for Source { stream, weight, .. } in self.sources {
            match Split::of(stream.windows(), fraction) {
                Some((training_split, validation_split)) => {
                    training.push((stream.clone(), training_split, weight));
                    validation.push((stream, validation_split, 1.0));
                }
                None => {
                    let split = Split::All { windows: stream.windows() };
                    training.push((stream, split, weight));
                }
            }
        }
        if validation.is_empty() {
            return Err(Error::argument(format!(
                "there are too few windows to hold out {fraction} of them for validation; give validation \
                 data (--val) or more data"
            )));
        }
        let report = DataReport::default();
        let training = Data::of_streams(training, self.seq_len, self.report)?;
        Ok((training, Data::of_streams(validation, self.seq_len, report)?))
    }

    /// Number of windows in an epoch.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// S: tokens of a window.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Counts of the data read and not trained on.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// Hash of everything that determines the windows: tokens, loss masks and document starts of
    /// all sources, their order, weights and split, S, and how windows are cut. A resumed run
    /// compares it.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Reads the window at `position`, counted from 0 over all epochs.
    pub fn window(&self, shuffle: Option<u64>, position: u64, cells: &mut Cells) -> Result<Filled> {
        let slot = Order { windows: self.windows, shuffle }.window(position);
        let at = self.sources.partition_point(|source| source.before <= slot) - 1;
        let Source { stream, split, draws, before, .. } = &self.sources[at];
        let mut index = slot - before;
        if *draws != split.len() {
            // The weight is not 1: the source has its own order, which continues from the last
            // epoch.
            let taken = position / self.windows * draws + index;
            let shuffle = shuffle.map(|seed| seed ^ fingerprint(&(at as u64).to_le_bytes()));
            index = Order { windows: split.len(), shuffle }.window(taken);
        }
        stream.window(split.window(index), cells)
    }
}

#[cfg(test)]
mod tests;
