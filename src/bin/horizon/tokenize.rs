//! `horizon tokenize`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use horizon::base::format::{count, quoted, several, shown};
use horizon::base::{Error, Result, Status};
use horizon::data::tokenizer::Encoded;
use horizon::data::{
    DataOptions, DataPath, Encoder, Sink, TokenFormat, TokenWriter, Warnings, read_documents,
};
use horizon::host::folder::check_own;
use horizon::model::preset;

use crate::model;
use crate::options::TokenizeOptions;
use crate::paths::Paths;
use crate::print::{print_for_reader, warn_of_data};
use crate::show::Marks;
use crate::stop::Stop;

/// Counts documents, prints the first, and writes all to a file if there is one.
struct Counted<'a> {
    writer: Option<TokenWriter>,
    encoder: &'a Encoder,
    /// The model has a tokenizer; without one, documents are printed as ids.
    has_tokenizer: bool,
    /// Number of documents to print.
    shown: u64,
    marks: Marks,
    documents: u64,
    tokens: usize,
    targets: usize,
    /// Set by a signal; the partial file is then removed.
    stop: &'a AtomicBool,
}

impl Sink for Counted<'_> {
    fn take(&mut self, mut document: Encoded, keep: bool) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(Status::Cancelled, "stopped by a signal"));
        }
        if document.tokens.is_empty() {
            return Ok(());
        }
        if let Some(writer) = &mut self.writer {
            writer.push(&document)?;
            if keep {
                writer.keep_documents();
            }
        }
        // Nothing predicts the first token.
        document.supervised[0] = false;
        self.targets += document.supervised.iter().filter(|supervised| **supervised).count();
        self.documents += 1;
        self.tokens += document.tokens.len();
        if self.documents <= self.shown { self.show(&document) } else { Ok(()) }
    }

    fn ends_turn(&mut self, token: i32) {
        if let Some(writer) = &mut self.writer {
            writer.ends_turn(token);
        }
    }
}

impl Counted<'_> {
    fn show(&mut self, document: &Encoded) -> Result<()> {
        let tokenizer = self.has_tokenizer.then(|| self.encoder.tokenizer()).transpose()?;
        if !print_for_reader(self.marks.document(self.documents, document, tokenizer)?.as_bytes())? {
            self.shown = 0;
        }
        Ok(())
    }

    /// Warns of ends of turns that the file does not name.
    fn warn(&self) {
        let (named, others) = self.writer.as_ref().map(TokenWriter::turn_ends).unwrap_or_default();
        if !others.is_empty() {
            message!(
                "warning: trained turns end with {} different special tokens; the file names the most frequent \
                 for the export, {named:?}, but not {others:?}",
                named.len() + others.len()
            );
        }
    }
}

/// Writes a token file, or only shows documents. A signal ends it after the current document.
pub fn tokenize(options: &TokenizeOptions) -> Result<ExitCode> {
    let stop = Stop::listen(None)?;
    match (stop.finishing(|stop| write(options, stop)), stop.exit_code()) {
        (Err(error), Some(code)) if error.status() == Status::Cancelled => Ok(code),
        (ended, _) => ended.map(|()| ExitCode::SUCCESS),
    }
}

fn write(options: &TokenizeOptions, stop: &AtomicBool) -> Result<()> {
    for path in &options.data {
        check_path(path)?;
    }
    check_paths(options)?;
    let source = model::open(&options.model, true)?.tokenizer();
    let (vocabulary, fingerprint) = (source.vocabulary, source.fingerprint()?);
    let encoder = options.encoding.encoder(source).open()?;
    let create = |path| TokenWriter::create(path, vocabulary, fingerprint);
    let mut sink = Counted {
        writer: options.out.as_deref().map(create).transpose()?,
        encoder: &encoder,
        has_tokenizer: fingerprint != 0,
        shown: options.show.unwrap_or(0),
        marks: Marks::here(),
        documents: 0,
        tokens: 0,
        targets: 0,
        stop,
    };
    let threads = options.threads.unwrap_or(DataOptions::new(1).threads);
    let mut warnings = Warnings::default();
    for path in &options.data {
        read_documents(path, &encoder, options.encoding.bad_lines(), threads, &mut warnings, &mut sink)?;
    }
    if sink.tokens == 0 {
        let names: Vec<_> = options.data.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::argument(format!("the data has no tokens: {}", names.join(", "))));
    }
    warn_of_data("", &warnings);
    sink.warn();
    let wrote = options.out.as_ref().map_or(String::new(), |out| format!("wrote {}: ", shown(out)));
    let summary = format!(
        "{wrote}{} tokens, {} of them trained on, in {}",
        count(sink.tokens as f64),
        count(sink.targets as f64),
        several(sink.documents as usize, "document")
    );
    sink.writer.map_or(Ok(()), TokenWriter::finish)?;
    if options.quiet {
        return Ok(());
    }
    message!("{summary}");
    if let (Some(_), Some(template)) = (&options.out, &options.encoding.chat_template) {
        message!(
            "the file does not contain the chat template: train with --chat-template {} to export it with the model",
            quoted(template)
        );
    }
    Ok(())
}

/// Refuses an output that conflicts with an input, or would replace another kind of file.
fn check_paths(options: &TokenizeOptions) -> Result<()> {
    let mut paths = Paths::default().writes_file("--out", options.out.as_ref())?;
    if preset(&options.model).is_none() {
        paths = paths.reads_model("--model", &options.model)?;
    }
    paths = options
        .encoding
        .chat_template
        .iter()
        .try_fold(paths, |paths, file| paths.reads("--chat-template", file))?;
    options.data.iter().try_fold(paths, |paths, data| paths.reads("--data", data))?.check()?;
    let Some(out) = &options.out else { return Ok(()) };
    check_own(out, "a token file", 8, TokenFormat::is_headed)
}

/// Refuses a token file, and a path with a weight.
fn check_path(path: &Path) -> Result<()> {
    let shown = path.display();
    if !path.is_dir() && TokenFormat::of(path).is_some() {
        return Err(TokenFormat::not_documents(path));
    }
    match path.to_str().map(DataPath::parse).transpose()? {
        Some(data) if data.path != path => Err(Error::argument(format!(
            "{shown} is a path with a weight, and weights are for `train --data`: leave :{} out",
            data.weight
        ))),
        _ => Ok(()),
    }
}
