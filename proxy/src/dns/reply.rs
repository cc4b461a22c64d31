//! An answer -> the message that carries it, cut to what the asker can take.

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::Record,
    serialize::binary::{BinEncodable, BinEncoder},
};

use super::Transport;

/// What every path carries unfragmented (DNS flag day 2020).
pub const UDP_PAYLOAD: u16 = 1232;
/// RFC 1035, for askers that do not say.
const UDP_PLAIN: u16 = 512;

/// What goes into a reply.
#[derive(Debug, Default)]
pub struct Parts {
    pub code: Option<ResponseCode>,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

/// The reply to `request`, authoritative where it is about our names.
pub fn reply(request: &Message, parts: Parts) -> Message {
    let mut reply = bare(&request.metadata, parts.code.unwrap_or(ResponseCode::NoError));
    reply.metadata.authoritative = matches!(reply.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    reply.add_queries(request.queries.iter().cloned());
    reply.add_answers(parts.answers);
    reply.add_authorities(parts.authorities);
    reply.add_additionals(parts.additionals);
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD);
        reply.set_edns(edns);
    }
    reply
}

/// Only a code: for questions that are not understood.
pub fn failure(request: &Message, code: ResponseCode) -> Message {
    let mut message = bare(&request.metadata, code);
    message.add_queries(request.queries.iter().cloned());
    message
}

/// The bytes; over UDP no more than the asker takes, marked as truncated where something had to go.
pub fn encode(reply: &Message, request: &Message, transport: Transport) -> Option<Vec<u8>> {
    let asked = request.edns.as_ref().map_or(UDP_PLAIN, |e| e.max_payload().clamp(UDP_PLAIN, UDP_PAYLOAD));
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(if transport == Transport::Udp { asked } else { u16::MAX });
    reply.emit(&mut encoder).ok()?;
    Some(bytes)
}

/// The request's one question.
///
/// # Errors
/// The code to refuse it with.
pub fn question(request: &Message) -> Result<&Query, ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    match request.queries.as_slice() {
        [query] => Ok(query),
        _ => Err(ResponseCode::FormErr),
    }
}

fn bare(request: &Metadata, code: ResponseCode) -> Message {
    let mut message = Message::new(request.id, MessageType::Response, request.op_code);
    message.metadata = Metadata::response_from_request(request);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message
}
