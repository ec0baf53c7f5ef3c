//! The Services that a guest of a layer2 network reaches, read from a followed file.

use super::followed::Source;
use crate::config::ServiceSource;
use hawser_backend::balance::ServiceTable;
use hawser_backend::port::Port;
use std::path::Path;
use std::sync::Arc;

impl Source for ServiceSource {
    const NOUN: &'static str = "Services";

    fn file(&self) -> Option<&Path> {
        self.file()
    }

    fn text(&self) -> Result<String, String> {
        self.text().map_err(|error| error.to_string())
    }

    fn is_new(&self, text: &str) -> bool {
        self.is_new(text)
    }

    fn take(&mut self, text: &str, port: &Port) -> Result<usize, String> {
        let services = self.services(text).map_err(|error| error.to_string())?;
        port.set_services(&Arc::new(ServiceTable::new(&services)));
        Ok(services.len())
    }
}
