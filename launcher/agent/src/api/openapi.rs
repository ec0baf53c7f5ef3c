//! `/v1/openapi.json`: describes the API in OpenAPI 3.1, generated from the routes and their structs.

use super::routes::{ROUTES, Refusal};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

const JSON: &str = "application/json";

/// The description of an operation.
pub(super) struct Operation(Value);

impl Operation {
    /// An operation with a short summary, without an answer yet.
    pub(super) fn new(summary: &str) -> Self {
        let refusal = json!({
            "description": "The request was refused, and nothing was changed",
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/Refusal"}}}
        });
        Self(json!({"summary": summary, "responses": {"default": refusal}}))
    }

    /// Sets the query parameters, each with its description.
    #[must_use]
    pub(super) fn query(mut self, parameters: &[(&str, &str)]) -> Self {
        let parameter = |(name, description): &(&str, &str)| json!({"name": name, "in": "query", "description": description, "schema": {"type": "string"}});
        self.0["parameters"] = parameters.iter().map(parameter).collect();
        self
    }

    /// Sets the request body to a `T`.
    #[must_use]
    pub(super) fn takes<T: JsonSchema>(mut self, generator: &mut SchemaGenerator) -> Self {
        let schema = generator.subschema_for::<T>().to_value();
        self.0["requestBody"] = json!({"required": true, "content": {JSON: {"schema": schema}}});
        self
    }

    /// Sets the answer to a `T`.
    #[must_use]
    pub(super) fn answers<T: JsonSchema>(self, generator: &mut SchemaGenerator) -> Self {
        let schema = generator.subschema_for::<T>().to_value();
        self.whole(JSON, schema)
    }

    /// Sets the answer to a document of this media type.
    #[must_use]
    pub(super) fn whole(mut self, kind: &str, schema: Value) -> Self {
        self.0["responses"]["200"] = json!({"description": "Done", "content": {kind: {"schema": schema}}});
        self
    }
}

/// The whole description.
pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    generator.subschema_for::<Refusal>();
    let mut paths = Map::new();
    for route in ROUTES {
        let operation = (route.describe)(&mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation.0;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "hawser-agent",
            "description": "Reads and changes the objects of a cluster through the Unix socket api.sock in the agent's \
                --run-dir. See docs/cluster.md.",
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
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/agent-api.json");
        let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == text,
            "docs/agent-api.json is stale: UPDATE_DOCS=1 cargo test -p hawser-agent documentation"
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
