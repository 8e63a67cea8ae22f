//! `horizon tokenize`.

use horizon::base::format::{count, several};
use horizon::base::{Error, Result};
use horizon::data::tokenizer::Encoded;
use horizon::data::{DataOptions, Encoder, Sink, TokenFormat, TokenWriter, Warnings, read_documents};

use crate::options::TokenizeOptions;
use crate::show::Marks;
use crate::{model, print, warn_of_data};

/// Counts documents, prints the first, and writes all to a file if there is one.
struct Counted<'a> {
    writer: Option<TokenWriter>,
    encoder: &'a Encoder,
    /// Number of documents to print.
    shown: u64,
    marks: Marks,
    documents: u64,
    tokens: usize,
    targets: usize,
}

impl Sink for Counted<'_> {
    fn take(&mut self, document: Encoded, keep: bool) -> Result<()> {
        if document.tokens.is_empty() {
            return Ok(());
        }
        self.documents += 1;
        self.tokens += document.tokens.len();
        self.targets += document.supervised.iter().filter(|supervised| **supervised).count();
        if self.documents <= self.shown {
            print(self.marks.document(self.documents, &document, self.encoder.tokenizer()?)?.as_bytes())?;
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if keep {
            writer.keep_documents();
        }
        writer.push(&document)
    }

    fn ends_turn(&mut self, token: i32) -> Result<()> {
        self.writer.as_mut().map_or(Ok(()), |writer| writer.ends_turn(token))
    }
}

/// Writes a token file, or only shows documents.
pub fn tokenize(options: &TokenizeOptions) -> Result<()> {
    let tokens = options.data.iter().find(|path| !path.is_dir() && TokenFormat::of(path).is_some());
    if let Some(path) = tokens {
        return Err(TokenFormat::not_documents(path));
    }
    let source = model::open(&options.model, true)?.tokenizer();
    let (vocabulary, fingerprint) = (source.vocabulary, source.fingerprint()?);
    let encoder = options.encoding.encoder(source).open()?;
    let create = |path| TokenWriter::create(path, vocabulary, fingerprint);
    let mut sink = Counted {
        writer: options.out.as_deref().map(create).transpose()?,
        encoder: &encoder,
        shown: options.show.unwrap_or(0),
        marks: Marks::here(),
        documents: 0,
        tokens: 0,
        targets: 0,
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
    let wrote = options.out.as_ref().map_or(String::new(), |out| format!("wrote {}: ", out.display()));
    sink.writer.map_or(Ok(()), TokenWriter::finish)?;
    warn_of_data("", &warnings);
    if !options.quiet {
        eprintln!(
            "{wrote}{} tokens, {} of them trained on, in {}",
            count(sink.tokens as f64),
            count(sink.targets as f64),
            several(sink.documents as usize, "document")
        );
    }
    Ok(())
}
