//! What a model learns from: streams of tokens, cut into windows.
//!
//! A stream is a token file, or all the text that was named, its files as documents end to end. Window k of
//! a stream is tokens [k·S, k·S + S]: S inputs and, one token on, their S targets; the next starts S on. Windows
//! of several streams are counted one after another; a rest too short for a window is left out. Where a
//! document ends the next token is not a target (−100), attention does not cross, and positions restart.

mod order;
mod text;
mod token_file;

use std::path::PathBuf;

use crate::base::{Error, IGNORED_TARGET, Result, Shape, Status};
use crate::engine::Batch;
use crate::train::ByteTokenizer;

pub use order::Order;
pub use text::Text;
pub use token_file::TokenFile;

#[derive(Debug)]
enum Stream {
    Text(Text),
    Tokens(TokenFile),
}

impl Stream {
    fn tokens(&self) -> u64 {
        match self {
            Stream::Text(text) => text.tokens(),
            Stream::Tokens(file) => file.tokens(),
        }
    }

    /// Where documents start; empty for a stream without bounds.
    fn documents(&self) -> &[u64] {
        match self {
            Stream::Text(text) => text.documents(),
            Stream::Tokens(_) => &[],
        }
    }

    fn copy(&self, start: u64, out: &mut [i32]) -> Result<()> {
        match self {
            Stream::Text(text) => {
                text.copy(start, out);
                Ok(())
            }
            Stream::Tokens(file) => file.copy(start, out),
        }
    }
}

/// Streams cut into windows of S tokens.
#[derive(Debug)]
pub struct Data {
    /// Each with the number of windows before it.
    streams: Vec<(u64, Stream)>,
    windows: u64,
    seq_len: usize,
}

impl Data {
    /// Opens what `paths` name: `.bin` token files, text files, folders of text. All text together is one stream.
    ///
    /// `tokenizer` is asked for only if there is text. Errors name the path: not found, not understood, a token
    /// beyond `vocabulary`, too little for one window.
    pub fn open(
        paths: &[PathBuf],
        seq_len: usize,
        vocabulary: usize,
        tokenizer: impl FnOnce() -> Result<ByteTokenizer>,
    ) -> Result<Data> {
        let mut streams = Vec::new();
        let mut text = Text::default();
        let mut has_text = false;
        for path in paths {
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            match extension {
                _ if path.is_dir() => {}
                "bin" => {
                    streams.push(Stream::Tokens(TokenFile::open(path, vocabulary)?));
                    continue;
                }
                "jsonl" | "json" | "parquet" | "u16" | "u32" | "npy" => {
                    return Err(Error::new(
                        Status::Unsupported,
                        format!(
                            "{}: .{extension} data is not read yet; give text files, folders of text, or llm.c \
                             .bin token files",
                            path.display()
                        ),
                    ));
                }
                _ => {}
            }
            has_text = true;
            text.read(path)?;
        }
        if has_text {
            tokenizer()?;
            streams.push(Stream::Text(text));
        }
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        Data::cut(streams, seq_len).map_err(|error| error.within(names.join(", ")))
    }

    /// Cuts a text that is already in memory.
    pub fn from_text(text: Text, seq_len: usize) -> Result<Data> {
        Data::cut(vec![Stream::Text(text)], seq_len)
    }

    fn cut(streams: Vec<Stream>, seq_len: usize) -> Result<Data> {
        if seq_len == 0 {
            return Err(Error::argument(
                "a window of 0 tokens teaches nothing; the sequence length must be ≥ 1",
            ));
        }
        let tokens: u64 = streams.iter().map(Stream::tokens).sum();
        let mut windows = 0;
        let streams = streams
            .into_iter()
            .map(|stream| {
                let before = windows;
                windows += stream.tokens().saturating_sub(1) / seq_len as u64;
                (before, stream)
            })
            .collect();
        if windows == 0 {
            return Err(Error::argument(format!(
                "{tokens} tokens are too few: one window of {seq_len} takes {} in one stream; give more data or a \
                 shorter sequence length",
                seq_len + 1
            )));
        }
        Ok(Data { streams, windows, seq_len })
    }

