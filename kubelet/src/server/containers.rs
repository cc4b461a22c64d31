//! A container's name -> its logs, or a stream into it.
//!
//! Source: `getContainerLogs`, `getExec`, `getAttach`, `getPortForward` in `pkg/kubelet/server/server.go`, `validateContainerLogStatus` in
//! `pkg/kubelet/kubelet_pods.go`.

use std::{sync::Arc, time::Duration};

use api::{
    k8s::api::core::v1::{ContainerStatus, Pod},
    task::Group,
    time::Timestamp,
};
use http::StatusCode;

use super::{
    Node,
    logs::{self, Options},
    proxy,
    reply::{Reply, Request, stream, text},
    route::{ContainerRef, query},
};
use crate::{
    meta,
    view::{ContainerView, PodView},
};

/// How long a command of `/run` may take.
const RUN_WAIT: Duration = Duration::from_secs(120);

pub async fn logs(node: &Node, container_ref: &ContainerRef, raw_query: &str) -> Reply {
    let options = match Options::parse(raw_query, Timestamp::now()) {
        Ok(options) => options,
        Err(refused) => return text(refused.0, refused.1),
    };
    let Some(view) = node.pods.by_name(&container_ref.namespace, &container_ref.pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {:?} does not exist", container_ref.pod));
    };
    if !has_container(&view.pod, &container_ref.container) {
        return text(StatusCode::NOT_FOUND, format!("container {:?} not found in pod {:?}", container_ref.container, container_ref.pod));
    }
    let id = match logged(&view, &container_ref.container, options.previous) {
        Ok(id) => id,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let Some(container) = view.containers.iter().find(|c| c.id == id) else {
        return text(StatusCode::BAD_REQUEST, format!("unable to retrieve container logs for containerd://{id}"));
    };
    match logs::open(&container.log_path, options, Arc::new(node.runtime.clone()), &id).await {
        Ok(reader) => stream(reader.chunks()),
        Err(error) => {
            text(StatusCode::BAD_REQUEST, format!("failed to open log file {:?}: {error}", container.log_path.display().to_string()))
        }
    }
}

pub async fn run(node: &Node, container_ref: &ContainerRef, raw_query: &str) -> Reply {
    let (_, container) = match running(node, container_ref) {
        Ok(found) => found,
        Err(reply) => return *reply,
    };
    let command: Vec<String> = query(raw_query, "cmd").iter().flat_map(|c| c.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    match node.runtime.exec_sync(&container.id, &command, RUN_WAIT).await {
        Ok(done) => {
            let output = [done.stdout, done.stderr].concat();
            text(StatusCode::OK, String::from_utf8_lossy(&output))
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub async fn exec(node: &Node, container_ref: &ContainerRef, request: Request, group: &Group) -> Reply {
    let raw = request.uri().query().unwrap_or_default();
    let streams = match Streams::parse(raw) {
        Ok(streams) => streams,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let (_, container) = match running(node, container_ref) {
        Ok(found) => found,
        Err(reply) => return *reply,
    };
    let Streams { stdin, stdout, stderr, tty } = streams;
    let asked = cri::ExecRequest { container_id: container.id, cmd: query(raw, "command"), tty, stdin, stdout, stderr };
    match node.runtime.exec(asked).await {
        Ok(answer) => proxy::forward(request, &answer.url, group).await,
        Err(error) => refused(&error),
    }
}

pub async fn attach(node: &Node, container_ref: &ContainerRef, request: Request, group: &Group) -> Reply {
    let streams = match Streams::parse(request.uri().query().unwrap_or_default()) {
        Ok(streams) => streams,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let (view, container) = match running(node, container_ref) {
        Ok(found) => found,
        Err(reply) => return *reply,
    };
    let Streams { stdin, stdout, stderr, .. } = streams;
    // As upstream: a container with a terminal has one, whatever the client thinks.
    let tty = meta::containers(&view.pod).any(|c| c.name == container_ref.container && c.tty == Some(true));
    let asked = cri::AttachRequest { container_id: container.id, stdin, tty, stdout, stderr: stderr && !tty };
    match node.runtime.attach(asked).await {
        Ok(answer) => proxy::forward(request, &answer.url, group).await,
        Err(error) => refused(&error),
    }
}

pub async fn port_forward(node: &Node, container_ref: &ContainerRef, request: Request, group: &Group) -> Reply {
    let view = match pod(node, container_ref) {
        Ok(view) => view,
        Err(reply) => return *reply,
    };
    let Some(sandbox) = view.sandbox_id.clone() else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to find sandboxID for pod {}", meta::format(&view.pod)));
    };
    let ports = query(request.uri().query().unwrap_or_default(), "port");
    let ports = ports.iter().flat_map(|list| list.split(',')).filter_map(|p| p.parse().ok()).collect();
    match node.runtime.port_forward(cri::PortForwardRequest { pod_sandbox_id: sandbox, port: ports }).await {
        Ok(answer) => proxy::forward(request, &answer.url, group).await,
        Err(error) => refused(&error),
    }
}

/// Which of a command's streams a client wants. Source: `NewOptions` in `staging/src/k8s.io/kubelet/pkg/cri/streaming/remotecommand`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn parse(raw: &str) -> Result<Self, &'static str> {
        let on = |key| query(raw, key).first().is_some_and(|v| v == "1" || v == "true");
        let tty = on("tty");
        // A terminal has one output.
        let streams = Self { stdin: on("input"), stdout: on("output"), stderr: on("error") && !tty, tty };
        if streams.stdin || streams.stdout || streams.stderr {
            return Ok(streams);
        }
        Err("you must specify at least 1 of stdin, stdout, stderr")
    }
}

fn pod(node: &Node, container_ref: &ContainerRef) -> Result<Arc<PodView>, Box<Reply>> {
    let Some(view) = node.pods.by_name(&container_ref.namespace, &container_ref.pod) else {
        return Err(Box::new(text(StatusCode::NOT_FOUND, "pod does not exist")));
    };
    if !container_ref.uid.is_empty() && container_ref.uid != meta::uid(&view.pod) {
        return Err(Box::new(text(StatusCode::NOT_FOUND, "pod not found")));
    }
    Ok(view)
}

fn running(node: &Node, container_ref: &ContainerRef) -> Result<(Arc<PodView>, ContainerView), Box<Reply>> {
    let view = pod(node, container_ref)?;
    match view.container(&container_ref.container).filter(|c| c.running).cloned() {
        Some(container) => Ok((view, container)),
        None => {
            let why = format!("container not found ({:?})", container_ref.container);
            Err(Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, why)))
        }
    }
}

fn refused(error: &cri::Error) -> Reply {
    let code = if error.is_not_found() { StatusCode::NOT_FOUND } else { StatusCode::INTERNAL_SERVER_ERROR };
    text(code, error.to_string())
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let ephemeral = meta::spec(pod).and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default();
    meta::containers(pod).any(|c| c.name == name) || ephemeral.iter().any(|c| c.name == name)
}

/// The id of the container whose log is meant, from the pod's status.
fn logged(view: &PodView, name: &str, previous: logs::Which) -> Result<String, String> {
    let pod_name = meta::name(&view.pod);
    let status = status_of(view, name).ok_or_else(|| format!("container {name:?} in pod {pod_name:?} is not available"))?;
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref()).and_then(|t| t.container_id.as_deref());
    let last = last.filter(|id| !id.is_empty());
    if previous == logs::Which::Previous {
        return last.map(bare).ok_or_else(|| format!("previous terminated container {name:?} in pod {pod_name:?} not found"));
    }
    if state.running.is_some() {
        return Ok(bare(status.container_id.as_deref().unwrap_or_default()));
    }
    let ended = || format!("container {name:?} in pod {pod_name:?} is terminated");
    if let Some(terminated) = state.terminated {
        let own = terminated.container_id.filter(|id| !id.is_empty());
        return own.as_deref().or(last).map(bare).ok_or_else(ended);
    }
    if let Some(last) = last {
        return Ok(bare(last));
    }
    Err(match state.waiting.map(|w| w.reason.unwrap_or_default()) {
        Some(reason) if reason == "ErrImagePull" => {
            format!("container {name:?} in pod {pod_name:?} is waiting to start: image can't be pulled")
        }
        Some(reason) if reason == "ImagePullBackOff" => {
            format!("container {name:?} in pod {pod_name:?} is waiting to start: trying and failing to pull image")
        }
        Some(reason) => format!("container {name:?} in pod {pod_name:?} is waiting to start: {reason}"),
        None => format!("container {name:?} in pod {pod_name:?} is waiting to start - no logs yet"),
    })
}

fn status_of<'a>(view: &'a PodView, name: &str) -> Option<&'a ContainerStatus> {
    let status = view.status()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|s| s.name == name)
}

