//! The engine and its front door over the memory store, as one room.

mod access;
mod admission;
mod apply;
mod at_rest;
mod auth;
mod conversion;
mod delete;
mod fair;
mod input;
mod inside;
mod kinds;
mod kit;
mod kms;
mod lane;
mod list;
mod non_resource;
mod turns;
mod watch;
mod write;
