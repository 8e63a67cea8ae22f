use std::cell::Cell;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;

const CONTENT: Content = Content { hash: u64::MAX, largest: 3 };

fn cache_in(folder: &Path) -> Cache {
    Cache { folder: folder.join("cache/horizon"), bytes_min: 4 }
}

fn metadata(path: &Path) -> Metadata {
    fs::metadata(path).unwrap()
}

#[test]
fn a_change_of_a_file_changes_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    fs::write(&path, "12345").unwrap();
    let (before, modified) = (metadata(&path), metadata(&path).modified().unwrap());
    assert_eq!(key(&path, &before), key(&dir.path().join("./tokens"), &metadata(&path)));
    // Rewritten with the old size and the old time, as one who wants to hide it does.
    std::thread::sleep(Duration::from_millis(20));
    fs::write(&path, "12346").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(modified)).unwrap();
    assert_eq!(metadata(&path).modified().unwrap(), modified);
    assert_ne!(key(&path, &before), key(&path, &metadata(&path)));
    // Only later can a time stamp tell every change.
    let now = SystemTime::now();
    assert!(!is_settled(&metadata(&path), now));
    assert!(is_settled(&metadata(&path), now + Duration::from_secs(5)));
}

#[test]
fn a_cached_file_is_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, path) = (cache_in(dir.path()), dir.path().join("tokens"));
    let (scans, done, is_known) = (Cell::new(0), Cell::new(0), Cell::new(true));
    let progress = |bytes| {
        done.set(done.get() + bytes);
        Ok(())
    };
    let hashing = Hashing { cache: Some(&cache), progress: &progress };
    let open = || {
        let scan = || {
            scans.set(scans.get() + 1);
            Ok(CONTENT)
        };
        let metadata = metadata(&path);
        let bytes = metadata.len();
        hashing.content(&path, bytes, || Ok(is_known.get().then(|| metadata.clone())), scan).unwrap()
    };
    fs::write(&path, "12345").unwrap();
    assert_eq!((open(), open(), scans.get()), (CONTENT, CONTENT, 2), "a young file is not cached");
    cache.store(key(&path, &metadata(&path)), CONTENT).unwrap();
    assert_eq!((open(), scans.get(), done.get()), (CONTENT, 2, 5));
    is_known.set(false);
    assert_eq!((open(), scans.get()), (CONTENT, 3), "times that a write may leave as they are");
    is_known.set(true);
    fs::write(&path, "123").unwrap();
    cache.store(key(&path, &metadata(&path)), CONTENT).unwrap();
    assert_eq!((open(), scans.get()), (CONTENT, 4), "a small file is not looked up");
}

#[test]
fn a_cache_of_others_and_a_damaged_one_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_in(dir.path());
    cache.store(0, CONTENT).unwrap();
    let full: Vec<Entry> = (1..=1000).map(|key| (key, CONTENT.hash, CONTENT.largest)).collect();
    let text = serde_json::to_string(&full).unwrap();
    fs::write(cache.file(), format!("{}\n{text}", sum(&text))).unwrap();
    cache.store(2000, CONTENT).unwrap();
    assert_eq!((cache.find(1), cache.find(2), cache.find(2000)), (None, Some(CONTENT), Some(CONTENT)));
    assert_eq!(metadata(&cache.folder).permissions().mode() & 0o777, 0o700);

    let mut bytes = fs::read(cache.file()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(cache.file(), bytes).unwrap();
    assert_eq!(cache.find(3), None);
    cache.store(7, CONTENT).unwrap();
    assert_eq!((cache.find(3), cache.find(7)), (None, Some(CONTENT)));

    fs::set_permissions(&cache.folder, fs::Permissions::from_mode(0o770)).unwrap();
    assert_eq!(cache.find(7), None);
    assert!(cache.store(8, CONTENT).is_err());
    fs::set_permissions(&cache.folder, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&cache.folder, dir.path().join("link")).unwrap();
    assert_eq!(Cache { folder: dir.path().join("link"), ..cache }.find(7), None);
}
