//! Opens the paths given by `--data`.

use std::path::{Path, PathBuf};

use crate::base::{Error, Result, Status};
use crate::data::DataOptions;
use crate::data::documents::Documents;
use crate::data::encode::{Encoder, EncoderSource};
use crate::data::fingerprint::Hashing;
use crate::data::read::{Input, Kind, Reading};
use crate::data::token_file::TokenFile;
use crate::data::token_stream::Tokens;
use crate::data::warning::Warnings;

/// A path and its weight, the number of passes per epoch: 2 takes everything twice; 0.5 takes half,
/// and the other half in the next epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct DataPath {
    /// A token file, a file of rows, a text file, or a folder of rows or text.
    pub path: PathBuf,
    /// Finite and above 0.
    pub weight: f64,
}

impl DataPath {
    /// Parses `PATH` or `PATH:WEIGHT`. If a file named `PATH:WEIGHT` exists, the whole text is the
    /// path. Without a weight it is 1.
    pub fn parse(text: &str) -> Result<DataPath> {
        let whole = DataPath { path: PathBuf::from(text), weight: 1.0 };
        let Some((path, weight)) = text.rsplit_once(':').filter(|_| !whole.path.exists()) else {
            return Ok(whole);
        };
        match weight.parse::<f64>() {
            Ok(weight) if weight.is_finite() && weight > 0.0 && !path.is_empty() => {
                Ok(DataPath { path: PathBuf::from(path), weight })
            }
            Ok(weight) => Err(Error::argument(format!(
                "{text}: the weight is {weight}; it must be a finite number above 0"
            ))),
            Err(_) => Ok(whole),
        }
    }
}

/// Cuts a source into windows as a token stream or by whole documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// `Documents` for rows other than `text` and for token files marked so, else
    /// `Stream`.
    #[default]
    Auto,
    /// Documents are concatenated and cut at window ends; no token is lost but a remainder shorter
    /// than a window.
    Stream,
    /// Whole documents share windows; those longer than a window are truncated.
    Documents,
}

/// A source: one or several paths of one weight.
#[derive(Debug)]
pub struct Opened {
    /// The tokens of all its documents.
    pub tokens: Tokens,
    /// True if [`Packing::Auto`] keeps its documents whole.
    pub keeps_documents: bool,
    /// See [`DataPath::weight`].
    pub weight: f64,
}

/// Receives documents as they are read.
pub trait Sink {
    /// Takes a document; `keep` asks that [`Packing::Auto`] keep it whole.
    fn take(&mut self, document: crate::data::tokenizer::Encoded, keep: bool) -> Result<()>;
    /// Takes a special token that ends trained turns of the next document.
    fn ends_turn(&mut self, token: i32);
}

/// Opens paths as sources: each token file, all text paths of one weight, and all paths of rows of
/// one weight. The encoder is opened only if there are texts or rows.
pub fn open_sources(
    paths: &[DataPath],
    encoder: &EncoderSource,
    options: &DataOptions,
    hashing: &Hashing,
    warnings: &mut Warnings,
) -> Result<Vec<Opened>> {
    let mut sources: Vec<(Kind, Opened)> = Vec::new();
    let mut opened: Option<Encoder> = None;
    for DataPath { path, weight } in paths {
        let input = Input::find(path, options.validation, warnings)?;
        let kind = input.kind();
        if let Kind::Tokens(format) = kind {
            let file = TokenFile::open_with(path, format, encoder.tokenizer.vocabulary, hashing)?;
            check_fingerprint(&file, path, encoder)?;
            let keeps_documents = file.keeps_documents();
            sources.push((kind, Opened { tokens: Tokens::File(file), keeps_documents, weight: *weight }));
            continue;
        }
        let encoder = match &mut opened {
            Some(encoder) => encoder,
            none => none.insert(encoder.open()?),
        };
        let same = |(other, opened): &(Kind, Opened)| *other == kind && opened.weight == *weight;
        let at = sources.iter().position(same).unwrap_or_else(|| {
            let tokens = Tokens::Memory(Documents::default());
            sources.push((kind, Opened { tokens, keeps_documents: false, weight: *weight }));
            sources.len() - 1
        });
        let (bad_lines, threads) = (options.bad_lines, options.threads.max(1));
        input.read(Reading { encoder, bad_lines, threads }, warnings, &mut sources[at].1)?;
    }
    if let Some(encoder) = opened {
        encoder.warn(warnings);
    }
    Ok(sources.into_iter().map(|(_, opened)| opened).collect())
}

impl Sink for Opened {
    fn take(&mut self, document: crate::data::tokenizer::Encoded, keep: bool) -> Result<()> {
        self.keeps_documents |= keep;
        if let Tokens::Memory(documents) = &mut self.tokens {
            documents.push(&document);
        }
        Ok(())
    }

    fn ends_turn(&mut self, token: i32) {
        if let Tokens::Memory(documents) = &mut self.tokens {
            documents.ends_turn(token);
        }
    }
}

/// Compares the tokenizer fingerprint in a token file, if it has one, with the model's.
fn check_fingerprint(file: &TokenFile, path: &Path, encoder: &EncoderSource) -> Result<()> {
    if file.fingerprint() == 0 {
        return Ok(());
    }
    let expected = encoder.tokenizer.fingerprint()?;
    if expected == 0 || file.fingerprint() == expected {
        return Ok(());
    }
    Err(Error::new(
        Status::InvalidArgument,
        format!(
            "{} was made with another tokenizer (fingerprint {:016x}) than the model's ({expected:016x}); \
             make it again with `horizon tokenize --model` and this model",
            path.display(),
            file.fingerprint()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_follows_the_last_colon() {
        let parse =
            |text: &str| DataPath::parse(text).map(|data| (data.path.display().to_string(), data.weight));
        assert_eq!(parse("a.txt").unwrap(), ("a.txt".into(), 1.0));
        assert_eq!(parse("a.txt:0.5").unwrap(), ("a.txt".into(), 0.5));
        assert_eq!(parse("a:b:3").unwrap(), ("a:b".into(), 3.0));
        assert_eq!(parse("a:b").unwrap(), ("a:b".into(), 1.0));
        for text in ["a:0", "a:-1", "a:inf", "a:nan", ":2"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a:2");
        std::fs::write(&odd, "").unwrap();
        let odd = odd.to_str().unwrap();
        assert_eq!(parse(odd).unwrap(), (odd.into(), 1.0));
    }
}
