//! Another program's change of packet rules -> a check whether ours are still there.

use std::time::Duration;

use futures::FutureExt;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_NETFILTER};

/// `NFNLGRP_NFTABLES` of the kernel's nfnetlink.h: every change of rules, by any program.
const GROUP: u32 = 7;
/// How often to look where the kernel does not tell (rules that are kept in the old way).
const PERIOD: Duration = Duration::from_secs(60);
/// What a message says does not matter, so it may be cut.
const MESSAGE_BYTES: usize = 4096;

pub struct Watch {
    socket: Option<TokioSocket>,
}

impl Watch {
    pub fn new() -> Self {
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            socket.socket_mut().bind_auto()?;
            socket.socket_mut().add_membership(GROUP).map(|()| socket)
        };
        let socket = open().inspect_err(|error| tracing::debug!(%error, "failed to watch rule changes; checking periodically")).ok();
        Self { socket }
    }

    /// Resolves when rules have changed, or may have.
    pub async fn disturbed(&self) {
        let Some(socket) = &self.socket else { return tokio::time::sleep(PERIOD).await };
        // An overflow says as much as a message.
        let _ = socket.recv(&mut Vec::with_capacity(MESSAGE_BYTES)).await;
    }

    /// Drops the notifications so far.
    pub fn drain(&self) {
        let Some(socket) = &self.socket else { return };
        while socket.recv(&mut Vec::with_capacity(MESSAGE_BYTES)).now_or_never().is_some() {}
    }
}
