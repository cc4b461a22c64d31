//! The strategy of the built-in kinds as clients meet it: through the real engine over the memory store.

mod admission;
mod auth;
mod budgets;
mod classes;
mod components;
mod devices;
mod documents;
mod door;
mod fields;
mod flows;
mod interchange;
mod limits;
mod looks;
mod own;
mod plugins;
mod pods;
mod policies;
mod protobuf;
mod rights;
mod robust;
mod room;
mod services;
mod stock;
mod tenant;
mod ways;
