//! A node's certificate -> what it may not read and needs: on a control plane of others, where nobody gave nodes the right.
//!
//! Source: upstream's roles `system:node` and `system:node-proxier`; docs/decisions/a-node-is-one-user.md.

use std::time::Duration;

use api::k8s::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use client::kube::{Api, Client, Error, api::ListParams};
use tokio::time::timeout;

/// Until a server says yes or no.
const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// In words, with the deed that helps; `None` where nothing is refused. A server that does not answer refuses nothing.
pub async fn lacking(client: &Client) -> Option<String> {
    let one = ListParams::default().limit(1);
    let services = Api::<Service>::all(client.clone());
    let slices = Api::<EndpointSlice>::all(client.clone());
    let nodes = Api::<Node>::all(client.clone());
    let (services, slices, nodes) = tokio::join!(
        is_refused(services.list_metadata(&one)),
        is_refused(slices.list_metadata(&one)),
        is_refused(nodes.list_metadata(&one)),
    );
    let refused = [(services, "services"), (slices, "endpointslices"), (nodes, "nodes")];
    let names: Vec<&str> = refused.iter().filter_map(|(is_refused, name)| is_refused.then_some(*name)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "the cluster lets its nodes not list {}: pods here would reach no Services, no names and no pods of other nodes. An administrator lets them with \
             `kubectl create clusterrolebinding skiff:node-proxier --clusterrole=system:node-proxier --group=system:nodes`",
            names.join(", ")
        )
    })
}

async fn is_refused<T>(asked: impl Future<Output = Result<T, Error>>) -> bool {
    matches!(timeout(ANSWER_BOUND, asked).await, Ok(Err(Error::Api(status))) if status.code == 403)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::task::Group;

    #[tokio::test]
    async fn what_a_node_may_not_read_is_told_with_the_command_that_mends_it() {
        let group = Group::new();
        let door = door::Door::new(&group).await;
        let node = door.client("system:node:a", &["system:nodes", "system:authenticated"]);
        let words = lacking(&node).await.unwrap();
        assert!(words.contains("endpointslices, nodes") && words.contains("kubectl create clusterrolebinding"), "{words}");
        crate::server::manifests::apply(&door.engine, "10.96.0.10".parse().unwrap(), true).await.unwrap();
        assert_eq!(lacking(&node).await, None);
        group.drain(door::BOUND).await;
    }
}
