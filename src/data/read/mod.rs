//! Files and folders as rows, texts or tokens.
//!
//! The extension (in upper or lower case) says how a file is read:
//!
//! | extension | |
//! |---|---|
//! | `.bin`, `.u16`, `.u32` | token files ([`super::TokenFile`]) |
//! | `.jsonl`, `.ndjson`, `.json` | JSON objects: one per line, over several lines, or in one list |
//! | `.parquet` | rows; decimals, dates and times become texts |
//! | `.csv` | rows of texts; the first line names the fields, an empty cell is an absent field |
//! | `.tsv` | as `.csv`, separated by tabs |
//! | others, or none | a document of text in UTF-8 |
//!
//! `.txt` behind another extension is ignored (`a.jsonl.txt`). The first bytes decide what is
//! inside: gzip and zstd are decompressed while they are read, whatever the name, and a byte order
//! mark is skipped. Archives, other compressions, tables, arrays, images, weights, Git LFS
//! pointers, web pages in place of data, UTF-16 and UTF-32 are refused by name; so is a text file
//! that begins with JSON. Lines end with LF, CRLF or CR. An empty file is counted as a warning.
//!
//! A named pipe or a device is refused; a pipe that the process has open (`/dev/stdin`, `<(command)`)
//! is read as text.
//!
//! # Limits
//! A file may fill the memory with what it has, not with what it pretends to have:
//!
//! | limit | |
//! |---|---|
//! | a line, or a JSON object or element | 128 MiB |
//! | a row of CSV, with 16,384 columns | 16 MiB |
//! | a text | 16 GiB |
//! | a page of Parquet | 2 GiB, the format's own limit |
//! | values of a row | 32 million numbers, 4 million texts, or 512 thousand lists and objects |
//! | a compressed file, and the texts of Parquet | 32 MiB, or 200 times its size |
//!
//! A tokenizer takes about 280 bytes per token of a text while it encodes it, so a text of 25 million
//! tokens takes 7 GB. A file that becomes longer while it is read is an error.
//! zstd takes memory for the window that a file asks for: up to 2 GiB (`zstd --long=31`).
//!
//! # Folders
//! All files below a folder are read in the order of their paths, without hidden ones and folders
//! named `target`. Links to files are followed; links to folders, pipes and devices are counted as a
//! warning.
//!
//! - A folder with `.jsonl`, `.ndjson` or `.parquet` files has rows; so has one with JSON rows in
//!   files named as text (`part-00000`), or with `.json`, `.csv` or `.tsv` files and no text. Text
//!   next to rows is an error. Descriptions (README, LICENSE, `.md`, `dataset_infos.json`, …) are no
//!   text here and not read; scripts, configurations, pictures, token files, copies (`~`, `.bak`) and
//!   binary files are counted as a warning.
//! - Of rows in files for test or validation and in others, only the latter are trained on, and only
//!   the former validated on; both are counted as a warning. `test` or `validation`, or a synonym of
//!   them, is a word of the path.
//! - Any other folder has text. Files that are not text are counted as a warning. JSON and tables
//!   next to source code are text if they have no rows.

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
use crate::host::input::open_stream;

use folder::files_of_folder;
use kind::{Format, is_of_data};
use rows::Counts;
use text::read_text;

pub use rows::{BadLines, Reading};

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
    /// `validation` chooses between files for validation or test and the others.
    pub fn find(path: &Path, validation: bool, warnings: &mut Warnings) -> Result<Input> {
        let (kind, files) = if path.is_dir() {
            files_of_folder(path, validation, warnings)?
        } else {
            open_stream(path).map_err(|error| error.map(|message| message + &how_to_get(path)))?;
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
    pub fn read(&self, reading: Reading, warnings: &mut Warnings, sink: &mut dyn Sink) -> Result<()> {
        match self.kind {
            Kind::Rows => self.read_rows(reading, warnings, sink),
            Kind::Text => self.read_texts(reading.encoder, warnings, sink),
            Kind::Tokens(_) => Err(TokenFormat::not_documents(&self.path)),
        }
    }

    fn read_rows(&self, reading: Reading, warnings: &mut Warnings, sink: &mut dyn Sink) -> Result<()> {
        let mut counts = Counts::default();
        for (file, format) in &self.files {
            reading.rows(file, *format, &mut counts, warnings, |row, encoded| {
                reading.encoder.turn_ends(row, &encoded).into_iter().for_each(|token| sink.ends_turn(token));
                sink.take(encoded, !matches!(row, Row::Text(_)))
            })?;
        }
        counts.check(&self.path)
    }

    fn read_texts(&self, encoder: &Encoder, warnings: &mut Warnings, sink: &mut dyn Sink) -> Result<()> {
        let (mut any, mut first) = (false, None);
        for (file, _) in &self.files {
            match read_text(file, *file == self.path)? {
                Ok(text) if text.is_empty() => {
                    any = true;
                    warnings.add(Warning::EmptyFile, file.display());
                }
                Ok(text) => {
                    any = true;
                    let mut found = Warnings::default();
                    let document = encoder.document(&text, &mut found);
                    encoder.check_opened()?;
                    let document = document.map_err(|error| {
                        let save =
                            if str::from_utf8(&text).is_err() { "; save the file as UTF-8" } else { "" };
                        error.map(|message| format!("{}: {message}{save}", file.display()))
                    });
                    sink.take(document?, false)?;
                    warnings.extend(file.display(), found);
                }
                Err(error) if *file == self.path => return Err(error),
                Err(error) => {
                    let warning = match TokenFormat::of(file) {
                        Some(_) => Warning::TokenFile,
                        None => Warning::UnreadFile,
                    };
                    warnings.add(warning, &error);
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

/// Returns how to get data that is named by an address, a pattern or an id of the Hugging Face Hub.
fn how_to_get(path: &Path) -> String {
    let name = path.to_string_lossy();
    let name = name.as_ref();
    let is_word = |part: &str| {
        let is_of_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_of_word)
    };
    match name.split_once('/') {
        _ if name.contains("://") || name.contains(":/") => {
            "; it is an address: download the file first, from the Hugging Face Hub with `hf download ID \
             --repo-type dataset --local-dir FOLDER`"
                .to_owned()
        }
        _ if name.contains(['*', '?', '[']) => {
            "; patterns are not expanded here: leave out the quotes, so that the shell does it, or name the folder"
                .to_owned()
        }
        Some((owner, id)) if is_word(owner) && is_word(id) && !is_of_data(path, true) => format!(
            "; if it is an id of the Hugging Face Hub, get the data with `hf download {name} --repo-type dataset \
             --local-dir {id}` and name the folder {id}"
        ),
        _ => String::new(),
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
    let reading = Reading { encoder, bad_lines, threads };
    Input::find(path, false, warnings)?.read(reading, warnings, sink)?;
    encoder.warn(warnings);
    Ok(())
}

#[cfg(test)]
mod tests;
