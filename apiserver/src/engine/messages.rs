//! Objects that are read in protobuf again and again -> their messages, kept beside them: what is listed once more is copied, and not written anew.
//!
//! All together are bounded. Where there is no room one goes that nobody has read since it was last looked at ("second chance"), so that what is listed
//! often stays while somebody goes through more than there is room for.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::object::{Message, Object};

/// Of all messages that are kept, with what each takes besides.
pub(crate) const KEPT_BYTES_MAX: usize = 64 << 20;
/// Two allocations and a place in the queue; and what is left of an object that is gone while its message still stands in it.
const MESSAGE_BYTES: usize = 320;
/// How many are looked at for one that wants room.
const LOOKED_AT: usize = 4;

/// Which messages are kept.
pub(crate) struct Messages {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Whose, and how much it takes; the one that was looked at last comes last.
    queue: VecDeque<(Weak<Object>, usize)>,
    bytes: usize,
}

impl Default for Messages {
    fn default() -> Self {
        Self::new(KEPT_BYTES_MAX)
    }
}

impl Messages {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, kept: Mutex::default() }
    }

    /// Keeps what was written of an object, if there is room.
    pub fn keep(&self, object: &Arc<Object>, message: Vec<u8>) {
        let size = message.len() + MESSAGE_BYTES;
        let mut kept = self.kept.lock();
        if size > self.bytes_max || object.message().is_some() || !kept.make_room(size, self.bytes_max) {
            return;
        }
        kept.queue.push_back((Arc::downgrade(object), size));
        kept.bytes += size;
        object.set_message(Some(Message::new(message)));
    }
}

impl Kept {
    fn make_room(&mut self, size: usize, bytes_max: usize) -> bool {
        for _ in 0..LOOKED_AT {
            if self.bytes + size <= bytes_max {
                return true;
            }
            let Some((object, taken)) = self.queue.pop_front() else { break };
            match object.upgrade() {
                Some(object) if object.message().as_ref().is_some_and(|message| message.was_read()) => {
                    self.queue.push_back((Arc::downgrade(&object), taken));
                }
                gone_or_unread => {
                    self.bytes -= taken;
                    if let Some(object) = gone_or_unread {
                        object.set_message(None);
                    }
                }
            }
        }
        self.bytes + size <= bytes_max
    }
}

#[cfg(test)]
mod tests {
    use api::Key;
    use bytes::Bytes;

    use super::*;

    fn object(name: &str) -> Arc<Object> {
        Arc::new(Object::loose(Key::new("", name), Bytes::from_static(b"{}")))
    }

    #[test]
    fn what_is_read_stays_and_the_rest_is_bounded() {
        let room = 8;
        let messages = Messages::new(room * (MESSAGE_BYTES + 10));
        let objects: Vec<_> = (0..100).map(|at| object(&at.to_string())).collect();
        for (at, object) in objects.iter().enumerate() {
            messages.keep(object, vec![1; 10]);
            // Somebody lists the first two all the while.
            for often in objects[..2].iter().take(at + 1) {
                assert_eq!(often.message().as_ref().expect("what is read is kept").read(), [1; 10]);
            }
        }
        assert_eq!(objects.iter().filter(|object| object.message().is_some()).count(), room);
        messages.keep(&objects[0], vec![1; 20]);
        assert_eq!(objects[0].message().as_ref().expect("it is kept once").read(), [1; 10]);
        messages.keep(&objects[50], vec![1; room * (MESSAGE_BYTES + 10) + 1]);
        assert!(objects[50].message().is_none(), "more than there is room for in all");
        let kept = messages.kept.lock();
        assert_eq!((kept.queue.len() <= room, kept.bytes <= messages.bytes_max), (true, true));
    }

    #[test]
    fn objects_that_are_gone_make_room() {
        let messages = Messages::new(4 * (MESSAGE_BYTES + 10));
        for at in 0..100 {
            let one = object(&at.to_string());
            messages.keep(&one, vec![0; 10]);
            one.message().as_ref().expect("there is always room").read();
        }
        assert!(messages.kept.lock().queue.len() <= 4);
    }
}
