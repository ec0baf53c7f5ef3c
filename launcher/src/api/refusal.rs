//! The answer to a refused request: the problem and the next step.

use super::http::{Answer, Document};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The reason why a request was refused. The request has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Refusal {
    #[serde(skip)]
    status: u16,
    /// What is wrong with the request.
    pub error: String,
    /// What the client can do next.
    pub remedy: String,
}

impl Refusal {
    fn new(status: u16, error: impl ToString, remedy: impl ToString) -> Self {
        Self {
            status,
            error: error.to_string(),
            remedy: remedy.to_string(),
        }
    }

    /// The request is invalid.
    pub(crate) fn bad_request(error: impl ToString, remedy: impl ToString) -> Self {
        Self::new(400, error, remedy)
    }

    /// The object that the request names does not exist.
    pub(crate) fn not_found(error: impl ToString, remedy: impl ToString) -> Self {
        Self::new(404, error, remedy)
    }

    /// The request is valid, but conflicts with the current state.
    pub(crate) fn conflict(error: impl ToString, remedy: impl ToString) -> Self {
        Self::new(409, error, remedy)
    }

    /// The system refused an operation.
    pub(crate) fn internal(error: impl ToString, remedy: impl ToString) -> Self {
        Self::new(500, error, remedy)
    }

    pub(super) fn wrong_method(method: &str, path: &str, allowed: &str) -> Self {
        Self::new(
            405,
            format!("{path} does not support {method}"),
            format!("use {allowed}"),
        )
    }

    pub(super) fn unknown_method(method: &str) -> Self {
        Self::new(
            501,
            format!("there is no method {method:?}"),
            "use GET, POST, PUT or DELETE",
        )
    }

    pub(super) fn not_whole(error: impl ToString) -> Self {
        Self::new(400, error, "send the body whole")
    }

    pub(super) fn timeout() -> Self {
        Self::new(408, "the request was not complete in time", "send it at once")
    }

    pub(super) fn too_large(error: impl ToString) -> Self {
        Self::new(413, error, "make the request shorter")
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Whole(refusal.into())
    }
}

impl From<Refusal> for Document {
    fn from(refusal: Refusal) -> Self {
        super::document(refusal.status, &refusal)
    }
}
