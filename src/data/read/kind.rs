//! The format of a file, by its name and its first bytes.

use std::io::{self, Read};
use std::path::Path;

use crate::base::{WEB_PAGE, lfs_pointer, placeholder};

/// Format of a file with rows or text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON objects: one per line, one after the other, or in a list.
    Json,
    /// Columns of text with a header.
    Csv,
    /// As `Csv`, separated by tabs.
    Tsv,
    /// Parquet, or a table that is refused by its first bytes (Arrow, Excel).
    Table,
    /// A document.
    Text,
}

impl Format {
    /// Returns the format by the extension, in upper or lower case. `.gz`, `.zst` and the like
    /// behind it are ignored, and so is `.txt` behind the extension of another format.
    pub fn of(path: &Path) -> Format {
        let name = lower_name(path);
        let mut extensions = name.split('.').skip(1).collect::<Vec<_>>().into_iter().rev();
        let known = extensions.find(|extension| !matches!(*extension, "gz" | "zst" | "xz" | "bz2"));
        match known {
            Some("txt") => extensions.next().map_or(Format::Text, by_extension),
            Some(extension) => by_extension(extension),
            None => Format::Text,
        }
    }
}

fn by_extension(extension: &str) -> Format {
    match extension {
        "json" | "jsonl" | "jsonlines" | "ndjson" => Format::Json,
        "csv" => Format::Csv,
        "tsv" => Format::Tsv,
        "parquet" | "arrow" | "feather" | "xlsx" | "xls" => Format::Table,
        _ => Format::Text,
    }
}

/// The name of a file in lower case.
pub fn lower_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// Returns the compression by the first bytes.
    pub fn of(head: &[u8]) -> Option<Compression> {
        match head {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd),
            _ => None,
        }
    }
}

/// First bytes of a Parquet file.
pub const PARQUET: &[u8] = b"PAR1";

/// Bytes at the beginning of a file that decide what it is.
pub const HEAD_BYTES: usize = 8000;

/// Reads these bytes, or all of a shorter file.
pub fn read_head(file: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

const ARROW: &str = "an Arrow file; convert it to Parquet, with datasets: load_from_disk(folder).to_parquet(\"data.parquet\")";

/// Formats that are refused: first bytes, and a phrase with what the file is and what to do.
const REFUSED: [(&[u8], &str); 14] = [
    (
        NUMPY,
        "a NumPy array; write tokens without a header: numpy.load(\"a.npy\").astype(\"<u4\").tofile(\"a.u32\")",
    ),
    (b"\xfd7zXZ\0", "compressed with xz; decompress it with `xz -d`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"ARROW1\0\0", ARROW),
    (b"\xff\xff\xff\xff", ARROW),
    (
        b"FEA1\0",
        "a Feather file; convert it to Parquet, with pandas: read_feather(file).to_parquet(\"data.parquet\")",
    ),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; write its contents as JSONL or Parquet"),
    (b"SQLite format 3\0", "an SQLite database; write its rows as JSONL or CSV"),
    (b"%PDF-", "a PDF; extract its text, e.g. with `pdftotext`"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file; save the table as CSV (UTF-8)"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x7fELF", "a program"),
    (b"PARE", "an encrypted Parquet file; decrypt it"),
];

const NUMPY: &[u8] = b"\x93NUMPY";

/// Returns what a file is that should have tokens. Without a header (`bare`) they can begin with
/// any bytes, so only long marks count.
pub fn refused_tokens(path: &Path, head: &[u8], bare: bool) -> Option<&'static str> {
    let is_text = |head: &[u8]| head.iter().all(|&byte| byte >= b' ' || byte.is_ascii_whitespace());
    match head {
        [b'P', b'A', b'R', b'1', 0x15, ..] => return Some("a Parquet file; name it .parquet"),
        [0x1f, 0x8b, 8, ..] => return Some("compressed with gzip; decompress it with `gzip -d`"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            return Some("compressed with Zstandard; decompress it with `zstd -d`");
        }
        [b'{', b'"', ..] | [b'[', b'{', b'"', ..] if is_text(head) => {
            return Some("JSON; name it .jsonl, or .json if it is one list or object");
        }
        _ => {}
    }
    match magic(path, head) {
        found if !bare || head.starts_with(NUMPY) => placeholder(head).or(found),
        _ => placeholder(head),
    }
}

/// Returns what a file is that is a web page, or XML as a server answers with an error.
pub fn page(head: &[u8]) -> Option<&'static str> {
    let start = head.trim_ascii_start();
    let is_markup = [&b"<!--"[..], b"<?xml"].iter().any(|mark| start.starts_with(mark));
    placeholder(head).or(is_markup.then_some(WEB_PAGE))
}

/// True if the name of a file named as text has an extension of data; `compressed` adds those of
/// compressed files.
pub fn is_of_data(path: &Path, compressed: bool) -> bool {
    const DATA: [&str; 9] = ["jsonl", "json", "csv", "tsv", "parquet", "npy", "npz", "zip", "tar"];
    let name = lower_name(path);
    let is_compressed = |part: &str| compressed && matches!(part, "gz" | "zst" | "xz" | "bz2");
    name.split('.').skip(1).any(|part| DATA.contains(&part) || is_compressed(part))
}

/// Returns what a file is and what to do, if it is not read: by its first bytes or its encoding.
pub fn refused(path: &Path, head: &[u8]) -> Option<&'static str> {
    lfs_pointer(head).or_else(|| magic(path, head)).or_else(|| encoding(head))
}

