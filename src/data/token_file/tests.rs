//! Token files of every format, and damaged ones.

use super::*;

/// Bytes of the header of an llm.c file.
const LLMC_HEADER_BYTES: usize = 1024;

fn write(dir: &Path, magic: i32, version: i32, count: i32, body: &[u8]) -> PathBuf {
    let mut bytes = vec![0u8; LLMC_HEADER_BYTES];
    for (k, word) in [magic, version, count].into_iter().enumerate() {
        bytes[4 * k..4 * k + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(body);
    let path = dir.join("tokens.bin");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn u16s(tokens: &[u16]) -> Vec<u8> {
    tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
}

fn u32s(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
}

/// The last two tokens of a file.
fn last_two(file: &TokenFile) -> [i32; 2] {
    let mut tokens = [0; 2];
    let [first, last] = &mut tokens;
    file.copy(file.tokens() - 2, std::slice::from_mut(first), last).unwrap();
    tokens
}

#[test]
fn both_llmc_formats_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), 20_240_520, 1, 3, &u16s(&[7, 50_256, 65_535]));
    let file = TokenFile::open(&path, TokenFormat::Headed, 65_536).unwrap();
    assert_eq!(file.tokens(), 3);
    assert_eq!(last_two(&file), [50_256, 65_535]);
    let path = write(dir.path(), 20_240_801, 7, 3, &u32s(&[9, 7, 128_000]));
    assert_eq!(last_two(&TokenFile::open(&path, TokenFormat::Headed, 128_256).unwrap()), [7, 128_000]);
}

#[test]
fn a_token_above_i32_is_outside_every_vocabulary() {
    let read = |token: u32| {
        TokenFile::from_bytes("tokens", TokenFormat::RawU32, usize::MAX, u32s(&[token, 7]))
            .map(|file| last_two(&file)[0])
    };
    assert_eq!(read(i32::MAX as u32).unwrap(), i32::MAX);
    let error = read(1 << 31).unwrap_err();
    assert!(error.message().contains("token 0 is 2147483648"), "{error}");
}

#[test]
fn a_token_outside_the_vocabulary_is_named_with_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let mut tokens = vec![1u16; 10_000];
    tokens[9_000] = 300;
    tokens[9_500] = 301;
    let path = write(dir.path(), 20_240_520, 1, 10_000, &u16s(&tokens));
    let message = TokenFile::open(&path, TokenFormat::Headed, 256).unwrap_err().to_string();
    assert!(message.contains("tokens.bin: token 9000 is 300") && message.contains("256"), "{message}");
    assert!(TokenFile::open(&path, TokenFormat::Headed, 302).is_ok());
    let path = write(dir.path(), 20_240_801, 7, 2, &u32s(&[1, u32::MAX]));
    let message = TokenFile::open(&path, TokenFormat::Headed, 256).unwrap_err().to_string();
    assert!(message.contains("token 1 is 4294967295"), "{message}");
}

#[test]
fn damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (magic, version, count, body, word) in [
        (1, 1, 2, 4, "magic 1"),
        (20_240_520, 2, 2, 4, "version 2"),
        (20_240_520, 7, 2, 4, "version 7"),
        (20_240_520, 1, 2, 3, "truncated"),
        (20_240_520, 1, 2, 6, "truncated"),
        (20_240_520, 1, -2, 4, "truncated"),
        (20_240_801, 7, i32::MAX, 8, "truncated"),
    ] {
        let path = write(dir.path(), magic, version, count, &vec![0; body]);
        let error = TokenFile::open(&path, TokenFormat::Headed, 256).unwrap_err();
        assert_eq!(error.status(), Status::BadFormat);
        assert!(error.message().contains(word), "{error}");
    }
    let short = dir.path().join("short.bin");
    std::fs::write(&short, [0; 100]).unwrap();
    assert!(TokenFile::open(&short, TokenFormat::Headed, 256).unwrap_err().message().contains("100 bytes"));
}

#[test]
fn raw_files_are_read_without_a_header() {
    let raw = |format, bytes: Vec<u8>| TokenFile::from_bytes("raw", format, 70_000, bytes);
    assert_eq!(last_two(&raw(TokenFormat::RawU16, u16s(&[1, 65_535, 3])).unwrap()), [65_535, 3]);
    assert_eq!(last_two(&raw(TokenFormat::RawU32, u32s(&[1, 69_999])).unwrap()), [1, 69_999]);
    assert!(raw(TokenFormat::RawU32, u32s(&[1, 70_000])).unwrap_err().message().contains("token 1 is 70000"));
    assert!(raw(TokenFormat::RawU32, vec![0; 6]).unwrap_err().message().contains("6 bytes"));
    assert_eq!(TokenFormat::of(Path::new("a/b.u16")), Some(TokenFormat::RawU16));
    assert_eq!(TokenFormat::of(Path::new("a/b.txt")), None);
}

