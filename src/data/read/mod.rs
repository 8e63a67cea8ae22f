//! Files and folders as rows, texts or tokens.
//!
//! The extension (in upper or lower case) says how a file is read:
//!
//! | extension | |
//! |---|---|
//! | `.bin`, `.u16`, `.u32` | token files ([`super::TokenFile`]) |
//! | `.jsonl`, `.ndjson`, `.json` | JSON objects: one per line, over several lines, or in one list |
//! | `.parquet` | rows; decimals, dates and times become texts |
//! | `.csv`, `.tsv` | rows of texts; the first line names the fields, an empty cell is an absent field |
//! | others, or none | a document of text in UTF-8 |
//!
//! `.txt` behind another extension is ignored (`a.jsonl.txt`). The first bytes decide what is
//! inside: gzip and zstd are decompressed while they are read, whatever the name, and a byte order
//! mark is skipped. Archives, other compressions, tables, arrays, images, weights, Git LFS
//! pointers, web pages in place of data, UTF-16 and UTF-32 are refused by name; so is a text file whose first
//! line is a JSON object with the fields of a row. Lines end with LF, CRLF or CR.
//!
//! # Folders
//! All files below a folder are read in the order of their paths, without hidden ones, links, and
//! folders named `target`.
//!
//! - A folder with `.jsonl`, `.ndjson` or `.parquet` files has rows; so has one with `.json`,
//!   `.csv` or `.tsv` files and no text. README, LICENSE and the like, dataset descriptions
//!   (`dataset_infos.json`, …) and binary files next to them are not read, and neither are test and
//!   validation splits if there are other rows (`test` or `validation`, or a synonym of them, is a
//!   word of the path). These files are counted as a warning. Text next to rows is an error.
//! - Any other folder has text. Files that are not text are counted as a warning.

mod content;
#[cfg(feature = "text")]
mod csv;
mod folder;
mod json_rows;
pub(super) mod kind;
mod lines;
#[cfg(feature = "text")]
mod parquet;
mod rows;
mod text;

use std::path::{Path, PathBuf};

use crate::base::{Error, Result, Status};
use crate::data::encode::Encoder;
use crate::data::rows::Row;
use crate::data::source::Sink;
use crate::data::token_file::TokenFormat;
use crate::data::warning::{Warning, Warnings};

use folder::files_of_folder;
use kind::Format;
use rows::{Counts, read_rows};
use text::read_text;

pub use rows::BadLines;

/// The kind of data in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A token file.
    Tokens(TokenFormat),
    /// Rows.
    Rows,
    /// Texts.
    Text,
}

/// The files of a path.
#[derive(Debug)]
pub struct Input {
    path: PathBuf,
    kind: Kind,
    /// Files and their formats, sorted by path.
    files: Vec<(PathBuf, Format)>,
}

impl Input {
    /// Finds the files of a path and their kind; files of a folder that are not read are warnings.
    pub fn find(path: &Path, warnings: &mut Warnings) -> Result<Input> {
        let metadata = std::fs::metadata(path).map_err(|error| Error::reading(path, &error))?;
        let (kind, files) = if metadata.is_dir() {
            files_of_folder(path, warnings)?
        } else {
            let format = Format::of(path);
            let of_rows = || if format == Format::Text { Kind::Text } else { Kind::Rows };
            let kind = TokenFormat::of(path).map_or_else(of_rows, Kind::Tokens);
            (kind, vec![(path.to_owned(), format)])
        };
        Ok(Input { path: path.to_owned(), kind, files })
    }

    /// Rows, text or tokens.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Reads rows or texts into a sink.
    pub fn read(
        &self,
        by: (&Encoder, BadLines, usize),
        warnings: &mut Warnings,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        match self.kind {
            Kind::Rows => self.read_rows(by, warnings, sink),
            Kind::Text => self.read_texts(by.0, warnings, sink),
            Kind::Tokens(_) => {
                let message = format!("{} is a token file already", self.path.display());
                Err(Error::argument(message))
            }
        }
    }

    fn read_rows(
        &self,
        by: (&Encoder, BadLines, usize),
        warnings: &mut Warnings,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let mut counts = Counts::default();
        for (file, format) in &self.files {
            read_rows(file, *format, by, (&mut counts, warnings), |row, encoded| {
                by.0.turn_ends(row, &encoded).into_iter().try_for_each(|token| sink.ends_turn(token))?;
                sink.take(encoded, !matches!(row, Row::Text(_)))
            })?;
        }
        counts.check(&self.path)
    }

    fn read_texts(&self, encoder: &Encoder, warnings: &mut Warnings, sink: &mut dyn Sink) -> Result<()> {
        let (mut any, mut first) = (false, None);
        for (file, _) in &self.files {
            match read_text(file)? {
                Ok(text) => {
                    any = true;
                    let mut found = Warnings::default();
                    let document = encoder.document(&text, &mut found);
                    encoder.check_opened()?;
                    sink.take(document.map_err(|error| error.within(file.display()))?, false)?;
                    warnings.extend(file.display(), found);
                }
                Err(error) if *file == self.path => return Err(error),
                Err(error) => {
                    warnings.add(Warning::UnreadFile, &error);
                    first.get_or_insert(error);
                }
            }
        }
        match first {
            Some(error) if !any => {
                let message = format!("{} has no text or rows; the first file: {error}", self.path.display());
                Err(Error::new(Status::BadFormat, message))
            }
            _ => Ok(()),
        }
    }
}

/// Reads a file or folder of text or rows into a sink.
pub fn read_documents(
    path: &Path,
    encoder: &Encoder,
    bad_lines: BadLines,
    threads: usize,
    warnings: &mut Warnings,
    sink: &mut dyn Sink,
) -> Result<()> {
    Input::find(path, warnings)?.read((encoder, bad_lines, threads), warnings, sink)
}

#[cfg(test)]
mod tests;
