//! A lifecycle handler -> run: a command in the container, a request to it, or a sleep.
//!
//! Upstream: `pkg/kubelet/lifecycle/handlers.go`.

use std::time::Duration;

use api::k8s::api::core::v1::{Container, LifecycleHandler};

use super::work::Work;
use crate::{
    meta,
    pods::probes::http::{self, Target},
};

/// Callers bound hooks by grace or by their own limit; this only keeps the runtime from waiting for ever.
const EXEC_MAX: Duration = Duration::from_secs(3600);
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Runs it to its end. The error is what the container's status shows.
pub async fn run(work: &Work, container: &Container, id: &str, hook: &LifecycleHandler, host: Option<&str>) -> Result<(), String> {
    let who = || format!("for Container \"{}\" in Pod \"{}\" failed", container.name, meta::format(&work.pod));
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        return exec_in(work, id, &command).await.map_err(|(error, output)| {
            format!("Exec lifecycle hook ([{}]) {} - error: {error}, message: \"{output}\"", command.join(" "), who())
        });
    }
    if let Some(get) = &hook.http_get {
        let host = host.ok_or_else(|| "failed to find networking container".to_owned())?;
        let path = get.path.clone().unwrap_or_default();
        let asked = async { http::get(&Target::of(get, container, host)?, REQUEST_MAX).await.map(drop) };
        return asked.await.map_err(|error| format!("HTTP lifecycle hook ({path}) {} - error: {error}", who()));
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(api::time::span(sleep.seconds)).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler: only exec, httpGet and sleep are run".into())
}

async fn exec_in(work: &Work, id: &str, command: &[String]) -> Result<(), (String, String)> {
    let ran = work.deps.runtime.exec_sync(id, command, EXEC_MAX).await.map_err(|e| (e.to_string(), String::new()))?;
    if ran.exit_code == 0 {
        return Ok(());
    }
    let output = [ran.stdout, ran.stderr].concat();
    let error = format!("command '{}' exited with {}: {}", command.join(" "), ran.exit_code, String::from_utf8_lossy(&output));
    Err((error, String::from_utf8_lossy(&output).into_owned()))
}
