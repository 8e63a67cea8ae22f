//! Finds the files of a folder.

use std::fs;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result, Status};
use crate::data::read::Kind;
use crate::data::read::content::Content;
use crate::data::read::kind::Format;
use crate::data::warning::{Warning, Warnings};

type Files = Vec<(PathBuf, Format)>;

/// Returns the kind of a folder and the files to read, sorted by path; the others are counted as
/// warnings. Errors: no files, or text next to rows.
pub fn files_of_folder(folder: &Path, warnings: &mut Warnings) -> Result<(Kind, Files)> {
    let all = files_below(folder)?;
    if all.is_empty() {
        let message = format!(
            "{} contains no files to read; hidden files, links and folders named target are skipped",
            folder.display()
        );
        return Err(Error::new(Status::NotFound, message));
    }
    // Source code has tables and configurations next to it, so these alone make no folder of rows.
    let sure = all.iter().find(|(file, _)| is_sure(file));
    let text =
        all.iter().find(|(file, format)| *format == Format::Text && !is_companion(file) && is_text(file));
    match (sure, text) {
        (Some((rows, _)), Some((text, _))) => Err(Error::argument(format!(
            "{} has both rows ({}) and text ({}); name the files to read, or move them to folders of their own",
            folder.display(),
            rows.display(),
            text.display()
        ))),
        (None, None) if !all.iter().any(has_rows) => Ok((Kind::Text, all)),
        (_, None) => Ok((Kind::Rows, rows_of(folder, all, warnings))),
        (None, Some(_)) => Ok((Kind::Text, all)),
    }
}

fn has_rows((file, format): &(PathBuf, Format)) -> bool {
    *format != Format::Text && !is_companion(file)
}

/// True if the beginning of a file is text.
fn is_text(file: &Path) -> bool {
    match Content::open(file, Format::Text) {
        Ok(Content::Text(mut text)) => text.fill_buf().is_ok_and(|bytes| !bytes.contains(&0)),
        _ => false,
    }
}

/// Returns the files with rows, without those for tests and validation if there are others.
fn rows_of(folder: &Path, all: Files, warnings: &mut Warnings) -> Files {
    let (rows, others): (Files, Files) = all.into_iter().partition(has_rows);
    for (file, _) in others {
        warnings.add(Warning::UnreadFile, file.display());
    }
    let held_out = |(file, _): &(PathBuf, Format)| is_held_out(file.strip_prefix(folder).unwrap_or(file));
    if rows.iter().all(held_out) {
        return rows;
    }
    let (held_out, rows): (Files, Files) = rows.into_iter().partition(held_out);
    for (file, _) in held_out {
        let example = format_args!("{}, for test or validation by its name", file.display());
        warnings.add(Warning::UnreadFile, example);
    }
    rows
}

/// True if a path has a word for test or validation, and none for training, as Hugging Face
/// `datasets` finds splits.
fn is_held_out(path: &Path) -> bool {
    const HELD_OUT: [&str; 8] =
        ["test", "testing", "eval", "evaluation", "validation", "valid", "dev", "val"];
    let path = path.to_string_lossy().to_lowercase();
    let mut words = path.split(|c: char| matches!(c, '/' | '-' | '.' | '_' | ' ') || c.is_ascii_digit());
    words.clone().any(|word| HELD_OUT.contains(&word))
        && !words.any(|word| matches!(word, "train" | "training"))
}

/// True if the name of a file is that of a dataset's rows, and of nothing else.
fn is_sure(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let sure = ["jsonl", "jsonlines", "ndjson", "parquet", "arrow", "feather"];
    name.split('.').skip(1).any(|extension| sure.contains(&extension))
}

/// True for a file that describes a dataset.
fn is_companion(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let starts = ["readme", "license", "licence", "copying", "notice", "citation", "changelog"];
    let names =
        ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json"];
    starts.iter().any(|start| name.starts_with(start)) || names.contains(&name.as_str())
}

/// Returns the regular files below a folder with their formats, sorted by path.
fn files_below(folder: &Path) -> Result<Files> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| Error::reading(&folder, &error))? {
            let entry = entry.map_err(|error| Error::reading(&folder, &error))?;
            let kind = entry.file_type().map_err(|error| Error::reading(&entry.path(), &error))?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() && name != "target" {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push((entry.path(), Format::of(&entry.path())));
            }
        }
    }
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(files)
}
