//! Yardsticks of hawser (see docs/performance.md).

pub mod bridge;
pub mod cases;
pub mod chart;
pub mod engine;
pub mod machine;
pub mod measure;
pub mod metric;
pub mod numbers;
pub mod packets;
pub mod results;
pub mod setup;
pub mod tap;
