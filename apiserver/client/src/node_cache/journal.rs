//! Lines -> a file that may be torn anywhere, and what of it still holds.
//!
//! Each line is preceded by its checksum. Changes count up to the last mark (`@` and a revision) that stands behind them: what the disk lost, or has
//! half, is as if it had never been told.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use super::event::{Told, read};

/// A file that is larger is not read, and none is written that large.
pub const FILE_BYTES_MAX: u64 = 32 << 20;
/// Names of files with tokens begin so, then comes what tells their pod, and another `-`.
pub const TOKEN: &str = "token-";
const MARK: u8 = b'@';
const SUM_DIGITS: usize = 8;

/// A whole collection at a revision: by namespace and name, the event that told of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collection {
    pub lines: BTreeMap<String, Vec<u8>>,
    pub revision: String,
    /// So much of the file holds. What stands behind it was cut off, or never finished: nothing may be added to that.
    pub bytes: u64,
}

/// Makes it where it is missing; nobody else may look into it.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// `None` where there is none, or where nothing of it holds.
pub fn load(path: &Path) -> Option<Collection> {
    let bytes = read_file(path)?;
    let (mut found, mut at) = (None, 0);
    let mut since: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        at += line.len() as u64;
        let Some(line) = checked(line) else {
            tracing::warn!(file = %path.display(), "what was kept is cut off or damaged; going on with what is whole");
            break;
        };
        if let Some(revision) = line.strip_prefix(&[MARK]) {
            let collection: &mut Collection = found.get_or_insert_default();
            for (key, line) in since.drain(..) {
                match line {
                    Some(line) => drop(collection.lines.insert(key, line)),
                    None => drop(collection.lines.remove(&key)),
                }
            }
            (collection.revision, collection.bytes) = (String::from_utf8_lossy(revision).into_owned(), at);
            continue;
        }
        match read(line) {
            Some(Told::Put { key, .. }) => since.push((key, Some(line.to_vec()))),
            Some(Told::Gone { key, .. }) => since.push((key, None)),
            _ => {}
        }
    }
    found
}

/// The bytes of one answer, as [`replace`] wrote them.
pub fn load_single(path: &Path) -> Option<Vec<u8>> {
    let bytes = read_file(path)?;
    checked(&bytes).map(<[u8]>::to_vec)
}

fn read_file(path: &Path) -> Option<Vec<u8>> {
    let size = fs::metadata(path).ok()?.len();
    if size > FILE_BYTES_MAX {
        return None;
    }
    fs::read(path).inspect_err(|error| tracing::warn!(file = %path.display(), %error, "what was kept cannot be read")).ok()
}

/// Replaces the whole file: it is never half there. Returns its size.
pub fn replace(path: &Path, lines: impl Iterator<Item = Vec<u8>>, mark: Option<&str>) -> io::Result<u64> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let mut out = io::BufWriter::new(file);
    let mut size = 0;
    for line in lines.chain(mark.map(marked)) {
        size += write(&mut out, &line)?;
        if size > FILE_BYTES_MAX {
            drop(out);
            // What stood there is of before, and would be taken for what is.
            let _ = fs::remove_file(&beside);
            let _ = fs::remove_file(path);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is more than {} MiB", FILE_BYTES_MAX >> 20)));
        }
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())?;
    Ok(size)
}

/// Adds to a file of which `at` bytes hold, without waiting for the disk. What stands behind them (of a write that failed half-way) goes. Returns its size.
///
/// # Errors
/// Also where the file is not there, or shorter: it is not what was written.
pub fn append(path: &Path, at: u64, lines: impl Iterator<Item = Vec<u8>>, mark: &str) -> io::Result<u64> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    let there = file.seek(io::SeekFrom::End(0))?;
    if there < at {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is shorter than it was"));
    }
    if there > at {
        file.set_len(at)?;
        file.seek(io::SeekFrom::Start(at))?;
    }
    let mut out = io::BufWriter::new(file);
    let mut size = at;
    for line in lines.chain([marked(mark)]) {
        size += write(&mut out, &line)?;
    }
    out.flush()?;
    Ok(size)
}

/// What [`append`] would add.
pub fn bytes_of<'l>(lines: impl Iterator<Item = &'l Vec<u8>>, mark: &str) -> u64 {
    let line = |length: usize| (length + SUM_DIGITS + 2) as u64;
    lines.map(|text| line(text.len())).sum::<u64>() + line(mark.len() + 1)
}

