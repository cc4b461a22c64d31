//! One machine: its address, the directories of its skiff, the process that runs on them, and who started it.

pub mod address;
pub mod dirs;
pub mod given_file;
pub mod instance;
pub mod open_files;
pub mod process;
pub mod progress;
pub mod sd_notify;
