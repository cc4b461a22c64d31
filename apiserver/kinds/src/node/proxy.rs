//! `nodes/proxy` -> the agent of a node, or a port on it. Source: `pkg/registry/core/node/strategy.go`, `ResourceLocation`.

use std::sync::Arc;

use api::{Gvk, Status};
use apiserver::kind::{Connect, Ctx, Handler, Subresource, Target, names};
use async_trait::async_trait;
use serde_json::Value;

use crate::common::node::{self, agent, join_path, split_scheme_name_port};

pub fn subresource() -> Subresource {
    Subresource {
        name: "proxy".into(),
        body: Gvk::new("", "v1", "NodeProxyOptions"),
        schema: apiserver::schema::Schema::Open,
        verbs: names(&["create", "delete", "get", "patch", "update"]),
        handler: Handler::Connect(Arc::new(ToNode)),
    }
}

struct ToNode;

#[async_trait]
impl Connect for ToNode {
    fn takes_path(&self) -> bool {
        true
    }

    fn options(&self, path: &str, _query: &str) -> Option<Value> {
        Some(node::proxy_options(path))
    }

    async fn target(&self, ctx: &Ctx<'_>, path: &str, query: &str) -> Result<Target, Status> {
        let bad = || Status::bad_request(format!("invalid node request {:?}", ctx.name));
        let (scheme, name, asked) = split_scheme_name_port(ctx.name).ok_or_else(bad)?;
        let (host, port) = agent(ctx, name).await?;
        let rewrite_prefix = Some(format!("/api/v1/nodes/{}/proxy", ctx.name));
        let path_and_query = join_path(path, query);
        if asked.is_empty() || asked == port.to_string() {
            return Ok(Target { scheme: "https", host, port, path_and_query, node_agent: Some(name.to_owned()), rewrite_prefix });
        }
        let port = asked.parse().map_err(|_| bad())?;
        let scheme = if scheme == "https" { "https" } else { "http" };
        Ok(Target { scheme, host, port, path_and_query, node_agent: None, rewrite_prefix })
    }
}