/// Cuts off what stands behind the first `bytes` of a file. Needs no room.
pub fn cut(path: &Path, bytes: u64) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() > bytes {
        file.set_len(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Removes files that are not `needed` and have not been written for `age`.
pub fn remove_others(dir: &Path, needed: &[PathBuf], age: Duration) -> io::Result<()> {
    for file in fs::read_dir(dir)? {
        let file = file?;
        let is_old = file.metadata()?.modified()?.elapsed().is_ok_and(|since| since >= age);
        if is_old && !needed.contains(&file.path()) {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

/// Files with tokens whose names begin with none of `pods`.
pub fn tokens_but(dir: &Path, pods: &HashSet<String>) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in fs::read_dir(dir)? {
        let file = file?;
        let (name, path) = (file.file_name(), file.path());
        let end = name.to_str().and_then(|name| Some((name, TOKEN.len() + name.strip_prefix(TOKEN)?.find('-')? + 1)));
        if end.is_some_and(|(name, end)| !pods.contains(&name[..end])) {
            found.push(path);
        }
    }
    Ok(found)
}

fn marked(revision: &str) -> Vec<u8> {
    let mut line = vec![MARK];
    line.extend_from_slice(revision.as_bytes());
    line
}

fn write(out: &mut impl Write, line: &[u8]) -> io::Result<u64> {
    let line = line.trim_ascii_end();
    write!(out, "{:08x} ", crc32fast::hash(line))?;
    out.write_all(line)?;
    out.write_all(b"\n")?;
    Ok((line.len() + SUM_DIGITS + 2) as u64)
}

/// What stands behind a right checksum, up to the end of the line.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, rest) = line.split_at_checked(SUM_DIGITS)?;
    let rest = rest.strip_prefix(b" ")?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (sum == crc32fast::hash(rest)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str, revision: u32) -> Vec<u8> {
        format!(r#"{{"type":"ADDED","object":{{"metadata":{{"namespace":"n","name":"{name}","resourceVersion":"{revision}"}}}}}}"#)
            .into_bytes()
    }

    fn gone(name: &str, revision: u32) -> Vec<u8> {
        String::from_utf8(put(name, revision)).unwrap().replace("ADDED", "DELETED").into_bytes()
    }

    fn names(path: &Path) -> Option<(String, String)> {
        load(path).map(|all| (all.lines.keys().cloned().collect::<Vec<_>>().join(" "), all.revision))
    }

    fn is(names: &str, revision: &str) -> Option<(String, String)> {
        Some((names.to_owned(), revision.to_owned()))
    }

    #[test]
    fn a_file_that_is_cut_anywhere_holds_what_was_whole_at_some_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(names(&path), None);
        let at = replace(&path, [put("a", 1), put("b", 2)].into_iter(), Some("3")).unwrap();
        let lines = [put("c", 4), gone("a", 5)];
        let grown = bytes_of(lines.iter(), "5");
        let at = (at, append(&path, at, lines.into_iter(), "5").unwrap());
        assert_eq!(at.0 + grown, at.1);
        let at = append(&path, at.1, [gone("b", 6)].into_iter(), "6").unwrap();
        assert_eq!((at, load(&path).unwrap().bytes), (fs::metadata(&path).unwrap().len(), at));
        assert_eq!(names(&path), is("n/c", "6"));
        let whole = fs::read(&path).unwrap();
        let states = [None, is("n/a n/b", "3"), is("n/b n/c", "5"), is("n/c", "6")];
        let mut last = 0;
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let at = states.iter().position(|state| *state == names(&path)).expect("one of the states that there were");
            assert!(at >= last, "more of the file tells no less");
            last = at;
        }
        assert_eq!(last, 3);
        for at in 0..whole.len() {
            let mut torn = whole.clone();
            torn[at] ^= 0x20;
            fs::write(&path, &torn).unwrap();
            assert!(states.contains(&names(&path)), "a byte that is another, at {at}");
        }
        for nonsense in [&b"\0\0\0\0"[..], b"nonsense\n", b"00000000 \n", b"@7\n"] {
            fs::write(&path, nonsense).unwrap();
            assert_eq!(load(&path), None);
        }
    }

    #[test]
    fn what_is_added_stands_behind_what_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let at = replace(&path, [put("a", 1)].into_iter(), Some("1")).unwrap();
        // A disk that was full left half of what was to be added.
        for torn in [&b"1234"[..], b"nonsense\n", &[0; 100]] {
            fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(torn).unwrap();
            assert_eq!(load(&path).unwrap().bytes, at);
            append(&path, at, [put("b", 2)].into_iter(), "2").unwrap();
            assert_eq!(names(&path), is("n/a n/b", "2"), "{torn:?}");
            cut(&path, at).unwrap();
            assert_eq!((names(&path), fs::metadata(&path).unwrap().len()), (is("n/a", "1"), at));
        }
        fs::write(&path, "short").unwrap();
        assert!(append(&path, at, [put("b", 2)].into_iter(), "2").is_err(), "it is another file");
    }

    #[test]
    fn nobody_else_reads_it_and_what_is_too_large_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("cache");
        private_dir(&place).unwrap();
        let path = place.join("a");
        fs::write(&path, "open").unwrap();
        replace(&path, [put("a", 1)].into_iter(), Some("1")).unwrap();
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "even where it was open to others");
        let piece = vec![b'x'; 1 << 20];
        assert!(replace(&path, std::iter::repeat_n(piece, 40), Some("1")).is_err());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "what was there is of before");
    }

    #[test]
    fn what_is_not_needed_is_removed_once_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["needed", "other"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let needed = [dir.path().join("needed")];
        remove_others(dir.path(), &needed, Duration::from_secs(3600)).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        remove_others(dir.path(), &needed, Duration::ZERO).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>(), needed);
    }
}
