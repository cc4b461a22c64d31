//! Nothing -> a running containerd of our own, which outlives us and is found again.

mod archives;
mod config;
mod pause;
mod process;
mod state;
mod tar;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use api::task::Group;
use cri::{ImageSpec, ImageStatusRequest, Runtime, VersionRequest};

pub use archives::import_archives;
pub use config::Layout;
pub use pause::IMAGE as PAUSE_IMAGE;
use process::Process;
pub use state::in_memory;

/// From exec to answering; on a slow disk the first start makes its databases.
const START_MAX: Duration = Duration::from_secs(60);
/// From asking to ended; after that it is killed. Containers do not care: their shims hold them.
const STOP_MAX: Duration = Duration::from_secs(10);
const RESTART_DELAY_MIN: Duration = Duration::from_secs(1);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);
/// Between looks at whether something that was asked for is there yet.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("containerd is not installed: apt-get install containerd runc")]
    NotInstalled,
    #[error("containerd did not come up within {START_MAX:?}; its log: {log}")]
    NotUp { log: PathBuf },
    #[error("containerd ended at once ({status}); its log: {log}")]
    Ended { status: String, log: PathBuf },
    #[error("the pause image was not imported: {0}")]
    Pause(String),
    #[error("containerd cannot be watched: {0}")]
    Watch(io::Error),
    #[error("containerd (process {0}) does not end")]
    DoesNotEnd(u32),
}

/// Starts our containerd, or finds the one that an earlier run of ours left, and keeps it running while `group` lives.
///
/// Returns when it answers and has the pause image. It is never stopped with the group: pods outlive us. See [`stop`].
pub async fn start(layout: Layout, group: &Group) -> Result<Runtime, Error> {
    prepare(&layout)?;
    let runtime = Runtime::at(&layout.socket());
    let process = find_or_start(&layout, &runtime).await?;
    import_pause(&layout, &runtime).await?;
    group.spawn_loop("containerd", Box::pin(supervise(layout, runtime.clone(), process)));
    Ok(runtime)
}

/// Stops the containerd of `layout`, if one runs. What it runs goes on: remove pods first where that is not wanted.
pub async fn stop(layout: &Layout) -> Result<(), Error> {
    match Process::recorded(layout)? {
        Some(process) => process.stop(STOP_MAX).await,
        None => Ok(()),
    }
}

/// Ends the shims that are left when pods and containerd are gone.
pub async fn end_shims(layout: &Layout) -> Result<(), Error> {
    for shim in Process::shims(layout) {
        shim.stop(STOP_MAX).await?;
    }
    Ok(())
}

/// True while the containerd of `layout` runs.
pub fn is_running(layout: &Layout) -> bool {
    matches!(Process::recorded(layout), Ok(Some(_)))
}

fn prepare(layout: &Layout) -> Result<(), Error> {
    for dir in [&layout.root, &layout.state, &layout.cni_conf_dir, &layout.cni_bin_dir] {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
    }
    let profile = layout.pause_profile();
    std::fs::write(&profile, pause::seccomp_profile()).map_err(at(&profile))
}

/// Reuses the running one only if it was started with the configuration that we would write now.
async fn find_or_start(layout: &Layout, runtime: &Runtime) -> Result<Process, Error> {
    let found = Process::recorded(layout)?;
    // Probing mounts while containerd runs is harmless, but what it found when it started holds.
    let wanted = config::render(layout, config::abilities(&layout.root));
    let current = std::fs::read_to_string(layout.config_file()).unwrap_or_default();
    if let Some(process) = found {
        if wanted == current && answers(runtime).await {
            tracing::info!(pid = process.pid(), "containerd already runs");
            return Ok(process);
        }
        process.stop(STOP_MAX).await?;
    }
    std::fs::write(layout.config_file(), wanted).map_err(at(&layout.config_file()))?;
    launch(layout, runtime).await
}

async fn launch(layout: &Layout, runtime: &Runtime) -> Result<Process, Error> {
    let process = Process::start(layout)?;
    tracing::info!(pid = process.pid(), "containerd started");
    let up = async {
        while !answers(runtime).await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        up = tokio::time::timeout(START_MAX, up) => up.map_err(|_| Error::NotUp { log: layout.log_file() })?,
        ended = process.ended() => return Err(Error::Ended { status: ended?, log: layout.log_file() }),
    }
    Ok(process)
}

async fn answers(runtime: &Runtime) -> bool {
    runtime.version(VersionRequest::default()).await.is_ok()
}

async fn supervise(layout: Layout, runtime: Runtime, mut process: Process) {
    let mut delay = RESTART_DELAY_MIN;
    loop {
        let since = tokio::time::Instant::now();
        match process.ended().await {
            Ok(status) => tracing::error!(status, "containerd exited; restarting it"),
            Err(error) => return tracing::error!(%error, "failed to supervise containerd"),
        }
        if since.elapsed() > RESTART_DELAY_MAX {
            delay = RESTART_DELAY_MIN;
        }
        process = loop {
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RESTART_DELAY_MAX);
            match launch(&layout, &runtime).await {
                Ok(process) => break process,
                Err(error) => tracing::error!(%error, "failed to start containerd"),
            }
        };
    }
}

async fn import_pause(layout: &Layout, runtime: &Runtime) -> Result<(), Error> {
    if has_pause(runtime).await {
        return Ok(());
    }
    let archive = pause::archive().ok_or_else(|| Error::Pause(format!("no program for {}", std::env::consts::ARCH)))?;
    let file = layout.root.join("pause.tar");
    std::fs::write(&file, archive).map_err(at(&file))?;
    import_image(layout, &file).await.map_err(Error::Pause)?;
    let visible = async {
        while !has_pause(runtime).await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(START_MAX, visible).await.map_err(|_| Error::Pause("it does not show".into()))
}

/// Imports an image archive (OCI or docker) so that pods can use it without a registry. The error is `ctr`'s own text.
pub async fn import_image(layout: &Layout, archive: &Path) -> Result<(), String> {
    import_within(layout, archive, START_MAX).await.map(drop)
}

/// What `ctr` told.
async fn import_within(layout: &Layout, archive: &Path, bound: Duration) -> Result<String, String> {
    let mut command = ctr_images(layout, "import");
    if std::fs::read_to_string(layout.config_file()).is_ok_and(|text| text.contains("snapshotter = \"native\"")) {
        command.args(["--snapshotter", "native"]);
    }
    command.arg(archive);
    told(command, bound).await
}

/// The names of all images.
async fn names(layout: &Layout) -> Result<BTreeSet<String>, String> {
    let mut command = ctr_images(layout, "list");
    command.arg("--quiet");
    Ok(told(command, START_MAX).await?.lines().map(str::to_owned).collect())
}

fn ctr_images(layout: &Layout, verb: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::from(api::programs::command("ctr"));
    command.arg("--address").arg(layout.socket()).args(["--namespace", "k8s.io", "images", verb]);
    command
}

async fn told(mut command: tokio::process::Command, bound: Duration) -> Result<String, String> {
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(bound, output).await.map_err(|_| "ctr does not end".to_owned())?;
    let output = output.map_err(|error| format!("ctr: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

async fn has_pause(runtime: &Runtime) -> bool {
    let image = ImageSpec { image: pause::IMAGE.into(), ..ImageSpec::default() };
    let status = runtime.image_status(ImageStatusRequest { image: Some(image), verbose: false }).await;
    status.is_ok_and(|status| status.image.is_some())
}

fn at(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::File { path: path.to_owned(), source }
}
