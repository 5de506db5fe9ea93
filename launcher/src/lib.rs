//! The launcher: the command line, and the supervision of the processes that do the work.

pub mod command;
pub mod doctor;
pub mod error;
pub mod eval;
pub mod link;
pub mod metrics;
pub mod models;
pub mod plan;
pub mod profile;
pub mod report;
pub mod supervise;
pub mod topology;
