//! Finds the files of a folder.

use std::fs;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result, Status};
use crate::data::read::Kind;
use crate::data::read::content::Content;
use crate::data::read::kind::{Format, lower_name};
use crate::data::read::rows::begins_with_row;
use crate::data::token_file::TokenFormat;
use crate::data::warning::{Warning, Warnings};

type Files = Vec<(PathBuf, Format)>;

/// The role of a file in a folder, by its name, and of a text also by its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Rows, by an extension that nothing else has; JSON rows in a file named as text.
    Rows,
    /// Rows, or a table or configuration next to source code.
    Table,
    /// A text that can stand alone: named `.txt`, without an extension, or with one that has no
    /// other role.
    Text,
    /// Source code, of which scripts may stand next to rows.
    Code,
    /// A configuration or a picture.
    Aside,
    /// Describes a data set.
    Description,
    /// A token file.
    Tokens,
    /// Neither text nor rows, or a copy by an editor or a download that is not finished.
    Unreadable,
    Empty,
}

struct File {
    path: PathBuf,
    format: Format,
    role: Role,
}

/// Returns the kind of a folder and the files to read, sorted by path; the others are counted as
/// warnings. `validation` chooses between files for validation or test and the others. Errors: no
/// files, or text next to rows.
pub fn files_of_folder(folder: &Path, validation: bool, warnings: &mut Warnings) -> Result<(Kind, Files)> {
    let all = files_below(folder, warnings)?;
    if all.is_empty() {
        let message = format!(
            "{} contains no files to read; hidden files, links to folders and folders named target are skipped",
            folder.display()
        );
        return Err(Error::new(Status::NotFound, message));
    }
    let first = |role: Role| all.iter().find(|file| file.role == role);
    let text = first(Role::Text);
    // Source code has tables and configurations next to it, so these alone make no folder of rows.
    let rows = first(Role::Rows).or_else(|| {
        let code = all.iter().any(is_code);
        let of_rows = |file: &&File| !code || begins_with_row(&file.path, file.format);
        all.iter().filter(|file| file.role == Role::Table).find(of_rows)
    });
    let text = match rows.map(|file| file.role) {
        Some(Role::Table) => text.or_else(|| first(Role::Code)),
        _ => text,
    };
    match (rows, text) {
        (Some(rows), Some(text)) => Err(Error::argument(format!(
            "{} has both rows ({}) and text ({}); name the files to read, or move them to folders of their own",
            folder.display(),
            rows.path.display(),
            text.path.display()
        ))),
        (Some(_), None) => Ok((Kind::Rows, rows_of(folder, all, validation, warnings))),
        (None, _) => Ok((Kind::Text, all.into_iter().map(|file| (file.path, file.format)).collect())),
    }
}