#[test]
fn tokens_of_another_width_are_named() {
    let raw = |format, bytes: Vec<u8>| TokenFile::from_bytes("raw", format, 262_144, bytes);
    let long = |token: &u32| u64::from(*token).to_le_bytes();
    let small: Vec<u32> = (1..40).collect();
    let large: Vec<u32> = small.iter().map(|token| 128_000 + token % 2 * 70_000 + token).collect();
    for tokens in [&small, &large] {
        let short: Vec<u16> = tokens.iter().map(|&token| token as u16).collect();
        assert!(raw(TokenFormat::RawU16, u16s(&short)).is_ok());
        assert!(raw(TokenFormat::RawU32, u32s(tokens)).is_ok());
        let error = raw(TokenFormat::RawU16, u32s(tokens)).unwrap_err();
        assert!(error.message().contains("uint32; name the file .u32"), "{error}");
        let error = raw(TokenFormat::RawU32, tokens.iter().flat_map(long).collect()).unwrap_err();
        assert!(error.message().contains("astype(\"<u4\")"), "{error}");
    }
    for format in [TokenFormat::RawU16, TokenFormat::RawU32] {
        assert!(raw(format, vec![0; 800]).unwrap_err().message().contains("all tokens are 0"));
        for (start, word) in [
            (&b"{\"text\": \"a\"}\n"[..], "JSON; name it .jsonl"),
            (b"PAR1\x15\x04\x15\x10", "Parquet"),
            (b"\x1f\x8b\x08\0\0\0\0\0", "gzip -d"),
        ] {
            let error = raw(format, start.to_vec()).unwrap_err();
            assert!(error.message().contains(word), "{error}");
        }
    }
}

/// A file in Horizon's format with two documents of two tokens.
fn own() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    [VERSION, 2].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    [4u64, 2, 9].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend(u16s(&[1, 2, 3, 4]));
    [0u64, 2].iter().for_each(|start| bytes.extend(start.to_le_bytes()));
    bytes.push(0b1010);
    bytes
}

#[test]
fn every_header_field_of_horizon_files_is_checked() {
    let open = |bytes| TokenFile::from_bytes("own.bin", TokenFormat::Headed, 256, bytes);
    let file = open(own()).unwrap();
    assert_eq!((file.tokens(), file.starts(), file.fingerprint()), (4, &[0, 2][..], 9));
    let mut mask = file.mask(0..4).unwrap();
    assert!((0..4).map(|at| mask.is_supervised(at).unwrap()).eq([false, true, false, true]));
    for end in 0..own().len() {
        assert!(open(own()[..end].to_vec()).is_err(), "cut at {end}");
    }
    assert!(open([own(), vec![0]].concat()).is_err());
    for (at, value, word) in [
        (8, 2, "version 2"),
        (12, 3, "(bytes per token) are 3"),
        (16, 5, "states 5 tokens"),
        (23, 255, "states"),
        (24, 3, "3 documents"),
        (31, 32, "documents"),
        (40, 2, "(whole documents) are 2"),
        (47, 129, "are no tokens"),
        (45, 2, "name token 511, outside"),
        (HEADER_BYTES + 8, 1, "must start at token 0"),
        (HEADER_BYTES + 16, 0, "document 1 starts at token 0"),
        (HEADER_BYTES + 16, 4, "all before token 4"),
    ] {
        let mut bytes = own();
        bytes[at] = value;
        let error = open(bytes).unwrap_err();
        assert!(error.message().contains(word), "byte {at}: {error}");
    }
}

/// In the worst case while a run of days reads them.
#[test]
fn a_file_that_is_changed_while_it_is_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.bin");
    let long = |tokens: &[u16]| {
        let tokens = tokens.repeat(5_000);
        [&20_240_520i32.to_le_bytes()[..], &1i32.to_le_bytes(), &(tokens.len() as i32).to_le_bytes()]
            .concat()
            .into_iter()
            .chain([0; LLMC_HEADER_BYTES - 12])
            .chain(u16s(&tokens))
            .collect::<Vec<u8>>()
    };
    let read = |change: &dyn Fn()| {
        std::fs::write(&path, long(&[1, 2])).unwrap();
        let file = TokenFile::open(&path, TokenFormat::Headed, 256).unwrap();
        let (mut tokens, mut next) = ([0; 9_000], 0);
        file.copy(500, &mut tokens, &mut next).unwrap();
        assert!(tokens == [1, 2].repeat(4_500)[..] && next == 1);
        file.check_unchanged().unwrap();
        // Time stamps advance by a few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        change();
        let read = file.copy(500, &mut tokens, &mut next).and_then(|()| file.check_unchanged());
        read.unwrap_err().to_string()
    };
    let shortened =
        read(&|| std::fs::File::options().write(true).open(&path).unwrap().set_len(9_000).unwrap());
    assert!(shortened.contains("tokens.bin became shorter while it was read"), "{shortened}");
    let outside = read(&|| std::fs::write(&path, long(&[1, 300])).unwrap());
    assert!(outside.contains("tokens.bin was written to while it was read"), "{outside}");
    let rewritten = read(&|| std::fs::write(&path, long(&[2, 1])).unwrap());
    assert!(rewritten.contains("tokens.bin was written to while it was read"), "{rewritten}");
    let modified = |set: Option<std::time::SystemTime>| {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        set.iter().for_each(|time| file.set_modified(*time).unwrap());
        file.metadata().unwrap().modified().unwrap()
    };
    let hidden = read(&|| {
        let before = modified(None);
        std::fs::write(&path, long(&[2, 1])).unwrap();
        modified(Some(before));
    });
    assert!(hidden.contains("tokens.bin changed while it was read"), "{hidden}");
    std::fs::write(&path, long(&[1, 2])).unwrap();
    let file = TokenFile::open(&path, TokenFormat::Headed, 256).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    std::fs::hard_link(&path, dir.path().join("link.bin")).unwrap();
    file.check_unchanged().unwrap();
    let mut bytes = own();
    std::fs::write(&path, &bytes).unwrap();
    let file = TokenFile::open(&path, TokenFormat::Headed, 256).unwrap();
    bytes.pop();
    std::fs::write(&path, &bytes).unwrap();
    assert!(file.mask(0..4).unwrap().is_supervised(0).unwrap_err().message().contains("became shorter"));
}
