//! A socket -> a runtime to call: one connection shared by all callers, one method for each call we make.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    call::{Result, within},
    containerd::events_client::EventsClient,
    events::{self, Events, TaskEvent},
    generated::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient, *},
};

/// Looking: lists, statuses. Upstream gives every call two minutes; a list that takes longer than this has hung.
const LOOK: Duration = Duration::from_secs(30);
/// Changing something: creating, starting, removing.
const CHANGE: Duration = Duration::from_secs(120);
/// Making a sandbox: as upstream, twice as long, since the network plugin runs within it.
const SANDBOX: Duration = Duration::from_secs(240);
/// Pulling an image: the runtime cuts pulls without progress by itself.
const PULL: Duration = Duration::from_secs(3600);
/// What a call with a timeout of its own gets on top of it.
const GRACE: Duration = Duration::from_secs(30);
/// Answers grow with the number of containers and with what a command prints (capped at 16 MiB for each stream).
const MESSAGE_BYTES_MAX: usize = 40 << 20;

/// Told of each call: its name (`run_pod_sandbox`), how long it took, and whether it failed.
pub type Observe = Arc<dyn Fn(&'static str, Duration, bool) + Send + Sync>;

#[derive(Clone, Default)]
struct Observer(Option<Observe>);

/// A container runtime. Clones share one connection, which is made at the first call and again whenever it broke.
///
/// Calls are boxed: an `async fn` is compiled by whoever awaits it, and all of the client's code with it.
#[derive(Clone, Debug)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    containerd: EventsClient<Channel>,
    observer: Observer,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident: $service:ident.$method:ident($request:ident) -> $response:ident within $after:expr;)*) => {
        impl Runtime {
            $(
                $(#[$doc])*
                pub fn $name(&self, request: $request) -> BoxFuture<'_, Result<$response>> {
                    let mut service = self.$service.clone();
                    Box::pin(async move {
                        let call = within(stringify!($method), $after, request, |r| async move { service.$name(r).await });
                        self.observer.watch(stringify!($name), call).await
                    })
                }
            )*
        }
    };
}

calls! {
    version: runtime.Version(VersionRequest) -> VersionResponse within LOOK;
    status: runtime.Status(StatusRequest) -> StatusResponse within LOOK;
    runtime_config: runtime.RuntimeConfig(RuntimeConfigRequest) -> RuntimeConfigResponse within LOOK;
    update_runtime_config: runtime.UpdateRuntimeConfig(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse within CHANGE;
    run_pod_sandbox: runtime.RunPodSandbox(RunPodSandboxRequest) -> RunPodSandboxResponse within SANDBOX;
    stop_pod_sandbox: runtime.StopPodSandbox(StopPodSandboxRequest) -> StopPodSandboxResponse within CHANGE;
    remove_pod_sandbox: runtime.RemovePodSandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse within CHANGE;
    pod_sandbox_status: runtime.PodSandboxStatus(PodSandboxStatusRequest) -> PodSandboxStatusResponse within LOOK;
    list_pod_sandbox: runtime.ListPodSandbox(ListPodSandboxRequest) -> ListPodSandboxResponse within LOOK;
    create_container: runtime.CreateContainer(CreateContainerRequest) -> CreateContainerResponse within CHANGE;
    start_container: runtime.StartContainer(StartContainerRequest) -> StartContainerResponse within CHANGE;
    remove_container: runtime.RemoveContainer(RemoveContainerRequest) -> RemoveContainerResponse within CHANGE;
    list_containers: runtime.ListContainers(ListContainersRequest) -> ListContainersResponse within LOOK;
    container_status: runtime.ContainerStatus(ContainerStatusRequest) -> ContainerStatusResponse within LOOK;
    update_container_resources: runtime.UpdateContainerResources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse within CHANGE;
    reopen_container_log: runtime.ReopenContainerLog(ReopenContainerLogRequest) -> ReopenContainerLogResponse within LOOK;
    /// The address at which the runtime's streaming server serves this one exec.
    exec: runtime.Exec(ExecRequest) -> ExecResponse within LOOK;
    attach: runtime.Attach(AttachRequest) -> AttachResponse within LOOK;
    port_forward: runtime.PortForward(PortForwardRequest) -> PortForwardResponse within LOOK;
    container_stats: runtime.ContainerStats(ContainerStatsRequest) -> ContainerStatsResponse within LOOK;
    list_container_stats: runtime.ListContainerStats(ListContainerStatsRequest) -> ListContainerStatsResponse within LOOK;
    pod_sandbox_stats: runtime.PodSandboxStats(PodSandboxStatsRequest) -> PodSandboxStatsResponse within LOOK;
    list_pod_sandbox_stats: runtime.ListPodSandboxStats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse within LOOK;
    list_images: images.ListImages(ListImagesRequest) -> ListImagesResponse within LOOK;
    image_status: images.ImageStatus(ImageStatusRequest) -> ImageStatusResponse within LOOK;
    pull_image: images.PullImage(PullImageRequest) -> PullImageResponse within PULL;
    remove_image: images.RemoveImage(RemoveImageRequest) -> RemoveImageResponse within CHANGE;
    image_fs_info: images.ImageFsInfo(ImageFsInfoRequest) -> ImageFsInfoResponse within LOOK;
}

impl Runtime {
    /// A runtime at `socket`. Does not connect yet; without a listener calls fail with [`crate::Error::Unavailable`].
    pub fn at(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://runtime").connect_with_connector_lazy(connect);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            containerd: EventsClient::new(channel.clone()),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
            observer: Observer::default(),
        }
    }

    /// The same runtime, whose calls `observe` is told of.
    pub fn observed(self, observe: Observe) -> Self {
        Self { observer: Observer(Some(observe)), ..self }
    }

    /// Stops a container: its stop signal, `grace_seconds` later SIGKILL. Returns once it is dead.
    pub fn stop_container(&self, id: &str, grace_seconds: u32) -> BoxFuture<'_, Result<()>> {
        let mut service = self.runtime.clone();
        let request = StopContainerRequest { container_id: id.into(), timeout: i64::from(grace_seconds) };
        let after = Duration::from_secs(u64::from(grace_seconds)) + CHANGE;
        Box::pin(async move {
            let call = within("StopContainer", after, request, |r| async move { service.stop_container(r).await });
            self.observer.watch("stop_container", call).await.map(drop)
        })
    }

    /// Runs `command` to its end, killed after `limit`. Fails with [`crate::Error::Deadline`] then.
    pub fn exec_sync(&self, id: &str, command: &[String], limit: Duration) -> BoxFuture<'_, Result<ExecSyncResponse>> {
        let mut service = self.runtime.clone();
        let seconds = i64::try_from(limit.as_secs().max(1)).unwrap_or(i64::MAX);
        let request = ExecSyncRequest { container_id: id.into(), cmd: command.to_vec(), timeout: seconds };
        Box::pin(async move {
            let call = within("ExecSync", limit.saturating_add(GRACE), request, |r| async move { service.exec_sync(r).await });
            self.observer.watch("exec_sync", call).await
        })
    }

    /// CRI's container events; not on containerd before 1.7.
    pub fn container_events(&self) -> Events<ContainerEventResponse> {
        events::container_events(self.runtime.clone())
    }

    /// containerd's own events, where the runtime is containerd.
    pub fn task_events(&self) -> Events<TaskEvent> {
        events::task_events(self.containerd.clone())
    }
}

impl Observer {
    async fn watch<T>(&self, name: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let began = Instant::now();
        let answer = call.await;
        if let Some(observe) = &self.0 {
            observe(name, began.elapsed(), answer.is_err());
        }
        answer
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
