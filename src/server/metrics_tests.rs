//! A whole server of this process, over its socket: what kubernetes-mixin's rules, alerts and dashboards ask for is on its page.

use std::time::Duration;

use client::kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::*;
use crate::flags::{Cli, Verb};

/// Of `rules/`, `alerts/` and `dashboards/` for kube-apiserver, kube-controller-manager and kube-scheduler, but for `go_goroutines` (there is no Go),
/// `scheduler_volume_scheduling_duration_seconds`, which upstream has no more, and `apiserver_request_terminations_total`, which is there once there was one. Each with labels that the expressions select or sum by.
const MIXIN: [&str; 17] = [
    r#"aggregator_unavailable_apiservice{name="v1.metrics.test"} 1"#,
    r#"aggregator_unavailable_apiservice_total{name="v1.metrics.test",reason="ServiceNotFound"}"#,
    r#"apiserver_client_certificate_expiration_seconds_bucket{le="3600"} "#,
    "apiserver_client_certificate_expiration_seconds_count ",
    r#"apiserver_request_sli_duration_seconds_bucket{component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1",le="1"}"#,
    "apiserver_request_sli_duration_seconds_count{",
    r#"apiserver_request_total{component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1",code="200"}"#,
    "process_cpu_seconds_total ",
    "process_resident_memory_bytes ",
    r#"rest_client_request_duration_seconds_bucket{verb="GET",host=""#,
    r#"rest_client_requests_total{code="200",method="GET",host=""#,
    r#"scheduler_pod_scheduling_sli_duration_seconds_bucket{attempts="1",le="0.01"}"#,
    r#"scheduler_scheduling_algorithm_duration_seconds_bucket{le="0.001"}"#,
    r#"scheduler_scheduling_attempt_duration_seconds_count{result="scheduled",profile="default-scheduler"}"#,
    r#"workqueue_adds_total{name="deployment"}"#,
    r#"workqueue_depth{name="deployment"}"#,
    r#"workqueue_queue_duration_seconds_bucket{name="deployment",le="1e-08"}"#,
];
/// What dashboards of the API server look at besides.
const MORE: [&str; 7] = [
    r#"apiserver_admission_controller_admission_duration_seconds_count{name="NamespaceLifecycle",type="admit",operation="CREATE",rejected="false"}"#,
    r#"apiserver_admission_step_admission_duration_seconds_count{type="validate",operation="CREATE",rejected="false"}"#,
    r#"apiserver_current_inflight_requests{request_kind="mutating"}"#,
    r#"authentication_duration_seconds_count{result="success"}"#,
    r#"authorization_duration_seconds_count{result="allowed"}"#,
    r#"etcd_request_duration_seconds_bucket{operation="create",group="apiregistration.k8s.io",resource="apiservices",le="0.005"}"#,
    r#"scheduler_pending_pods{queue="unschedulable"}"#,
];
const BOUND: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn stock_rules_alerts_and_dashboards_draw() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().display().to_string();
    let args =
        ["skiff", "server", "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", "--secure-port=0", "--storage-backend=memory"];
    let args = args.iter().map(|arg| (*arg).to_owned()).chain(["--data-dir".into(), data]);
    let Verb::Server(flags) = Cli::read(args.map(std::ffi::OsString::from).collect::<Vec<_>>()).unwrap().verb else { panic!("a server") };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let control = Box::pin(Control::start(&flags, &Progress::default())).await.unwrap();
    let admin: Kubeconfig = serde_json::from_value(control.admin()).unwrap();
    let admin = Client::try_from(Config::from_custom_kubeconfig(admin, &KubeConfigOptions::default()).await.unwrap()).unwrap();
    let get = async |path: &str| admin.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await;

    get("/api/v1/namespaces/default/pods").await.unwrap();
    let nobody = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.metrics.test"},
        "spec": {"group": "metrics.test", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "insecureSkipTLSVerify": true,
            "service": {"namespace": "default", "name": "nobody"}}});
    let post = http::Request::post("/apis/apiregistration.k8s.io/v1/apiservices").header("content-type", "application/json");
    admin.request::<Value>(post.body(nobody.to_string().into_bytes()).unwrap()).await.unwrap();

    let end = Instant::now() + BOUND;
    loop {
        let page = get("/metrics").await.unwrap();
        let missing: Vec<&str> =
            MIXIN.into_iter().chain(MORE).filter(|wanted| !page.lines().any(|line| line.starts_with(wanted))).collect();
        if missing.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "{missing:#?}");
        sleep(Duration::from_millis(50)).await;
    }
    get("/readyz").await.unwrap();
    let slis = get("/metrics/slis").await.unwrap();
    for wanted in [
        r#"kubernetes_healthcheck{name="ping",type="readyz"} 1"#,
        r#"kubernetes_healthchecks_total{name="ping",status="success",type="readyz"}"#,
    ] {
        assert!(slis.lines().any(|line| line.starts_with(wanted)), "{wanted}\n{slis}");
    }
    control.end().await;
}
