//! The operations of the API. One table serves both to dispatch requests and to generate the OpenAPI description.

use super::Context;
use super::http::{Answer, Request};
use super::metrics;
use super::openapi::{self, Operation};
use super::public::{self, json};
use crate::cluster::{Application, Applied, Cluster, ObjectView, Refused};
use crate::objects::Power;
use crate::resources::{self, Resource};
use hawser_store::VmName;
use hyper::Method;
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::sync::PoisonError;

const JSON: &str = "application/json";

/// The reason why a request was refused. The request has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Refusal {
    /// The problem and the next step. One line per problem.
    pub error: String,
}

/// Objects of a kind.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ListAnswer {
    /// The objects, in the order of their names.
    pub items: Vec<ObjectView>,
}

/// Applied manifests.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ApplyAnswer {
    /// The objects of the manifests.
    pub objects: Vec<Applied>,
    /// Differences between the manifests and what is served.
    pub warnings: Vec<String>,
}

/// A VM that moves.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct MoveAnswer {
    /// The node to which it moves, or on which it stays.
    pub node: String,
}

/// A request that was accepted.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Done {}

type Handler = fn(&Context, &Request) -> Result<Answer, Refused>;

/// One operation of the API.
pub(super) struct Route {
    /// HTTP method.
    pub method: Method,
    /// Path of the request.
    pub path: &'static str,
    handler: Handler,
    /// Function that describes the operation for OpenAPI.
    pub describe: fn(&mut SchemaGenerator) -> Operation,
}

const KIND: (&str, &str) = ("kind", "Kind of the object: vm, node, udn, … as in commands");
const NAMESPACE: (&str, &str) = (
    "namespace",
    "Namespace of the object; all namespaces if it is missing in a list",
);
const NAME: (&str, &str) = ("name", "Name of the object; all objects if it is missing in a list");
const OFF: (&str, &str) = (
    "off",
    "1: the node of the VM is known to be off, so it is not waited for",
);

/// All operations.
pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/objects",
        handler: list,
        describe: |generator| {
            Operation::new("Objects of a kind, with their states")
                .query(&[KIND, NAMESPACE, NAME])
                .answers::<ListAnswer>(generator)
        },
    },
    Route {
        method: Method::DELETE,
        path: "/v1/objects",
        handler: delete,
        describe: |generator| {
            Operation::new("Deletes an object; a VM is stopped first")
                .query(&[KIND, NAMESPACE, NAME, OFF])
                .answers::<Done>(generator)
        },
    },
    Route {
        method: Method::POST,
        path: "/v1/apply",
        handler: apply,
        describe: |generator| {
            Operation::new("Stores the objects of manifests, all or none")
                .takes::<Application>(generator)
                .answers::<ApplyAnswer>(generator)
        },
    },
    Route {
        method: Method::POST,
        path: "/v1/start",
        handler: |context, request| set_power(context, request, Power::On),
        describe: |generator| {
            Operation::new("Starts a VM")
                .query(&[NAMESPACE, NAME])
                .answers::<Done>(generator)
        },
    },
    Route {
        method: Method::POST,
        path: "/v1/stop",
        handler: |context, request| set_power(context, request, Power::Off),
        describe: |generator| {
            Operation::new("Stops a VM, which keeps its MAC and addresses")
                .query(&[NAMESPACE, NAME])
                .answers::<Done>(generator)
        },
    },
    Route {
        method: Method::POST,
        path: "/v1/move",
        handler: relocate,
        describe: |generator| {
            let to = ("to", "Node to move to; chosen by labels and load if it is missing");
            let live = (
                "live",
                "1: the VM keeps running; the other node prepares a process, and takes over the ports once the guest \
                 runs there",
            );
            let cancel = (
                "cancel",
                "1: ends a move of a VM that keeps running, before its guest runs there",
            );
            Operation::new(
                "Moves a VM to another node, with the same MAC and addresses; stops it for that unless it is live",
            )
            .query(&[NAMESPACE, NAME, to, OFF, live, cancel])
            .answers::<MoveAnswer>(generator)
        },
    },
    Route {
        method: Method::GET,
        path: "/v1/node",
        handler: |context, _| Ok(json(200, &context.node.get())),
        describe: |generator| {
            Operation::new("The VMs that this node serves").answers::<crate::report::NodeReport>(generator)
        },
    },
    Route {
        method: Method::GET,
        path: "/v1/metrics",
        handler: |context, _| public::scrape(&context.node),
        describe: |_| {
            Operation::new("State of the node, for Prometheus")
                .whole(metrics::KIND, serde_json::json!({"type": "string"}))
        },
    },
    Route {
        method: Method::GET,
        path: "/v1/openapi.json",
        handler: |_, _| Ok(json(200, &openapi::document())),
        describe: |_| Operation::new("This description").whole(JSON, serde_json::json!({"type": "object"})),
    },
];

