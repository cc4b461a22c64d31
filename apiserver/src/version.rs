//! Nothing here yet: being written.
