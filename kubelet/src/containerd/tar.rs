//! Files -> a tar archive (POSIX ustar), in memory.

const BLOCK: usize = 512;

/// An archive being written. Owner is root, times are zero: the same files give the same bytes.
#[derive(Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// Adds a regular file; `path` has at most 100 bytes.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, "0", mode, content);
    }

    /// Adds a directory, before what is in it; `path` has at most 100 bytes.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.entry(path, "5", mode, b"");
    }

    fn entry(&mut self, path: &str, kind: &str, mode: u32, content: &[u8]) {
        let mut header = [0_u8; BLOCK];
        put(&mut header, 0, path);
        put(&mut header, 100, &format!("{mode:07o}"));
        put(&mut header, 108, "0000000");
        put(&mut header, 116, "0000000");
        put(&mut header, 124, &format!("{:011o}", content.len()));
        put(&mut header, 136, "00000000000");
        // The checksum counts its own field as spaces.
        put(&mut header, 148, "        ");
        put(&mut header, 156, kind);
        put(&mut header, 257, "ustar\u{0}00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header, 148, &format!("{sum:06o}\u{0}"));
        self.bytes.extend(header);
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

fn put(header: &mut [u8; BLOCK], at: usize, text: &str) {
    header[at..].iter_mut().zip(text.bytes()).for_each(|(slot, byte)| *slot = byte);
}

#[cfg(test)]
mod tests {
    use std::{io::Write, process::Command};

    use super::*;

    #[test]
    fn tar_reads_it() {
        let mut tar = Tar::default();
        tar.directory("a", 0o700);
        tar.file("a/b", 0o755, b"hello");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&tar.finish()).unwrap();
        let out = Command::new("tar").arg("-tvf").arg(file.path()).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("drwx------") && lines[0].ends_with(" a"), "{text}");
        assert!(lines[1].starts_with("-rwxr-xr-x") && lines[1].ends_with(" a/b"), "{text}");
    }
}
