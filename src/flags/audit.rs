//! Flags -> what is told of requests, and where. Names and defaults are kube-apiserver's (`pkg/server/options/audit.go`).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use api::task::Group;
use apiserver::audit::{Auditor, Log, LogConfig, LogMode, Policy, Sink, Truncate};
use clap::Args;
use identity::{AuditWebhook, AuditWebhookConfig};

use super::protection::some_time;

/// What is told of requests, and where.
#[derive(Args, Clone, Debug)]
pub struct AuditFlags {
    /// The audit policy (audit.k8s.io/v1): which requests are told of, and how much of them
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where audit events are written, a line of JSON each; `-` is the standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Whether requests wait until their events are written: blocking, blocking-strict (a request whose begin cannot be written is refused) or batch
    #[arg(long, value_name = "MODE", default_value = "blocking", value_parser = ["batch", "blocking", "blocking-strict"])]
    pub audit_log_mode: String,
    /// Megabytes of a file before a new one is begun
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub audit_log_maxsize: u32,
    /// Days after which old files are removed; 0: never
    #[arg(long, value_name = "N", default_value_t = 366, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub audit_log_maxage: u32,
    /// How many old files are kept; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub audit_log_maxbackup: usize,
    /// Events of the log that are larger lose the objects in them, and are dropped if that does not help
    #[arg(long, action = clap::ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    pub audit_log_truncate_enabled: bool,
    /// Bytes of an event of the log, where it is truncated
    #[arg(long, value_name = "N", default_value_t = EVENT_BYTES, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub audit_log_truncate_max_event_size: u64,
    /// A kubeconfig: where audit events are sent
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Whether requests wait until their events are taken: batch (they do not), blocking or blocking-strict (a request whose begin is not taken is refused)
    #[arg(long, value_name = "MODE", default_value = "batch", value_parser = ["batch", "blocking", "blocking-strict"])]
    pub audit_webhook_mode: String,
    /// The version of what is sent; there is one
    #[arg(long, value_name = "VERSION", default_value = "audit.k8s.io/v1", value_parser = ["audit.k8s.io/v1"])]
    pub audit_webhook_version: String,
    /// Before events that were not taken are sent again
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = some_time, alias = "audit-webhook-batch-initial-backoff")]
    pub audit_webhook_initial_backoff: Duration,
    /// Events that wait to be sent; further ones are dropped
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub audit_webhook_batch_buffer_size: u32,
    /// Events that are sent at a time
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub audit_webhook_batch_max_size: u32,
    /// Events are sent after so long, however few there are
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = some_time)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Whether there is a limit to how often events are sent
    #[arg(long, action = clap::ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub audit_webhook_batch_throttle_enable: bool,
    /// How often a second
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = rate)]
    pub audit_webhook_batch_throttle_qps: f64,
    /// How often at once, after a time of quiet
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub audit_webhook_batch_throttle_burst: u32,
    /// Events for the webhook that are larger lose the objects in them, and are dropped if that does not help
    #[arg(long, action = clap::ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    pub audit_webhook_truncate_enabled: bool,
    /// Bytes of an event for the webhook, where it is truncated
    #[arg(long, value_name = "N", default_value_t = EVENT_BYTES, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub audit_webhook_truncate_max_event_size: u64,
    /// Bytes of the events that are sent at a time
    #[arg(long, value_name = "N", default_value_t = 10 << 20, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub audit_webhook_truncate_max_batch_size: u64,
}

/// Bytes (`NewAuditTruncateOptions`).
const EVENT_BYTES: u64 = 100 << 10;

impl AuditFlags {
    /// Nobody, where there is no policy or no place for events. `group` writes and sends them: it must end after all that is told of.
    ///
    /// # Errors
    /// What is wrong with the policy file or the webhook's, or why the log cannot be opened.
    pub async fn auditor(&self, group: &Group) -> anyhow::Result<Option<Arc<Auditor>>> {
        let Some(file) = &self.audit_policy_file else {
            if self.audit_log_path.is_some() || self.audit_webhook_config_file.is_some() {
                tracing::warn!("no audit policy file provided (--audit-policy-file): no events will be recorded");
            }
            return Ok(None);
        };
        let text = std::fs::read_to_string(file).with_context(|| format!("audit policy {}", file.display()))?;
        let policy = Policy::read(&text).map_err(anyhow::Error::msg).with_context(|| format!("audit policy {}", file.display()))?;
        let mut sinks = Vec::new();
        if let Some(path) = &self.audit_log_path {
            let log = Box::new(self.log(path, group)?);
            sinks.push(truncated(log, self.audit_log_truncate_enabled, self.audit_log_truncate_max_event_size));
        }
        if let Some(file) = &self.audit_webhook_config_file {
            let webhook = AuditWebhook::open(self.webhook(file), group).await.map_err(anyhow::Error::msg)?;
            sinks.push(truncated(Box::new(webhook), self.audit_webhook_truncate_enabled, self.audit_webhook_truncate_max_event_size));
        }
        if sinks.is_empty() {
            tracing::warn!("there is an audit policy (--audit-policy-file) and no --audit-log-path: no events will be recorded");
        }
        Ok((!sinks.is_empty()).then(|| Auditor::new(policy, sinks)))
    }

    fn log(&self, path: &Path, group: &Group) -> anyhow::Result<Log> {
        let config = LogConfig {
            path: path.to_owned(),
            mode: mode(&self.audit_log_mode),
            bytes_max: u64::from(self.audit_log_maxsize) << 20,
            days_max: self.audit_log_maxage,
            backups_max: self.audit_log_maxbackup,
        };
        Log::open(config, group).with_context(|| format!("audit log {}", path.display()))
    }

    fn webhook(&self, file: &Path) -> AuditWebhookConfig {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let throttle = (self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst);
        AuditWebhookConfig {
            file: file.to_owned(),
            mode: mode(&self.audit_webhook_mode),
            initial_backoff: self.audit_webhook_initial_backoff,
            buffered_max: size(self.audit_webhook_batch_buffer_size.into()),
            events_max: size(self.audit_webhook_batch_max_size.into()),
            bytes_max: size(self.audit_webhook_truncate_max_batch_size),
            wait_max: self.audit_webhook_batch_max_wait,
            throttle: self.audit_webhook_batch_throttle_enable.then_some(throttle),
        }
    }
}

fn mode(word: &str) -> LogMode {
    match word {
        "batch" => LogMode::Batch,
        "blocking-strict" => LogMode::BlockingStrict,
        _ => LogMode::Blocking,
    }
}

fn truncated(sink: Box<dyn Sink>, is_enabled: bool, event_bytes_max: u64) -> Box<dyn Sink> {
    if !is_enabled {
        return sink;
    }
    Box::new(Truncate { sink, event_bytes_max: usize::try_from(event_bytes_max).unwrap_or(usize::MAX) })
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "it must be a number")?;
    if rate > 0.0 && rate <= 10_000.0 { Ok(rate) } else { Err("it must be positive, and 10000 at most".to_owned()) }
}
