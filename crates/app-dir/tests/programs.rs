//! In each way in which git would run a program that a `.git` names, that program is not run here, and
//! is by git, so that a case which no longer says anything is noticed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use app_dir::git::{Repository, changes, submodules};
use app_dir::{AppDir, Node};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A repository in which everything may be, and the program that must not run.
struct App {
    directory: TempDir,
}

/// A way to run a program: what it is, what of the repository names the program `CANARY`, and the git
/// command that runs it.
type Case = (&'static str, fn(&App), &'static [&'static str]);

const CASES: [Case; 29] = [
    ("clean filter", |app| app.filter("clean"), &["status"]),
    ("process filter", |app| app.filter("process"), &["status"]),
    (
        "smudge filter",
        |app| app.filter("smudge"),
        &["checkout-index", "--prefix=copy/", "--all"],
    ),
    (
        "filter of .git/info/attributes",
        |app| {
            app.config("[filter \"x\"]\n\tclean = CANARY\n");
            app.write(".git/info/attributes", "* filter=x\n");
        },
        &["status"],
    ),
    (
        "file system monitor",
        |app| app.config("[core]\n\tfsmonitor = CANARY\n"),
        &["status"],
    ),
    (
        "configuration that another file includes",
        |app| {
            app.config("[include]\n\tpath = more\n");
            app.write(".git/more", "[core]\n\tfsmonitor = CANARY\n");
        },
        &["status"],
    ),
    (
        "configuration that is included on a condition",
        |app| {
            app.config("[includeIf \"gitdir:**\"]\n\tpath = ../more\n");
            app.write("more", "[core]\n\tfsmonitor = CANARY\n");
        },
        &["status"],
    ),
    (
        "configuration of the worktree",
        |app| {
            app.config(
                "[core]\n\trepositoryFormatVersion = 1\n[extensions]\n\tworktreeConfig = true\n",
            );
            app.write(".git/config.worktree", "[core]\n\tfsmonitor = CANARY\n");
        },
        &["status"],
    ),
    (
        "configuration of a common directory outside the app",
        |app| {
            let outside = app.directory.path().join("outside");
            fs::rename(app.path().join(".git"), &outside).unwrap();
            fs::create_dir(app.path().join(".git")).unwrap();
            for file in ["HEAD", "index"] {
                fs::copy(outside.join(file), app.path().join(".git").join(file)).unwrap();
            }
            app.write(".git/commondir", outside.to_str().unwrap());
            app.append(&outside.join("config"), "[core]\n\tfsmonitor = CANARY\n");
        },
        &["status"],
    ),
    (
        "repository outside the app, by a .git file",
        |app| {
            let outside = app.directory.path().join("outside");
            fs::rename(app.path().join(".git"), &outside).unwrap();
            app.write(".git", &format!("gitdir: {}\n", outside.display()));
            app.append(&outside.join("config"), "[core]\n\tfsmonitor = CANARY\n");
        },
        &["status"],
    ),
    (
        "repository in the app, by a .git file",
        |app| {
            fs::rename(app.path().join(".git"), app.path().join("git")).unwrap();
            app.write(".git", "gitdir: git\n");
            app.append(
                &app.path().join("git/config"),
                "[core]\n\tfsmonitor = CANARY\n",
            );
        },
        &["status"],
    ),
    (
        "configuration of a submodule",
        |app| {
            app.submodule();
            let config = app.path().join("sub/.git/config");
            app.append(&config, "[core]\n\tfsmonitor = CANARY\n");
        },
        &["status"],
    ),
    (
        "hook",
        |app| app.hook(".git/hooks/post-index-change"),
        &["status"],
    ),
    (
        "hook of another directory",
        |app| {
            app.config("[core]\n\thooksPath = hooks\n");
            app.hook("hooks/post-checkout");
        },
        &["checkout", "--quiet", "--detach"],
    ),
    (
        "text conversion",
        |app| app.diff("textconv"),
        &["diff", "--textconv"],
    ),
    (
        "difference of an attribute",
        |app| app.diff("command"),
        &["diff"],
    ),
    (
        "external difference",
        |app| {
            app.config("[diff]\n\texternal = CANARY\n");
            app.write("main.py", "changed\n");
        },
        &["diff"],
    ),
    (
        "ssh",
        |app| app.config("[core]\n\tsshCommand = CANARY\n[remote \"x\"]\n\turl = a@localhost:b\n"),
        &["fetch", "x"],
    ),
    (
        "proxy of git's protocol",
        |app| {
            app.config("[core]\n\tgitProxy = CANARY\n[remote \"x\"]\n\turl = git://localhost/b\n");
        },
        &["fetch", "x"],
    ),
    (
        "program at the other end",
        |app| app.config("[remote \"x\"]\n\turl = .\n\tuploadpack = CANARY\n"),
        &["fetch", "x"],
    ),
    (
        "transport that is a program",
        |app| {
            app.config(
                "[protocol \"ext\"]\n\tallow = always\n[remote \"x\"]\n\turl = ext::CANARY\n",
            );
        },
        &["fetch", "x"],
    ),
    (
        "object that a partial clone fetches when it is looked at",
        |app| {
            app.config(
                "[core]\n\trepositoryFormatVersion = 1\n[extensions]\n\tpartialClone = x\n\
                 [remote \"x\"]\n\turl = .\n\tpromisor = true\n\tuploadpack = CANARY\n",
            );
            app.write(".git/HEAD", &"1".repeat(40));
        },
        &["cat-file", "commit", "HEAD"],
    ),
    (
        "credential helper",
        |app| app.config("[credential]\n\thelper = !CANARY\n"),
        &["credential", "fill"],
    ),
    (
        "question for a password",
        |app| app.config("[core]\n\taskPass = CANARY\n"),
        &["credential", "fill"],
    ),
    (
        "editor",
        |app| app.config("[core]\n\teditor = CANARY\n"),
        &["commit", "--allow-empty"],
    ),
    (
        "signature",
        |app| app.config("[gpg]\n\tprogram = CANARY\n[commit]\n\tgpgSign = true\n"),
        &["commit", "--allow-empty", "--message=x"],
    ),
    (
        "alias",
        |app| app.config("[alias]\n\tst = !CANARY\n"),
        &["st"],
    ),
    (
        "references of alternates",
        |app| {
            app.config("[core]\n\talternateRefsCommand = CANARY\n");
            app.write("other/HEAD", "ref: refs/heads/main\n");
            fs::create_dir_all(app.path().join("other/objects")).unwrap();
            fs::create_dir_all(app.path().join("other/refs")).unwrap();
            app.write(".git/objects/info/alternates", "../../other/objects\n");
        },
        &["rev-list", "--alternate-refs"],
    ),
    (
        "pager",
        |app| app.config("[core]\n\tpager = CANARY\n"),
        &["var", "GIT_PAGER"],
    ),
];

impl App {
    /// A clean checkout whose files git looks at again.
    fn new() -> Self {
        let app = Self {
            directory: TempDir::new().unwrap(),
        };
        let canary = app.directory.path().join("canary");
        let ran = app.ran();
        fs::write(&canary, format!("#!/bin/sh\n: >{}\n", ran.display())).unwrap();
        fs::set_permissions(&canary, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(app.path()).unwrap();
        app.write("main.py", "print()\n");
        Self::commit(&app.path());
        app.write("main.py", "print()\n");
        app
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("app")
    }

    /// The file that the program makes.
    fn ran(&self) -> PathBuf {
        self.directory.path().join("ran")
    }

    /// Writes a file, with the program's path for `CANARY`.
    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, self.with_canary(text)).unwrap();
    }

    fn config(&self, text: &str) {
        self.append(&self.path().join(".git/config"), text);
    }

    fn append(&self, path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(self.with_canary(text).as_bytes()).unwrap();
    }

    fn with_canary(&self, text: &str) -> String {
        let canary = self.directory.path().join("canary");
        text.replace("CANARY", canary.to_str().unwrap())
    }

    fn filter(&self, kind: &str) {
        self.config(&format!("[filter \"x\"]\n\t{kind} = CANARY\n"));
        self.write(".gitattributes", "* filter=x\n");
    }

    fn diff(&self, kind: &str) {
        self.config(&format!("[diff \"x\"]\n\t{kind} = CANARY\n"));
        self.write(".gitattributes", "* diff=x\n");
        self.write("main.py", "changed\n");
    }

    fn hook(&self, name: &str) {
        self.write(name, "#!/bin/sh\nexec CANARY\n");
        let path = self.path().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn submodule(&self) {
        self.write("sub/file", "x\n");
        Self::commit(&self.path().join("sub"));
        Self::commit(&self.path());
    }

    fn commit(directory: &Path) {
        for arguments in [
            &["init", "--quiet", "--template="][..],
            &["add", "--all"],
            &["commit", "--quiet", "--message=all"],
        ] {
            let status = git(directory).args(arguments).status().unwrap();
            assert!(status.success(), "{arguments:?}");
        }
    }

    /// Everything that is asked of the app's `.git`.
    fn look(&self) {
        let app = AppDir::at(&self.path()).unwrap();
        let _ = submodules(&app, Path::new(""));
        let _ = Node::read(&app);
        if let Ok(Some(repository)) = Repository::at(&app, Path::new("")) {
            let head = repository.head().map(|head| head.to_string());
            let _ = repository.commit(&head.unwrap_or_default());
            let _ = changes(&repository);
        }
    }
}

fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/nonexistent")
        .env_remove("GIT_ASKPASS")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
        .args([
            "-c",
            "advice.addEmbeddedRepo=false",
            "-c",
            "safe.directory=*",
            "-C",
        ])
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[test]
fn no_program_that_a_dot_git_names_is_run() {
    for (name, arrange, _) in CASES {
        let app = App::new();
        arrange(&app);
        app.look();
        assert!(!app.ran().exists(), "{name}: its program ran");
    }
}

#[test]
fn git_itself_would_run_each_of_them() {
    let mut idle = Vec::new();
    for (name, arrange, arguments) in CASES {
        let app = App::new();
        arrange(&app);
        let mut command = git(&app.path());
        if name == "pager" {
            // It is run for a terminal alone: here git tells what it would run.
            let output = command.args(arguments).stdout(Stdio::piped()).output();
            let pager = String::from_utf8(output.unwrap().stdout).unwrap();
            assert!(pager.trim().ends_with("canary"), "{pager}");
            continue;
        }
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let question = b"protocol=https\nhost=localhost\n\n";
        let _ = child.stdin.take().unwrap().write_all(question);
        let _ = child.wait();
        if !app.ran().exists() {
            idle.push(name);
        }
    }
    assert!(idle.is_empty(), "git runs nothing for: {idle:?}");
}
