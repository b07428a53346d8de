//! The `proot` layer: PRoot, the start program and the deployed commands, in the image alone.

use super::commands;
use super::launch_layer::{LaunchLayer, LayerError, LayerState};
use super::loader::Loaders;
use crate::log;
use crate::tools::{ToolError, ToolSource, tool_name};
use bullet_stream::global::print;
use flate2::read::MultiGzDecoder;
use http_client::Http;
use nix_hydra_start::executable::{Kind, Machine};
use nix_hydra_start::image::{INSIDE, LOADER, LOADER_32, PROOT};
use nix_runner::archive::AtMost;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, OpenOptions};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// The start program's name, in the layer and as this package builds it.
pub const START_PROGRAM: &str = "nix-hydra";

/// Raised whenever the layer's content changes its form.
const FORMAT: &str = "2";

/// The name by which users know the start program.
pub const RUN_PROOT: &str = "run_proot.sh";

/// The largest PRoot taken; 5.4.0 has 0.2 MB, with debug information 2 MB.
const MAX_PROGRAM_SIZE: u64 = 64 * 1024 * 1024;

/// Bytes of an archive with PRoot in it, unpacked: a package has documentation beside it.
const MAX_ARCHIVE_SIZE: u64 = 256 * 1024 * 1024;

/// Why there is no proot layer. A part of it that was written is removed.
#[derive(Debug, thiserror::Error)]
pub enum PRootLayerError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The downloaded file is neither a program nor an archive that holds one; what it is.
    #[error("PRoot: {0}")]
    Program(String),
    /// A program that comes with the buildpack cannot be read.
    #[error("{path} cannot be read: {1}", path = .0.display())]
    StartProgram(PathBuf, #[source] io::Error),
    /// A program that comes with the buildpack is not for the image's processor.
    #[error("{path} is not for {1}", path = .0.display())]
    OtherPackage(PathBuf, Machine),
    #[error(transparent)]
    Layer(#[from] LayerError),
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Metadata {
    format: String,
    /// SHA-256 of the file that PRoot came in; empty where there is none.
    proot: String,
    /// SHA-256 of the start program.
    start_program: String,
    /// SHA-256 of the first process in PRoot; empty where there is none.
    inside: String,
    /// The names of the deployed commands.
    commands: Vec<String>,
}

/// Where the programs are that come with the buildpack.
#[derive(Debug)]
pub struct Programs {
    pub start: PathBuf,
    /// The first process in PRoot.
    pub inside: PathBuf,
}

/// What the layer is needed for.
#[derive(Debug, Clone)]
pub struct Use<'a> {
    /// The PRoot to put into it; None if the closure needs no engine.
    pub proot: Option<ToolSource>,
    /// The names of the deployed programs.
    pub commands: &'a [String],
    /// The image's processor.
    pub machine: Machine,
    /// Whether this build runs the start program, so that the layer must be there.
    pub by_this_build: bool,
}

/// Fills the layer, unless the previous image has it already and this build does not run it.
pub fn handle(
    layers_dir: &Path,
    programs: &Programs,
    needed: &Use<'_>,
    http: &Http,
) -> Result<(), PRootLayerError> {
    let source = needed.proot.as_ref();
    let read = |path: &Path| {
        fs::read(path).map_err(|error| PRootLayerError::StartProgram(path.to_path_buf(), error))
    };
    let start = read(&programs.start)?;
    let inside = source.map(|_| read(&programs.inside)).transpose()?;
    let wanted = Metadata {
        format: FORMAT.to_string(),
        proot: source.map_or_else(String::new, |source| hex::encode(source.download.sha256)),
        start_program: hex::encode(Sha256::digest(&start)),
        inside: inside
            .as_ref()
            .map_or_else(String::new, |program| hex::encode(Sha256::digest(program))),
        commands: needed.commands.to_vec(),
    };
    let layer = LaunchLayer::new(layers_dir, "proot");
    let state =
        layer.keep_if::<Metadata>(|previous| !needed.by_this_build && *previous == wanted)?;
    if source.is_some() {
        print::bullet("PRoot");
    }
    if let LayerState::Kept(_) = state {
        if source.is_some() {
            log::sub_bullet("Using the previous image's");
        }
        return Ok(());
    }
    let filled = fill(&layer.path, source, &start, inside.as_deref(), http).and_then(|()| {
        if source.is_some() {
            check_proot(&layer.path.join(PROOT), needed.machine)?;
        }
        Ok(commands::link(&layer.path, needed.commands)?)
    });
    if let Err(error) = filled {
        // The first error is the one to tell.
        let _ = layer.remove();
        return Err(error);
    }
    Ok(layer.write(&wanted)?)
}

/// Checks that the programs that come with the buildpack are for the image's processor: an emulator may
/// run this build on another one.
pub fn check_programs(programs: &Programs, machine: Machine) -> Result<(), PRootLayerError> {
    for program in [&programs.start, &programs.inside] {
        let kind = Kind::of(program)
            .map_err(|error| PRootLayerError::StartProgram(program.clone(), error))?;
        match kind {
            Kind::Elf(own) if own == machine => {}
            _ => return Err(PRootLayerError::OtherPackage(program.clone(), machine)),
        }
    }
    Ok(())
}

fn check_proot(program: &Path, machine: Machine) -> Result<(), PRootLayerError> {
    match Kind::of(program) {
        Ok(Kind::Elf(own)) if own != machine => Err(PRootLayerError::Program(format!(
            "it is for {own}, and the image for {machine}"
        ))),
        _ => Ok(()),
    }
}

fn fill(
    directory: &Path,
    source: Option<&ToolSource>,
    start_program: &[u8],
    inside: Option<&[u8]>,
    http: &Http,
) -> Result<(), PRootLayerError> {
    for name in ["bin", "libexec"] {
        let path = directory.join(name);
        fs::create_dir_all(&path).map_err(LayerError::at(path))?;
    }
    let proot = source
        .map(|source| download(source, &directory.join("download"), http))
        .transpose()?;
    let Loaders { loader, loader_32 } = proot.as_deref().map(Loaders::find).unwrap_or_default();

    let start_file = format!("bin/{START_PROGRAM}");
    for (name, bytes) in [
        (PROOT, proot.as_deref()),
        (LOADER, loader),
        (LOADER_32, loader_32),
        (INSIDE, inside),
        (&start_file, Some(start_program)),
    ] {
        if let Some(bytes) = bytes {
            write_program(&directory.join(name), bytes)?;
        }
    }
    let link = directory.join("bin").join(RUN_PROOT);
    Ok(symlink(START_PROGRAM, &link).map_err(LayerError::at(link))?)
}

/// Writes a new file that all may execute.
fn write_program(path: &Path, bytes: &[u8]) -> Result<(), LayerError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(LayerError::at(path))
}