/// Returns what a file is and what to do, if its first bytes belong to a format that is not read.
fn magic(path: &Path, head: &[u8]) -> Option<&'static str> {
    match head {
        [b'P', b'K', 3, 4, ..] => Some(zip(&lower_name(path), head)),
        [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', ..] => {
            Some("compressed with bzip2; decompress it with `bzip2 -d`")
        }
        [b'G', b'G', b'U', b'F', _, 0, 0, 0, ..] => {
            Some("a GGUF file, which holds weights of a model, not data")
        }
        [0x80, 2 | 3, b']' | b'}' | b'(' | b'c' | 0x8a, ..] | [0x80, 4 | 5, 0x95, ..] => Some(
            "a Python pickle or an old PyTorch file; write its rows as JSONL, its tokens with numpy's tofile",
        ),
        [_, _, _, _, _, 0, 0, 0, b'{', b'"', ..] => {
            Some("a safetensors file, which holds weights of a model, not data")
        }
        _ if head.get(257..262) == Some(b"ustar") => Some("a tar archive; unpack it with `tar -xf`"),
        _ => REFUSED.iter().find(|(start, _)| head.starts_with(start)).map(|(_, what)| *what),
    }
}

/// Returns what a zip archive is.
fn zip(name: &str, head: &[u8]) -> &'static str {
    let has = |part: &[u8]| memchr::memmem::find(head, part).is_some();
    if name.ends_with(".xlsx") || has(b"[Content_Types].xml") || has(b"xl/") {
        "an Excel file; save the table as CSV (UTF-8)"
    } else if has(b"data.pkl") {
        "a PyTorch file; write token tensors without a header, e.g. \
         torch.load(\"a.pt\").numpy().astype(\"<u4\").tofile(\"a.u32\")"
    } else if name.ends_with(".npz") || has(b".npy") {
        "an archive of NumPy arrays; write tokens without a header, e.g. \
         numpy.load(\"a.npz\")[\"tokens\"].astype(\"<u4\").tofile(\"a.u32\")"
    } else {
        "a zip archive; unpack it with `unzip`"
    }
}

/// Returns what the encoding of a text is, if it is not UTF-8 by its byte order mark or its zero
/// bytes.
fn encoding(head: &[u8]) -> Option<&'static str> {
    const UTF16: &str = "text in UTF-16; save it as UTF-8, in PowerShell: `Get-Content FILE | Out-File -Encoding utf8 NEW`, \
                         elsewhere: `iconv -f UTF-16 -t UTF-8 FILE > NEW`";
    const TABLE: &str = "a table in UTF-16, as Excel saves \"Unicode text\"; save it as CSV UTF-8, or convert it and \
                         name it .tsv: `iconv -f UTF-16 -t UTF-8 FILE > NEW.tsv`";
    const UTF32: &str = "text in UTF-32; save it as UTF-8, e.g. `iconv -f UTF-32 -t UTF-8 FILE > NEW`";
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let is_table = [b"\t\0", b"\0\t"].iter().any(|tab| memchr::memmem::find(line, *tab).is_some());
    let utf16 = if is_table { TABLE } else { UTF16 };
    match head {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Some(UTF32),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Some(utf16),
        _ => {}
    }
    // Without a byte order mark: nearly all of the first characters are Latin.
    let first = &head[..head.len().min(64) / 4 * 4];
    let latin =
        |units: &[u8], value: usize| units.iter().enumerate().all(|(at, &byte)| (byte == 0) != (at == value));
    let most = |width: usize, value: usize| {
        let characters = first.len() / width;
        first.chunks_exact(width).filter(|units| latin(units, value)).count() * 8 >= characters * 7
    };
    match first.len() {
        0..8 => None,
        _ if most(2, 0) || most(2, 1) => Some(utf16),
        _ if most(4, 0) || most(4, 3) => Some(UTF32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_the_format() {
        for (name, format) in [
            ("a.jsonl", Format::Json),
            ("A.JSONL", Format::Json),
            ("a.ndjson", Format::Json),
            ("a.b.json.gz", Format::Json),
            ("a.jsonl.txt", Format::Json),
            ("a.jsonl.zst", Format::Json),
            ("a.Csv", Format::Csv),
            ("a.tsv.txt", Format::Tsv),
            ("train-00000-of-00001.parquet", Format::Table),
            ("a.txt.gz", Format::Text),
            ("a.txt", Format::Text),
            ("json", Format::Text),
            ("a.rs", Format::Text),
            ("a.gz", Format::Text),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }

    #[test]
    fn encodings_other_than_utf_8_are_named() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let big = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        let utf32 = |text: &str| text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect::<Vec<_>>();
        for (bytes, word) in [
            (utf16("\u{feff}{\"text\": \"é\"}"), Some("UTF-16")),
            (big("\u{feff}plain"), Some("UTF-16")),
            (utf16("plain text"), Some("UTF-16")),
            (big("plain text"), Some("UTF-16")),
            (utf16("über – a plain text"), Some("UTF-16")),
            (utf16("\u{feff}prompt\tcompletion\r\n"), Some(".tsv")),
            (utf32("\u{feff}plain"), Some("UTF-32")),
            (utf32("plain text"), Some("UTF-32")),
            (b"plain text".to_vec(), None),
            (b"".to_vec(), None),
            (b"a\0b, a binary file".to_vec(), None),
            ("\u{feff}é".into(), None),
        ] {
            let found = refused(Path::new("a.txt"), &bytes);
            assert_eq!(found.is_some(), word.is_some(), "{bytes:?}");
            assert!(found.unwrap_or_default().contains(word.unwrap_or_default()), "{found:?}");
        }
    }
}
