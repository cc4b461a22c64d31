//! What happens -> lines for whoever waits at the terminal.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

/// The last line that `skiff up` in the background sends to the one who started it.
pub const DONE: &str = "\u{4}";

/// Progress on standard output; silent once [`Progress::done`] was said.
#[derive(Debug, Default)]
pub struct Progress {
    over: AtomicBool,
}

impl Progress {
    pub fn step(&self, text: &str) {
        self.line(&format!(" \u{2713} {text}"));
    }

    pub fn say(&self, text: &str) {
        self.line(text);
    }

    pub fn done(&self) {
        self.line(DONE);
        self.over.store(true, Ordering::Relaxed);
    }

    fn line(&self, text: &str) {
        if !self.over.load(Ordering::Relaxed) {
            // The reader may be gone: progress is a courtesy, never a reason to fail.
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }
}
