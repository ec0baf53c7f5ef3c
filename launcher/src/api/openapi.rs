//! `/v1/openapi.json`: describes the API in OpenAPI 3.1, generated from the routes and their structs.

use super::http::{Method, Request};
use super::router::{Route, routes};
use super::{Context, JSON, Refusal};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[Route {
    method: Method::Get,
    path: "/v1/openapi.json",
    handler: |_: &Context, _: &Request| Ok(super::json(200, &document())),
    describe: |_| Operation::new("This description").whole(JSON, json!({"type": "object"})),
}];

/// The description of a route.
pub(crate) struct Operation(Map<String, Value>);

/// A value in the query of a request.
pub(crate) struct Parameter(Value);

impl Parameter {
    fn new(name: &str, description: &str, kind: &str) -> Self {
        Self(json!({"name": name, "in": "query", "description": description, "schema": {"type": kind}}))
    }

    /// A text parameter.
    pub(crate) fn text(name: &str, description: &str) -> Self {
        Self::new(name, description, "string")
    }

    /// An integer parameter.
    pub(crate) fn number(name: &str, description: &str) -> Self {
        Self::new(name, description, "integer")
    }
}

impl Operation {
    /// An operation with a short summary, without responses yet.
    pub(crate) fn new(summary: &str) -> Self {
        let refusal = json!({
            "description": "The request was refused, and nothing was changed",
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/Refusal"}}}
        });
        let operation = json!({"summary": summary, "responses": {"default": refusal}});
        Self(operation.as_object().cloned().unwrap_or_default())
    }

    /// Adds a query parameter.
    #[must_use]
    pub(crate) fn parameter(mut self, parameter: Parameter) -> Self {
        let list = self.0.entry("parameters").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(parameter.0);
        }
        self
    }

    /// Adds the query parameter that names a port.
    #[must_use]
    pub(crate) fn port(self) -> Self {
        self.parameter(Parameter::text(
            "port",
            "Name of the port; optional if there is only one",
        ))
    }

    /// Adds the port as an optional parameter of a request for all ports.
    #[must_use]
    pub(crate) fn any_port(self) -> Self {
        self.parameter(Parameter::text("port", "Name of the port; all of them without it"))
    }

    /// Sets the request body to a `T`.
    #[must_use]
    pub(crate) fn takes<T: JsonSchema>(mut self, generator: &mut SchemaGenerator) -> Self {
        let schema = generator.subschema_for::<T>().to_value();
        let body = json!({"required": true, "content": {JSON: {"schema": schema}}});
        self.0.insert("requestBody".into(), body);
        self
    }

    /// Sets the response to a `T`.
    #[must_use]
    pub(crate) fn answers<T: JsonSchema>(self, generator: &mut SchemaGenerator) -> Self {
        let schema = generator.subschema_for::<T>().to_value();
        self.whole(JSON, schema)
    }

    /// Sets the response to a document of another media type.
    #[must_use]
    pub(crate) fn whole(mut self, kind: &str, schema: Value) -> Self {
        if let Some(responses) = self.0.get_mut("responses") {
            responses["200"] = json!({"description": "Done", "content": {kind: {"schema": schema}}});
        }
        self
    }

    /// Sets the response to bytes.
    #[must_use]
    pub(crate) fn binary(self, kind: &str) -> Self {
        self.whole(kind, json!({}))
    }
}

/// The whole description.
pub(crate) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    generator.subschema_for::<Refusal>();
    let mut paths = Map::new();
    for route in routes() {
        let operation = (route.describe)(&mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.name().to_ascii_lowercase()] = operation.0.into();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "hawser",
            "description": "Watches and changes a running hawser through the Unix socket of --api-socket. See \
                docs/api.md.",
            "version": "1",
        },
        "servers": [{"url": "http://localhost"}],
        "paths": paths,
        "components": {"schemas": generator.take_definitions(true)},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_description_in_the_documentation_is_that_of_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.json");
        let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == text,
            "docs/api.json is stale: UPDATE_DOCS=1 cargo test -p hawser documentation"
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
