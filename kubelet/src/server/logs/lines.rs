//! CRI log format -> the text that the container wrote.
//!
//! A line is `<RFC 3339 time> stdout|stderr P|F[:tags] <text>`; a `P` (partial) has no line end of its own.

use std::ops::ControlFlow;

use api::time::Timestamp;

use super::options::{Options, Stream};

/// Longer lines than the runtime ever writes (it cuts at 16 KiB) are given up.
const LINE_MAX: usize = 1 << 20;

/// Reads a log piece by piece.
pub struct Lines {
    options: Options,
    /// The beginning of a line whose end has not been read.
    begun: Vec<u8>,
    /// Whether the next text starts a line of the container's own.
    at_start: bool,
    /// Bytes that may still be written.
    left: u64,
    /// Entries that may still be written: `tailLines` where nothing is followed.
    entries: Option<u64>,
}

struct Entry<'a> {
    time: &'a str,
    stream: Stream,
    partial: bool,
    text: &'a [u8],
}

impl Lines {
    pub fn new(options: Options) -> Self {
        let entries = options.tail_lines.filter(|_| !options.follow);
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        Self { options, begun: Vec::new(), at_start: true, left, entries }
    }

    /// Adds what `data` says to `out`; breaks when nothing more may be written.
    pub fn feed(&mut self, data: &[u8], out: &mut Vec<u8>) -> ControlFlow<()> {
        let mut rest = data;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            if self.begun.is_empty() {
                self.line(line, End::Newline, out)?;
            } else {
                let mut whole = std::mem::take(&mut self.begun);
                whole.extend_from_slice(line);
                self.line(&whole, End::Newline, out)?;
            }
        }
        if self.begun.len() + rest.len() <= LINE_MAX {
            self.begun.extend_from_slice(rest);
        }
        self.spent()
    }

    /// Adds a last line that has no end.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let last = std::mem::take(&mut self.begun);
        if !last.is_empty() {
            let _ = self.line(&last, End::Missing, out);
        }
    }

    fn line(&mut self, line: &[u8], end: End, out: &mut Vec<u8>) -> ControlFlow<()> {
        self.spent()?;
        // What is not in the format is left out, as upstream does.
        let Some(entry) = Entry::parse(line) else { return ControlFlow::Continue(()) };
        if let Some(entries) = &mut self.entries {
            *entries -= 1;
        }
        let wanted = self.options.stream == Stream::All || self.options.stream == entry.stream;
        let time = api::time::parse(entry.time).filter(|_| self.options.since.is_some() || self.options.timestamps);
        let early = self.options.since.is_some_and(|since| time.is_none_or(|t| t < since));
        if wanted && !early {
            self.write(&entry, time, end, out);
            self.at_start = !entry.partial;
        }
        self.spent()
    }

    fn write(&mut self, entry: &Entry<'_>, time: Option<Timestamp>, end: End, out: &mut Vec<u8>) {
        if self.options.timestamps && self.at_start {
            let stamp = time.map(|t| t.strftime("%Y-%m-%dT%H:%M:%S.%9fZ ").to_string()).unwrap_or_default();
            self.put(stamp.as_bytes(), out);
        }
        self.put(entry.text, out);
        if !entry.partial && end == End::Newline {
            self.put(b"\n", out);
        }
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        out.extend_from_slice(bytes.get(..count).unwrap_or_default());
        self.left -= count as u64;
    }

    fn spent(&self) -> ControlFlow<()> {
        if self.left == 0 || self.entries == Some(0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Newline,
    Missing,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let partial = parts.next()?.split(|b| *b == b':').next() == Some(b"P");
        Some(Self { time, stream, partial, text: parts.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&str], query: &str) -> String {
        let mut lines = Lines::new(Options::parse(query, Timestamp::UNIX_EPOCH).unwrap());
        let mut out = Vec::new();
        for piece in pieces {
            if lines.feed(piece.as_bytes(), &mut out).is_break() {
                return String::from_utf8(out).unwrap();
            }
        }
        lines.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_cut_anywhere_read_the_same() {
        let whole =
            "2026-01-02T03:04:05Z stdout F a b  c\n2026-01-02T03:04:05Z stderr P:x half\n2026-01-02T03:04:05Z stderr F \nnonsense\n";
        for cut in 0..whole.len() {
            let (first, second) = whole.split_at(cut);
            assert_eq!(read(&[first, second], ""), "a b  c\nhalf\n", "{cut}");
        }
    }

    #[test]
    fn a_line_that_never_ends_is_not_kept() {
        let mut lines = Lines::new(Options::parse("", Timestamp::UNIX_EPOCH).unwrap());
        let (mut out, piece) = (Vec::new(), vec![b'x'; 64 << 10]);
        for _ in 0..1024 {
            assert!(lines.feed(&piece, &mut out).is_continue());
            assert!(out.is_empty() && lines.begun.capacity() <= 2 * LINE_MAX);
        }
    }

    #[test]
    fn a_line_without_end_is_shown_at_the_end() {
        assert_eq!(read(&["2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05Z stdout F b"], ""), "a\nb");
        assert_eq!(read(&["2026-01-02T03:04:05Z stdout F"], ""), "");
    }

    #[test]
    fn one_stamp_for_each_of_the_containers_lines() {
        let text = "2026-01-02T03:04:05.12+01:00 stdout P a\n2026-01-02T03:04:06Z stdout F b\n";
        assert_eq!(read(&[text], "timestamps=true"), "2026-01-02T02:04:05.120000000Z ab\n");
        assert_eq!(read(&[text], "timestamps=true&limitBytes=10"), "2026-01-02");
    }
}
