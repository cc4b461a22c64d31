//! A node's agent and a server -> a tunnel: what the two say to each other before it stands, and what passes through it at a time.
//!
//! The agent asks with `GET /skiff/v1/tunnels/NAME`, `Upgrade: skiff-tunnel`. After the answer 101 the connection speaks HTTP/2 with the roles
//! reversed: the server opens streams (`CONNECT`), the agent joins each with its own port. docs/decisions/tunnel.md.

use std::time::Duration;

/// Of the `Upgrade` header.
pub const PROTOCOL: &str = "skiff-tunnel";
/// Before the name of the node.
pub const PATH: &str = "/skiff/v1/tunnels/";
/// The header of the answer that says which server it is, at whatever address it was reached.
pub const SERVER: &str = "skiff-server";
/// The one thing that streams lead to (the authority of `CONNECT`): the port of the node's agent.
pub const AGENT: &str = "agent:10250";
/// Streams of one tunnel at a time.
pub const STREAMS_MAX: u32 = 256;
/// What may be on its way in one stream and one direction before its reader has taken it.
pub const STREAM_WINDOW_BYTES: u32 = 128 << 10;
/// As much as all streams together, so that those that are not read hold up none of the others.
pub const TUNNEL_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;
/// For the server: until the agent has taken a stream. What takes longer leads nowhere any more, or over a line that is of no use.
pub const STREAM_BOUND: Duration = Duration::from_secs(3);
/// For the agent: until its own port, which is on its machine, has taken a stream. Its no must come before the server takes the tunnel for dead.
pub const DIAL_BOUND: Duration = Duration::from_secs(2);
const _: () = assert!(DIAL_BOUND.as_secs() < STREAM_BOUND.as_secs());
