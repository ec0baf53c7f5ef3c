//! Yardsticks of hawser (see docs/performance.md).
