//! A pod -> the files of its volumes, written to a directory, with nothing mounted: for the fuzz targets.

use std::path::Path;

use api::k8s::api::core::v1::{Pod, Volume};

use super::{
    atomic, empty_dir,
    objects::{All, references},
    ownership::fs_group,
    payload::{self, Optional, Payload, Reading, mode},
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
        let _ = volume.empty_dir.as_ref().map(|source| empty_dir::size(source, pod, allocatable));
        let files = files(volume, &reading);
        let write = |files: Payload| {
            let path = dir.join(number.to_string());
            empty_dir::make(&path).map_err(|e| e.to_string())?;
            atomic::write(&path, &files, fs_group(pod))
        };
        files.is_some_and(|files| files.and_then(write).is_ok())
    });
    shown.count()
}

/// `None` where the volume's files are not ours to write.
fn files(volume: &Volume, reading: &Reading<'_>) -> Option<Result<Payload, String>> {
    if let Some(c) = &volume.config_map {
        return Some(reading.config_map(&c.name, c.items.as_deref(), mode(c.default_mode), Optional::of(c.optional)));
    }
    if let Some(s) = &volume.secret {
        let name = s.secret_name.as_deref().unwrap_or_default();
        return Some(reading.secret(name, s.items.as_deref(), mode(s.default_mode), Optional::of(s.optional)));
    }
    if let Some(source) = &volume.projected {
        return Some(reading.projected(source));
    }
    let source = volume.downward_api.as_ref()?;
    Some(reading.downward(source.items.as_deref().unwrap_or_default(), mode(source.default_mode)))
}
