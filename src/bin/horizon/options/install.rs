//! Options of `horizon install`.

use std::path::PathBuf;

use clap::Args;

use super::heading::INSTALLATION;

#[derive(Args, Debug)]
pub struct InstallOptions {
    /// Folder below which everything is installed
    #[arg(long, help_heading = INSTALLATION, value_name = "DIR", default_value = "/usr/local")]
    pub prefix: String,
    /// Folder of the libraries, horizon.pc and the CMake package [default: lib]
    ///
    /// A relative path is below --prefix.
    #[arg(long, help_heading = INSTALLATION, value_name = "DIR", conflicts_with = "uninstall")]
    pub libdir: Option<String>,
    /// Folder of the headers [default: include]
    ///
    /// A relative path is below --prefix.
    #[arg(long, help_heading = INSTALLATION, value_name = "DIR", conflicts_with = "uninstall")]
    pub includedir: Option<String>,
    /// Staging folder, for packages [default: DESTDIR]
    ///
    /// It stands in front of every path that is written, and in no installed file.
    #[arg(long, help_heading = INSTALLATION, value_name = "DIR")]
    pub destdir: Option<PathBuf>,
    /// Remove what was installed with the same --prefix
    ///
    /// A file that was changed since then stays and is named.
    #[arg(long, help_heading = INSTALLATION)]
    pub uninstall: bool,
    /// Print the files that would be written or removed, and do nothing
    #[arg(long, help_heading = INSTALLATION)]
    pub dry_run: bool,
}