/// `containerd://abc` -> `abc`
fn bare(id: &str) -> String {
    id.rsplit_once("://").map_or(id, |(_, bare)| bare).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::logs::Which;

    fn view(status: &str) -> PodView {
        let mut pod = crate::container_config::testing::pod(r#"{"containers":[{"name":"a"}]}"#);
        pod.status = serde_json::from_str(&format!(r#"{{"containerStatuses":[{status}]}}"#)).unwrap();
        PodView { pod: Arc::new(pod), ..PodView::default() }
    }

    #[test]
    fn the_status_says_whose_log_it_is() {
        let base = r#""name":"a","image":"","imageID":"","ready":true,"restartCount":0"#;
        let of = |rest: &str, which| logged(&view(&format!("{{{base},{rest}}}")), "a", which);
        let last = r#""lastState":{"terminated":{"exitCode":1,"containerID":"containerd://old"}}"#;
        let cases = [
            (r#""containerID":"containerd://new","state":{"running":{}}"#.to_owned(), Which::Current, Ok("new")),
            (format!(r#""containerID":"containerd://new","state":{{"running":{{}}}},{last}"#), Which::Previous, Ok("old")),
            (r#""state":{"running":{}}"#.to_owned(), Which::Previous, Err("previous terminated container \"a\" in pod \"web\" not found")),
            (r#""state":{"terminated":{"exitCode":0,"containerID":"containerd://x"}}"#.to_owned(), Which::Current, Ok("x")),
            (format!(r#""state":{{"waiting":{{"reason":"CrashLoopBackOff"}}}},{last}"#), Which::Current, Ok("old")),
            (
                r#""state":{"waiting":{"reason":"ImagePullBackOff"}}"#.to_owned(),
                Which::Current,
                Err("container \"a\" in pod \"web\" is waiting to start: trying and failing to pull image"),
            ),
            (
                r#""state":{"waiting":{"reason":"ContainerCreating"}}"#.to_owned(),
                Which::Current,
                Err("container \"a\" in pod \"web\" is waiting to start: ContainerCreating"),
            ),
        ];
        for (rest, which, wanted) in cases {
            assert_eq!(of(&rest, which).as_deref().map_err(String::as_str), wanted, "{rest}");
        }
        assert!(logged(&view(""), "a", Which::Current).unwrap_err().contains("is not available"));
    }

    #[test]
    fn streams_are_asked_for_as_upstream_does() {
        let of = |raw| Streams::parse(raw).map(|s| (s.stdin, s.stdout, s.stderr, s.tty));
        assert_eq!(of("command=sh&input=1&output=1&tty=1&error=1"), Ok((true, true, false, true)));
        assert_eq!(of("output=1&error=1"), Ok((false, true, true, false)));
        assert!(of("command=sh").is_err());
    }
}
