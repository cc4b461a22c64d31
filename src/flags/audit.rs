//! Flags -> what is told of requests, and where. Names and defaults are kube-apiserver's (`pkg/server/options/audit.go`).

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use apiserver::audit::{Auditor, Log, LogConfig, LogMode, Policy};
use clap::Args;

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
}

impl AuditFlags {
    /// Nobody, where there is no policy or no log.
    ///
    /// # Errors
    /// What is wrong with the policy file, or why the log cannot be opened.
    pub fn auditor(&self) -> anyhow::Result<Option<Arc<Auditor>>> {
        let Some(file) = &self.audit_policy_file else {
            if self.audit_log_path.is_some() {
                tracing::warn!("no audit policy file provided (--audit-policy-file): no events will be recorded");
            }
            return Ok(None);
        };
        let text = std::fs::read_to_string(file).with_context(|| format!("audit policy {}", file.display()))?;
        let policy = Policy::read(&text).map_err(anyhow::Error::msg).with_context(|| format!("audit policy {}", file.display()))?;
        let Some(path) = &self.audit_log_path else {
            tracing::warn!("there is an audit policy (--audit-policy-file) and no --audit-log-path: no events will be recorded");
            return Ok(None);
        };
        let mode = match self.audit_log_mode.as_str() {
            "batch" => LogMode::Batch,
            "blocking-strict" => LogMode::BlockingStrict,
            _ => LogMode::Blocking,
        };
        let config = LogConfig {
            path: path.clone(),
            mode,
            bytes_max: u64::from(self.audit_log_maxsize) << 20,
            days_max: self.audit_log_maxage,
            backups_max: self.audit_log_maxbackup,
        };
        let log = Log::open(config).with_context(|| format!("audit log {}", path.display()))?;
        Ok(Some(Auditor::new(policy, vec![Box::new(log)])))
    }
}