    /// Windows of one epoch.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Tokens of all streams.
    pub fn tokens(&self) -> u64 {
        self.streams.iter().map(|(_, stream)| stream.tokens()).sum()
    }

    /// S: tokens of a window.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Reads window `index` into `tokens`, `targets` and `starts`, S elements each: `starts[t]` is the position
    /// within the window at which the document of token t starts. Gives the (query, key) pairs that
    /// causal attention forms.
    fn window(&self, index: u64, tokens: &mut [i32], targets: &mut [i32], starts: &mut [i32]) -> Result<u64> {
        let at = self.streams.partition_point(|(before, _)| *before <= index) - 1;
        let (before, stream) = &self.streams[at];
        let s = self.seq_len;
        let offset = (index - before) * s as u64;
        let mut all = vec![0; s + 1];
        stream.copy(offset, &mut all)?;
        tokens.copy_from_slice(&all[..s]);
        targets.copy_from_slice(&all[1..]);
        starts.fill(0);
        let documents = stream.documents();
        let first = documents.partition_point(|&start| start <= offset);
        for &start in documents[first..].iter().take_while(|&&start| start <= offset + s as u64) {
            let position = (start - offset) as usize;
            targets[position - 1] = IGNORED_TARGET;
            starts[position..].fill(position as i32);
        }
        Ok(starts.iter().enumerate().map(|(t, &start)| t as u64 - start as u64 + 1).sum())
    }
}

/// A micro-batch in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Micro {
    /// B·T token ids.
    pub tokens: Vec<i32>,
    /// B·T targets, [`IGNORED_TARGET`] where there is none.
    pub targets: Vec<i32>,
    /// Per token the position at which its document starts; `None` if every row is one document.
    pub starts: Option<Vec<i32>>,
    /// (query, key) pairs of causal attention, for the count of useful work.
    pub attended: u64,
}

impl Micro {
    /// As the engine takes it.
    pub fn batch(&self) -> Batch<'_> {
        Batch { tokens: &self.tokens, targets: &self.targets, weights: None, starts: self.starts.as_deref() }
    }
}

/// Takes windows in an order, B at a time. The position is all its state.
#[derive(Clone, Copy, Debug)]
pub struct Loader {
    order: Order,
    shape: Shape,
    position: u64,
}

impl Loader {
    /// Epoch after epoch of `data`, B windows to a micro-batch; shuffled by a seed, or in order.
    pub fn new(data: &Data, micro_batch: usize, shuffle: Option<u64>) -> Loader {
        let order = Order { windows: data.windows(), shuffle };
        Loader { order, shape: Shape { b: micro_batch, t: data.seq_len() }, position: 0 }
    }

    /// The windows taken so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next B windows, starting over at the end of the data.
    pub fn next(&mut self, data: &Data) -> Result<Micro> {
        self.fill(data, u64::MAX)
    }

    /// The next B windows of the first epoch, rows beyond its end without targets; `None` after it.
    pub fn next_once(&mut self, data: &Data) -> Result<Option<Micro>> {
        let end = data.windows();
        if self.position >= end { Ok(None) } else { self.fill(data, end).map(Some) }
    }

    fn fill(&mut self, data: &Data, end: u64) -> Result<Micro> {
        let (n, t) = (self.shape.n(), self.shape.t);
        let mut micro =
            Micro { tokens: vec![0; n], targets: vec![IGNORED_TARGET; n], starts: None, attended: 0 };
        let mut starts = vec![0; n];
        for row in 0..self.shape.b {
            if self.position >= end {
                break;
            }
            let cells = row * t..(row + 1) * t;
            micro.attended += data.window(
                self.order.window(self.position),
                &mut micro.tokens[cells.clone()],
                &mut micro.targets[cells.clone()],
                &mut starts[cells],
            )?;
            self.position += 1;
        }
        micro.starts = starts.iter().any(|&start| start != 0).then_some(starts);
        Ok(micro)
    }
}

#[cfg(test)]
mod tests;
