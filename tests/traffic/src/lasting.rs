//! A file that says how long a command lasts: the command creates it once it is under way, and ends when it has gone.

use crate::{Arguments, Failure};
use std::fs::File;
use std::path::PathBuf;

/// How far the command is.
enum Progress {
    New,
    Begun,
    UnderWay,
}

/// How long a command lasts.
pub(crate) struct Lasting {
    file: PathBuf,
    progress: Progress,
}

impl Lasting {
    /// The file of the argument `while`, if there is one.
    pub(crate) fn of(arguments: &Arguments) -> Result<Option<Self>, Failure> {
        let file: Option<PathBuf> = arguments.get_if("while")?;
        Ok(file.map(|file| Self {
            file,
            progress: Progress::New,
        }))
    }

    /// True as long as the command lasts. To be called before each of its steps.
    pub(crate) fn lasts(&mut self) -> bool {
        match self.progress {
            Progress::New => {
                self.progress = Progress::Begun;
                true
            }
            Progress::Begun => {
                self.progress = Progress::UnderWay;
                // Without the file the command ends, which whoever waits for the file notices.
                File::create(&self.file).is_ok()
            }
            Progress::UnderWay => self.file.exists(),
        }
    }
}