/// Answers a request.
pub(super) fn answer(context: &Context, request: &Request) -> Answer {
    let here = || ROUTES.iter().filter(|route| route.path == request.path);
    match here().find(|route| route.method == request.method) {
        Some(route) => (route.handler)(context, request).unwrap_or_else(|refused| refusal(&refused)),
        None if here().next().is_some() => {
            let allowed: Vec<&str> = here().map(|route| route.method.as_str()).collect();
            refuse(405, &format!("{} supports {}", request.path, allowed.join(" and ")))
        }
        None => {
            let mut paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
            paths.dedup();
            refuse(
                404,
                &format!("there is no {}; there are {}", request.path, paths.join(", ")),
            )
        }
    }
}

fn refusal(refused: &Refused) -> Answer {
    let status = match refused {
        Refused::NotFound(_) => 404,
        Refused::Conflict(_) => 409,
        Refused::Invalid(_) => 422,
        Refused::Store(_) => 503,
    };
    refuse(status, &refused.to_string())
}

fn refuse(status: u16, error: &str) -> Answer {
    json(
        status,
        &Refusal {
            error: error.to_owned(),
        },
    )
}

/// Runs a request on the cluster. Requests take turns.
fn with<T>(context: &Context, work: impl FnOnce(&mut Cluster) -> Result<T, Refused>) -> Result<T, Refused> {
    work(&mut context.cluster.lock().unwrap_or_else(PoisonError::into_inner))
}

fn value<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request
        .query
        .get(name)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

fn need<'a>(request: &'a Request, name: &str) -> Result<&'a str, Refused> {
    value(request, name).ok_or_else(|| Refused::Invalid(format!("give ?{name}=")))
}

fn resource(request: &Request) -> Result<&'static Resource, Refused> {
    resources::find(need(request, "kind")?).map_err(Refused::NotFound)
}

fn vm(request: &Request) -> Result<VmName, Refused> {
    Ok(VmName {
        namespace: need(request, "namespace")?.to_owned(),
        name: need(request, "name")?.to_owned(),
    })
}

fn is_off(request: &Request) -> bool {
    value(request, "off") == Some("1")
}

fn list(context: &Context, request: &Request) -> Result<Answer, Refused> {
    let resource = resource(request)?;
    let (namespace, name) = (value(request, "namespace"), value(request, "name"));
    let items = with(context, |cluster| cluster.get(resource, namespace, name))?;
    Ok(json(200, &ListAnswer { items }))
}

fn delete(context: &Context, request: &Request) -> Result<Answer, Refused> {
    let (resource, name) = (resource(request)?, need(request, "name")?);
    let namespace = match resource.is_namespaced {
        true => Some(need(request, "namespace")?),
        false => None,
    };
    with(context, |cluster| {
        cluster.delete(resource, namespace, name, is_off(request))
    })?;
    Ok(json(200, &Done {}))
}

fn apply(context: &Context, request: &Request) -> Result<Answer, Refused> {
    let application: Application = serde_json::from_slice(&request.body)
        .map_err(|error| Refused::Invalid(format!("the body is not valid: {error}")))?;
    let (objects, warnings) = with(context, |cluster| cluster.apply(&application))?;
    Ok(json(200, &ApplyAnswer { objects, warnings }))
}

fn set_power(context: &Context, request: &Request, power: Power) -> Result<Answer, Refused> {
    let vm = vm(request)?;
    with(context, |cluster| cluster.set_power(&vm, power))?;
    Ok(json(200, &Done {}))
}

fn relocate(context: &Context, request: &Request) -> Result<Answer, Refused> {
    let (vm, to) = (vm(request)?, value(request, "to"));
    let is_set = |name| value(request, name) == Some("1");
    let node = with(context, |cluster| match (is_set("cancel"), is_set("live")) {
        (true, _) => cluster.cancel_move(&vm),
        (false, true) => cluster.begin_move(&vm, to),
        (false, false) => cluster.move_to(&vm, to, is_off(request)),
    })?;
    Ok(json(200, &MoveAnswer { node }))
}
