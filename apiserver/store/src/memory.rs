//! The memory back end: to be written by the store's owner.
