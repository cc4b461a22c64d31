//! Changed services -> the kernel, in the way that was chosen for this node.

use api::Key;

use crate::{
    Error, Mode,
    family::Family,
    iptables::{
        exec,
        rules::Fragment,
        table::{Rules, Saved},
    },
    late,
    model::{NodeNetwork, ServicePort},
    nftables::Table,
};

/// What the kernel should hold for one family, in one of two forms.
pub enum Backend {
    Iptables(Rules),
    Nftables(Box<Table>),
}

impl Backend {
    /// # Errors
    /// [`Error::NotServed`].
    pub fn new(mode: Mode, family: Family) -> Result<Self, Error> {
        if !family.is_served() {
            return Err(Error::NotServed(family));
        }
        Ok(match mode {
            Mode::Iptables => Self::Iptables(Rules::new(NodeNetwork::of(family))),
            Mode::Nftables => Self::Nftables(Box::new(Table::new(family))),
        })
    }

    /// Everything in place of what may be there, so that packets always find a whole; and what another mode has left behind goes. The
    /// services whose rules could not be worked out: they have those they had.
    ///
    /// # Errors
    /// Where it could not be written.
    pub async fn write_all(&mut self, node_network: NodeNetwork, changes: &[(Key, Vec<ServicePort>)]) -> Result<Vec<Key>, Error> {
        match self {
            Self::Iptables(rules) => {
                let family = node_network.family;
                rules.set_node_network(node_network);
                let (fragments, left) = fragments(rules, changes);
                rules.update(fragments);
                let saved: Saved = exec::save(family).await?;
                exec::restore_all(family, rules.full(&saved)).await?;
                crate::remove_table(family)?;
                Ok(left)
            }
            Self::Nftables(table) => {
                if let Some(transaction) = table.full(node_network.clone(), changes) {
                    table.commit(transaction).await?;
                }
                open_firewall(&node_network).await;
                Ok(table.take_left())
            }
        }
    }

    /// Only what changed; gives back what [`Backend::write_all`] does.
    ///
    /// # Errors
    /// Where it could not be written; what the kernel holds is not known then.
    pub async fn write(&mut self, changes: &[(Key, Vec<ServicePort>)]) -> Result<Vec<Key>, Error> {
        match self {
            Self::Iptables(rules) => {
                let (fragments, left) = fragments(rules, changes);
                exec::restore_all(rules.node_network().family, rules.update(fragments)).await?;
                Ok(left)
            }
            Self::Nftables(table) => {
                if let Some(transaction) = table.update(changes) {
                    table.commit(transaction).await?;
                }
                Ok(table.take_left())
            }
        }
    }

    /// Whether what was written is still there.
    pub async fn is_whole(&mut self) -> bool {
        match self {
            Self::Iptables(rules) => exec::is_whole(rules.node_network().family).await,
            Self::Nftables(table) => table.is_whole(),
        }
    }
}

fn fragments(rules: &Rules, changes: &[(Key, Vec<ServicePort>)]) -> (Vec<(Key, Fragment)>, Vec<Key>) {
    let (mut made, mut left) = (Vec::with_capacity(changes.len()), Vec::new());
    for (key, service_ports) in changes {
        match late::one(key, || Fragment::of(service_ports, rules.node_network())) {
            Some(fragment) => made.push((key.clone(), fragment)),
            None => left.push(key.clone()),
        }
    }
    (made, left)
}

/// Removes iptables' rules for services, and lets the pod network through where the node has a firewall by iptables.
async fn open_firewall(node_network: &NodeNetwork) {
    let opened = async {
        let scripts = exec::save(node_network.family).await?.guards(node_network);
        exec::restore_all(node_network.family, scripts).await
    };
    if let Err(error) = opened.await {
        tracing::warn!(%error, "iptables not found; a firewall of the node may block the pod network");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_is_not_served_is_refused() {
        for mode in [Mode::Iptables, Mode::Nftables] {
            let refused = Backend::new(mode, Family::V6).err().map(|error| error.to_string());
            assert_eq!(refused.as_deref(), Some("IPv6 services are not served yet"));
            assert!(Backend::new(mode, Family::V4).is_ok());
        }
    }
}
