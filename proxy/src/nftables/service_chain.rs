//! What packets to a destination have in common -> the name of their set and chain.

use std::num::NonZeroU32;

/// What packets to a destination have in common. Equal ones share a set and a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceChain {
    pub matched_by: DestinationMatch,
    /// Endpoints of the list Cluster for pods and this node itself, where others get the list Local; else 0.
    pub insiders: u32,
    pub list: List,
    /// Endpoints of the list.
    pub count: u32,
    /// The service port whose clients stay with their endpoints: it has chains of its own, and counts are 0 or 1.
    pub sticky: Option<NonZeroU32>,
}

/// How a destination is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationMatch {
    Address,
    NodePort,
}

/// Which of a service port's two lists of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    Cluster,
    Local,
}

/// The places of a destination's list Local begin here, far above those of the list Cluster.
const LOCAL_PLACES: u32 = 1_000_000;
const COMMON_SIZES: u32 = 8;

impl ServiceChain {
    /// Its set and its chain, as `nft` shows them.
    pub fn name(&self) -> String {
        let matched_by = if self.matched_by == DestinationMatch::Address { "ip" } else { "nodeport" };
        let list = if self.list == List::Cluster { "cluster" } else { "local" };
        let insiders = if self.insiders > 0 { format!("-or-cluster-{}", self.insiders) } else { String::new() };
        let sticky = self.sticky.map(|id| format!("-sticky-{id}")).unwrap_or_default();
        format!("{matched_by}-{list}-{}{insiders}{sticky}", self.count)
    }

    /// The lists that it chooses from.
    pub fn lists(&self) -> impl Iterator<Item = List> {
        let chosen = (self.count > 0).then_some(self.list);
        let of_insiders = (self.insiders > 0).then_some(List::Cluster);
        chosen.into_iter().chain(of_insiders)
    }

    /// Sizes that services mostly have, of both doors.
    pub fn common() -> impl Iterator<Item = ServiceChain> {
        let of = |count| {
            [DestinationMatch::Address, DestinationMatch::NodePort].map(|matched_by| ServiceChain {
                matched_by,
                insiders: 0,
                list: List::Cluster,
                count,
                sticky: None,
            })
        };
        (1..=COMMON_SIZES).flat_map(of)
    }

    pub fn is_common(&self) -> bool {
        Self::common().any(|class| class == *self)
    }
}

impl List {
    /// Where its places begin among those of a destination.
    pub fn first_place(self) -> u32 {
        if self == List::Local { LOCAL_PLACES } else { 0 }
    }
}