/// Puts PRoot alone into `directory`, for a build that needs it, and returns its path.
pub fn program_in(
    directory: &Path,
    source: &ToolSource,
    http: &Http,
) -> Result<PathBuf, PRootLayerError> {
    let path = directory.join("proot");
    if !path.exists() {
        let program = download(source, &directory.join("download"), http)?;
        write_program(&path, &program)?;
    }
    Ok(path)
}

/// Downloads PRoot by way of the file `to`.
fn download(source: &ToolSource, to: &Path, http: &Http) -> Result<Vec<u8>, PRootLayerError> {
    let name = tool_name(source);
    // Only the one that comes with the buildpack has a version.
    if source.version.is_some() {
        log::sub_bullet(format!("Using {name}, which comes with the buildpack"));
        source.download(http, to)?;
    } else {
        let timer = print::sub_start_timer(format!("Downloading {name}"));
        let downloaded = source.download(http, to);
        timer.done();
        downloaded?;
    }
    let bytes = fs::read(to).map_err(LayerError::at(to))?;
    fs::remove_file(to).map_err(LayerError::at(to))?;
    program(bytes)
}

/// The program in a downloaded file: the file itself, or the `proot` or `proot.static` of a
/// gzipped tar. Alpine's packages are several gzip members in a row.
fn program(bytes: Vec<u8>) -> Result<Vec<u8>, PRootLayerError> {
    let refuse = |reason: &str| PRootLayerError::Program(reason.to_string());
    if bytes.starts_with(b"\x7fELF") {
        if bytes.len() as u64 > MAX_PROGRAM_SIZE {
            return Err(refuse("it is far larger than PRoot"));
        }
        return Ok(bytes);
    }
    if !bytes.starts_with(b"\x1f\x8b") {
        return Err(refuse(
            "it is neither an ELF program nor a gzipped tar archive",
        ));
    }
    let unreadable = |error: io::Error| PRootLayerError::Program(error.to_string());
    let mut archive = tar::Archive::new(AtMost {
        reader: MultiGzDecoder::new(Cursor::new(bytes)),
        left: MAX_ARCHIVE_SIZE,
    });
    // The members of an Alpine package end a tar archive each only in the last one.
    archive.set_ignore_zeros(true);
    for entry in archive.entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        let named = path
            .file_name()
            .is_some_and(|name| name == "proot" || name == "proot.static");
        if !named || !entry.header().entry_type().is_file() {
            continue;
        }
        if entry.size() > MAX_PROGRAM_SIZE {
            return Err(refuse("its `proot` is far larger than PRoot"));
        }
        let size = entry.size();
        let mut program = Vec::new();
        let mut entry = entry.take(MAX_PROGRAM_SIZE);
        entry.read_to_end(&mut program).map_err(unreadable)?;
        return if program.len() as u64 != size {
            Err(refuse("its `proot` is cut short"))
        } else if program.starts_with(b"\x7fELF") {
            Ok(program)
        } else {
            Err(refuse("its `proot` is no ELF program"))
        };
    }
    Err(refuse("it holds no file named `proot` or `proot.static`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    const ELF: &[u8] = b"\x7fELF and the rest";

    fn gzipped_tar(name: &str, end: bool) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(ELF.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, name, ELF).unwrap();
        let mut bytes = tar.into_inner().unwrap();
        if !end {
            bytes.truncate(bytes.len() - 1024);
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&bytes).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn a_program_is_taken_bare_or_out_of_an_archive() {
        let mut apk = gzipped_tar(".PKGINFO", false);
        apk.extend(gzipped_tar("usr/bin/proot.static", true));
        for bytes in [ELF.to_vec(), gzipped_tar("proot-5.4.0/proot", true), apk] {
            assert_eq!(program(bytes).unwrap(), ELF);
        }
    }

    #[test]
    fn a_file_without_a_program_is_refused_with_the_reason() {
        for (bytes, reason) in [
            (b"<html>".to_vec(), "neither an ELF program nor"),
            (gzipped_tar("usr/bin/other", true), "no file named `proot`"),
        ] {
            match program(bytes) {
                Err(PRootLayerError::Program(said)) => assert!(said.contains(reason), "{said}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
