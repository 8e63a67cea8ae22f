//! `horizon tokenize`.

use horizon::base::format::{count, several};
use horizon::base::{Error, Result};
use horizon::data::tokenizer::Encoded;
use horizon::data::{DataOptions, Sink, TokenFormat, TokenWriter, Warnings, read_documents};

use crate::model;
use crate::options::TokenizeOptions;

/// Writes documents to a file and counts the tokens that are trained on.
struct Counted<'a> {
    writer: &'a mut TokenWriter,
    targets: u64,
}

impl Sink for Counted<'_> {
    fn take(&mut self, document: Encoded, keep: bool) -> Result<()> {
        self.targets += document.supervised.iter().filter(|supervised| **supervised).count() as u64;
        if keep {
            self.writer.keep_documents();
        }
        self.writer.push(&document)
    }
}

/// Writes a token file.
pub fn tokenize(options: &TokenizeOptions) -> Result<()> {
    let tokens = options.data.iter().find(|path| !path.is_dir() && TokenFormat::of(path).is_some());
    if let Some(path) = tokens {
        return Err(Error::argument(format!(
            "{} is a token file already; --data takes text and JSONL",
            path.display()
        )));
    }
    let tokenizer = model::open(&options.model, true)?.tokenizer();
    let vocabulary = tokenizer.vocabulary;
    let fingerprint = tokenizer.fingerprint()?;
    let encoder = options.encoding.encoder(tokenizer).open()?;
    let mut writer = TokenWriter::create(&options.out, vocabulary, fingerprint)?;
    let threads = options.threads.unwrap_or(DataOptions::new(1).threads);
    let mut warnings = Warnings::default();
    let mut sink = Counted { writer: &mut writer, targets: 0 };
    for path in &options.data {
        read_documents(path, &encoder, options.encoding.bad_lines(), threads, &mut warnings, &mut sink)?;
    }
    let targets = sink.targets;
    let (tokens, documents) = (writer.tokens(), writer.documents());
    if tokens == 0 {
        return Err(Error::argument("the data has no tokens"));
    }
    writer.finish()?;
    if !options.quiet {
        eprint!("{warnings}");
        eprintln!(
            "wrote {}: {} tokens, {} of them trained on, in {}",
            options.out.display(),
            count(tokens as f64),
            count(targets as f64),
            several(documents as usize, "document")
        );
    }
    Ok(())
}