/// Returns the files with rows: of files for validation or test and others only one of the two.
fn rows_of(folder: &Path, all: Vec<File>, validation: bool, warnings: &mut Warnings) -> Files {
    let mut rows = Files::new();
    for File { path, format, role } in all {
        match role {
            Role::Rows => rows.push((path, if format == Format::Text { Format::Json } else { format })),
            Role::Table => rows.push((path, format)),
            Role::Description => {}
            Role::Tokens => warnings.add(Warning::TokenFile, path.display()),
            Role::Empty => warnings.add(Warning::EmptyFile, path.display()),
            Role::Unreadable => warnings.add(Warning::UnreadFile, why_unreadable(&path)),
            Role::Text | Role::Code | Role::Aside => warnings.add(Warning::UnreadFile, path.display()),
        }
    }
    let is_for_validation =
        |(file, _): &(PathBuf, Format)| is_held_out(file.strip_prefix(folder).unwrap_or(file));
    let (held_out, others): (Files, Files) = rows.into_iter().partition(is_for_validation);
    if held_out.is_empty() || others.is_empty() {
        let mut one = [held_out, others].concat();
        one.sort_by(|(one, _), (other, _)| one.cmp(other));
        return one;
    }
    let warning = if validation { Warning::OnlyHeldOut } else { Warning::HeldOut };
    for (file, _) in &held_out {
        warnings.add(warning.clone(), file.display());
    }
    if validation { held_out } else { others }
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

/// Returns the reason for which a file is not read.
fn why_unreadable(file: &Path) -> String {
    match Content::open(file, Format::Text) {
        Err(error) => error.message().to_owned(),
        Ok(_) if is_copy(&lower_name(file)) => format!("{}, a copy by its name", file.display()),
        Ok(_) => format!("{} is binary", file.display()),
    }
}

/// True for source code and other texts with an extension of their own.
fn is_code(file: &File) -> bool {
    let is_plain = || matches!(&*extension(&file.path), "" | "txt");
    file.role == Role::Code || file.role == Role::Text && !is_plain()
}

/// True for a copy by an editor, or a download that has not ended.
fn is_copy(name: &str) -> bool {
    ["~", ".bak", ".part", ".tmp", ".crc"].iter().any(|end| name.ends_with(end))
}

/// The last extension in lower case, without one of a compression.
fn extension(file: &Path) -> String {
    let name = lower_name(file);
    let parts = name.split('.').skip(1).filter(|part| !matches!(*part, "gz" | "zst"));
    parts.last().unwrap_or_default().to_owned()
}

fn role(file: &Path, format: Format) -> Role {
    const CODE: [&str; 6] = ["py", "ipynb", "sh", "js", "html", "css"];
    const ASIDE: [&str; 16] = [
        "yaml", "yml", "toml", "ini", "cfg", "lock", "log", "bib", "svg", "png", "jpg", "jpeg", "gif",
        "webp", "ico", "pdf",
    ];
    let (name, extension) = (lower_name(file), extension(file));
    if TokenFormat::of(file).is_some() {
        return Role::Tokens;
    }
    if is_description(&name) {
        return Role::Description;
    }
    if format != Format::Text {
        let sure = ["jsonl", "jsonlines", "ndjson", "parquet", "arrow", "feather"];
        return if name.split('.').any(|part| sure.contains(&part)) { Role::Rows } else { Role::Table };
    }
    match &*extension {
        "md" | "rst" => return Role::Description,
        _ if is_copy(&name) => return Role::Unreadable,
        code if CODE.contains(&code) => return Role::Code,
        aside if ASIDE.contains(&aside) || name == "requirements.txt" => return Role::Aside,
        _ => {}
    }
    let Ok(Content::Text(mut text)) = Content::open(file, Format::Text) else { return Role::Unreadable };
    let Ok(head) = text.fill_buf() else { return Role::Unreadable };
    match head.trim_ascii_start().first() {
        _ if head.is_empty() => Role::Empty,
        _ if head.contains(&0) => Role::Unreadable,
        Some(b'{' | b'[') if may_have_rows(&extension) && begins_with_row(file, Format::Json) => Role::Rows,
        _ => Role::Text,
    }
}

/// True for no extension and those of rows in files named as text: `.jsonl.1` is a rotated log.
fn may_have_rows(extension: &str) -> bool {
    matches!(extension, "txt" | "jl") || extension.bytes().all(|byte| byte.is_ascii_digit())
}

/// True for a file that describes a data set.
fn is_description(name: &str) -> bool {
    let starts = ["readme", "license", "licence", "copying", "notice", "citation", "changelog"];
    let names =
        ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json"];
    let is_text = |name: &str| matches!(Format::of(Path::new(name)), Format::Text);
    starts.iter().any(|start| name.starts_with(start)) && is_text(name) || names.contains(&name)
}

/// Returns the files below a folder with their roles, sorted by path. Links to files are followed.
fn files_below(folder: &Path, warnings: &mut Warnings) -> Result<Vec<File>> {
    let (mut files, mut irregular) = (Vec::new(), Vec::new());
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| Error::reading(&folder, &error))? {
            let entry = entry.map_err(|error| Error::reading(&folder, &error))?;
            let kind = entry.file_type().map_err(|error| Error::reading(&entry.path(), &error))?;
            let name = entry.file_name();
            let left_by_system = ["_SUCCESS", "desktop.ini", "Thumbs.db"].iter().any(|left| name == *left);
            if name.as_encoded_bytes().starts_with(b".") || left_by_system {
                continue;
            }
            let path = entry.path();
            if kind.is_dir() {
                folders.extend((name != "target").then_some(path));
            } else if kind.is_file() || kind.is_symlink() && path.is_file() {
                files.push(path);
            } else {
                irregular.push(path);
            }
        }
    }
    files.sort();
    irregular.sort();
    irregular.iter().for_each(|path| warnings.add(Warning::NotRegular, path.display()));
    let file = |path: PathBuf| {
        let format = Format::of(&path);
        File { role: role(&path, format), path, format }
    };
    Ok(files.into_iter().map(file).collect())
}
