//! A pod -> the files of its volumes, written to a directory, with nothing mounted: for the fuzz targets.

use std::path::Path;

use api::k8s::api::core::v1::{Pod, Volume};

use super::{
    atomic, directories,
    objects::{All, references},
    ownership::fs_group,
    payload::{self, Payload, Reading},
    plugins,
};
use crate::{downward::Allocatable, env::Fetched, meta};

/// How many volumes have files; the others are refused, or of another sort.
pub fn rehearse(pod: &Pod, fetched: &Fetched, dir: &Path) -> usize {
    let tokens = payload::tokens_wanted(pod).into_iter().map(|wanted| (wanted, Ok("token".to_owned()))).collect();
    let all = All { fetched: fetched.clone(), namespace: meta::namespace(pod).to_owned(), ..All::default() };
    let allocatable = Allocatable { cpu_milli: 1000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 1 << 30 };
    let reading = Reading { pod, all: &all, tokens: &tokens, allocatable };
    let _ = references(pod);
    let volumes = meta::spec(pod).and_then(|s| s.volumes.as_deref()).unwrap_or_default().iter().zip(0..);
    let shown = volumes.filter(|(volume, number): &(&Volume, u32)| {
        let _ = plugins::memory_bytes(volume, pod, allocatable);
        let files = plugins::payload(volume, &reading);
        let write = |files: Payload| {
            let path = dir.join(number.to_string());
            directories::make(&path).map_err(|e| e.to_string())?;
            atomic::write(&path, &files, fs_group(pod))
        };
        files.is_some_and(|files| files.and_then(write).is_ok())
    });
    shown.count()
}
