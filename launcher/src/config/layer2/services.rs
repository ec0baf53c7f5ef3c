//! The Services of a layer2 NIC: those in the VM's manifests, and those in the file of `--services`.

use super::file::{self, MAX_FILE, ReadError};
use hawser_config::ServicePort;
use hawser_manifest::nic::Layer2Spec;
use hawser_manifest::objects::{SourceFile, virtual_services};
use std::path::{Path, PathBuf};

/// Services that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServicesError {
    /// The file cannot be read.
    #[error("--services={path}: {1}; give a readable file with Services and EndpointSlices", path = .0.display())]
    Unreadable(PathBuf, String),
    /// The file is larger than any list of Services.
    #[error("--services={path} has more than {MAX_FILE} bytes: leave out Services that the guest does not use", path = .0.display())]
    TooLarge(PathBuf),
    /// The file has an error; the text names its line and field.
    #[error("{0}")]
    Content(String),
}

/// The Services of a NIC, wherever they are configured.
#[derive(Clone, Debug)]
pub(crate) struct ServiceSource {
    of_manifests: Vec<ServicePort>,
    file: Option<PathBuf>,
    /// Name of the network in OVN-Kubernetes.
    network: Option<String>,
    /// Digest of the file when it was last parsed.
    seen: Option<u64>,
}

impl ServiceSource {
    pub(super) fn of(mode: &Layer2Spec) -> Self {
        Self {
            of_manifests: mode.services.clone(),
            file: mode.services_file.clone(),
            network: mode.network.clone(),
            seen: None,
        }
    }

    /// The file, if there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The text of the file; none without a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn text(&self) -> Result<String, ServicesError> {
        let Some(path) = &self.file else {
            return Ok(String::new());
        };
        file::read(path).map_err(|error| match error {
            ReadError::Unreadable(why) => ServicesError::Unreadable(path.clone(), why),
            ReadError::TooLarge => ServicesError::TooLarge(path.clone()),
        })
    }

    /// True if the content of the file has changed since the last call of [`services`](Self::services).
    pub(crate) fn is_new(&self, text: &str) -> bool {
        self.seen != Some(file::digest(text))
    }

    /// All Services, with `text` as the content of the file.
    ///
    /// # Errors
    /// The first fault.
    pub(crate) fn services(&mut self, text: &str) -> Result<Vec<ServicePort>, ServicesError> {
        self.seen = Some(file::digest(text));
        let Some(path) = &self.file else {
            return Ok(self.of_manifests.clone());
        };
        let source = SourceFile {
            name: path.display().to_string(),
            text: text.to_owned(),
        };
        let of_file = virtual_services::parse(source, self.network.as_deref()).map_err(ServicesError::Content)?;
        // A Service in the file replaces one in the manifests.
        let all = of_file.into_iter().chain(self.of_manifests.iter().cloned());
        Ok(all.collect())
    }
}
