//! A relocated closure runs from its layer at native speed: no `/nix`, no engine, nothing to forbid.

use crate::common::{
    Deploy, Made, fixtures, free_port, made, output, python_app_answers, share_of_programs,
    store_path, strip_ansi,
};
use platform::image::Image;
use platform::process::Launch;
use platform::sandbox::{Forbidden, Output};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// The image's process, where neither PRoot nor a namespace could work.
fn launch(deploy: &Deploy, image: &Image) -> Launch {
    Launch::new(image, &deploy.fixtures.rootfs).sandbox(|sandbox| {
        sandbox
            .forbid(Forbidden::Ptrace)
            .forbid(Forbidden::UserNamespaces)
            .env("LC_ALL", "C")
    })
}

fn shell(launch: Launch, script: &str) -> Output {
    launch
        .command(["run_proot.sh", "timeout", "60", "sh", "-ec", script])
        .run()
        .unwrap()
}

fn built(deploy: &Deploy) -> (Image, String) {
    let outcome = deploy.build();
    assert!(outcome.success(), "{}{}", outcome.detect_log, outcome.log);
    (outcome.image.unwrap(), deploy.stable(&outcome.log))
}

#[test]
fn the_python_app_answers_from_its_layer_where_no_engine_could_work() {
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    deploy.set("NIX_ENGINE", "relocate");
    let (image, log) = built(&deploy);
    insta::assert_snapshot!("relocated_build", log);
    let answer = python_app_answers(launch(&deploy, &image));
    assert_eq!(answer["app"], "myapp");
    assert_eq!(answer["uid"], 1000);
    assert!(
        answer["executable"]
            .as_str()
            .unwrap()
            .starts_with("/layers/nix_hydra/"),
        "{answer}"
    );

    let proot = image.layer_dir("proot").unwrap();
    assert!(!proot.join("libexec/proot").exists());
    assert!(proot.join("bin/run_proot.sh").exists());
}

#[test]
fn python_uses_its_libraries_and_processes_from_the_layer() {
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    deploy.set("NIX_ENGINE", "relocate");
    let (image, _) = built(&deploy);
    let python = "\
        import multiprocessing, sqlite3, ssl, zlib\n\
        def square(number):\n\
        \x20   return number * number\n\
        if __name__ == '__main__':\n\
        \x20   ssl.create_default_context()\n\
        \x20   database = sqlite3.connect(':memory:')\n\
        \x20   print(database.execute('select 6 * 7').fetchone()[0])\n\
        \x20   with multiprocessing.get_context('spawn').Pool(2) as pool:\n\
        \x20       print(pool.map(square, [1, 2, 3]))\n\
        \x20   maps = open('/proc/self/maps').read()\n\
        \x20   print('/nix' in maps.replace('nix_hydra', ''), '/layers/nix_hydra/' in maps)\n";
    let script = format!(
        "cat >/tmp/work.py <<'END'\n{python}END\n\
         $(sed -n 's/^exec \\([^ ]*python3\\).*/\\1/p' \"$(command -v myapp)\") /tmp/work.py"
    );
    let output = shell(launch(&deploy, &image), &script);
    assert_eq!(output.stdout, "42\n[1, 4, 9]\nFalse True\n", "{output:?}");
}

#[test]
fn python_does_not_compile_a_source_anew_that_was_rewritten() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    if Command::new("python3").arg("--version").output().is_err() {
        platform::left_out("there is no python3");
        return;
    }
    let tool = deploy.fixtures.apps["static"].store_path.clone();
    let python = || {
        let mut python = Command::new("python3");
        python.env_remove("PYTHONPYCACHEPREFIX");
        python
    };
    let made = made(&deploy.fixtures, "module", &[&tool], |out| {
        fs::write(out.join("module.py"), format!("TOOL = '{tool}'\n")).unwrap();
        // As nixpkgs compiles.
        let mut compile = python();
        let compile = compile.args(["-m", "compileall", "-q", "--invalidation-mode"]);
        output(compile.arg("checked-hash").arg(out));
    });
    deploy
        .set(
            "NIX_EXTRA_BINARY_CACHE",
            &format!("{} {}", made.cache.url(), deploy.cache.url()),
        )
        .set("NIX_STORE_PATH", &made.store_path)
        .set("NIX_ENGINE", "relocate");
    fs::write(deploy.app().join("Procfile"), "web: true\n").unwrap();
    let (image, _) = built(&deploy);
    let mut import = python();
    let import = import.args(["-v", "-B", "-c", "import module; print(module.TOOL)"]);
    let import = import.env("PYTHONPATH", store_path(&image, &made.base_name));
    let imported = import.output().unwrap();
    let stdout = String::from_utf8(imported.stdout).unwrap();
    assert!(stdout.starts_with("/layers/nix_hydra/closure/"), "{stdout}");
    let messages = String::from_utf8(imported.stderr).unwrap();
    let loaded: Vec<_> = messages
        .lines()
        .filter(|line| line.contains("code object from") && line.contains("module"))
        .collect();
    assert!(
        matches!(loaded[..], [line] if line.contains(".pyc")),
        "{loaded:?}"
    );
}

/// What each program is given to do, and what it says then.
///
/// Each prints the mappings that it has below `/nix`, of which there must be none.
const PROGRAMS: [(&str, &str, &str); 11] = [
    (
        "perl with modules",
        "perl -MJSON -MPOSIX -MSocket -e '
            open(my $maps, \"<\", \"/proc/self/maps\"); print grep { m{ /nix/} } <$maps>;
            print encode_json([POSIX::floor(1.5)]), \"\\n\"'",
        "[1]\n",
    ),
    (
        "ruby",
        "ruby -rjson -ropenssl -rsocket -e '
            print File.readlines(\"/proc/self/maps\").grep(%r{ /nix/}).join;
            server = TCPServer.new(\"127.0.0.1\", 0);
            Thread.new { server.accept.puts(OpenSSL::Digest::SHA256.hexdigest(\"x\")[0, 8]) };
            puts [TCPSocket.new(\"127.0.0.1\", server.addr[1]).gets.chomp].to_json'",
        "[\"2d711642\"]\n",
    ),
    (
        "php",
        "php8.2 -r '
            echo implode(\"\", preg_grep(\"# /nix/#\", file(\"/proc/self/maps\")));
            echo json_encode([hash(\"crc32b\", \"x\"), preg_match(\"/a+/\", \"caat\")]), \"\\n\";'",
        "[\"8cdc1683\",1]\n",
    ),
    (
        "node",
        "node -e '
            const maps = require(\"fs\").readFileSync(\"/proc/self/maps\", \"utf8\");
            process.stdout.write(maps.split(\"\\n\").filter(line => / \\/nix\\//.test(line)).join(\"\\n\"));
            const http = require(\"http\");
            const server = http.createServer((_, answer) => answer.end(\"served\\n\")).listen(0, \"127.0.0.1\", () =>
                http.get({ host: \"127.0.0.1\", port: server.address().port }, answer => {
                    answer.pipe(process.stdout); answer.on(\"end\", () => server.close()); }));'",
        "served\n",
    ),
    (
        "nginx",
        "mkdir /tmp/nginx && cd /tmp/nginx && echo served >file
         cat >conf <<END
         daemon off; pid pid; error_log error;
         events {}
         http {
             access_log off; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c;
             uwsgi_temp_path d; scgi_temp_path e;
             server { listen 127.0.0.1:$PORT; root /tmp/nginx; }
         }
END
         nginx -p /tmp/nginx -c conf 2>messages &
         until [ -s pid ]; do sleep 0.05; done
         php8.2 -r 'echo file_get_contents(\"http://127.0.0.1:\" . getenv(\"PORT\") . \"/file\");'
         grep ' /nix/' /proc/$!/maps || true
         kill $!; wait",
        "served\n",
    ),
    (
        "redis",
        "redis-server --port 0 --unixsocket /tmp/redis.sock --save '' --daemonize no >/tmp/redis.log &
         until [ -S /tmp/redis.sock ]; do sleep 0.05; done
         redis-cli -s /tmp/redis.sock set key value
         redis-cli -s /tmp/redis.sock get key
         grep ' /nix/' /proc/$!/maps || true
         kill $!; wait",
        "OK\nvalue\n",
    ),
    (
        "postgresql",
        "bin=$(dirname \"$(command -v nginx)\")/../lib/postgresql/15/bin
         $bin/initdb -D /tmp/db -U app --no-sync >/tmp/initdb.log
         $bin/postgres -D /tmp/db -k /tmp -c listen_addresses= -c fsync=off -c jit=off 2>/tmp/postgres.log &
         until [ -S /tmp/.s.PGSQL.5432 ]; do sleep 0.05; done
         until $bin/psql -h /tmp -U app postgres -Atc 'select 6 * 7' 2>/tmp/psql.log; do sleep 0.1; done
         grep ' /nix/' /proc/$!/maps || true
         kill $!; wait",
        "42\n",
    ),
    (
        "git",
        "export HOME=/tmp GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@a
         git init -q /tmp/repository && cd /tmp/repository && echo one >file && git add file
         git commit -q -m 'A message'
         git clone -q /tmp/repository /tmp/clone && git -C /tmp/clone log --format=%s",
        "A message\n",
    ),
    (
        "a Java program in a jar that names a program in the store",
        "share=$(dirname \"$(command -v nginx)\")/../share
         cat >/tmp/app.js <<'END'
         var properties = new java.util.Properties();
         properties.load(java.lang.ClassLoader.getSystemResourceAsStream('app/tool.properties'));
         var words = [properties.get('tool'), 'echo', 'from Java'];
         var process = new java.lang.ProcessBuilder(words).start();
         print(new java.io.BufferedReader(new java.io.InputStreamReader(process.getInputStream())).readLine());
END
         java -cp $share/app/app.jar org.mozilla.javascript.tools.shell.Main /tmp/app.js",
        "from Java\n",
    ),
    (
        "a static program",
        "busybox grep ' /nix/' /proc/self/maps || busybox echo static",
        "static\n",
    ),
    (
        "a wrapper of a wrapper",
        "json -e 'print JSON::PP->new->canonical->encode({b => 1, a => 2}), \"\\n\"'",
        "{\"a\":2,\"b\":1}\n",
    ),
];

#[test]
fn programs_of_many_kinds_do_their_work_from_the_layer() {
    let Some(mut deploy) = Deploy::of_programs() else {
        return;
    };
    deploy.set("NIX_ENGINE", "relocate");
    let (image, log) = built(&deploy);
    assert!(log.contains("Relocated: "), "{log}");
    let share = share_of_programs(&image);
    for (name, script, expected) in PROGRAMS {
        let mut launch = launch(&deploy, &image).env("PORT", &free_port().to_string());
        if name == "node" {
            // Debian's has `/usr/share/nodejs` compiled in.
            launch = launch.sandbox(|sandbox| sandbox.bind_ro(&share, "/usr/share"));
        }
        let output = shell(launch, script);
        assert_eq!(output.stdout, expected, "{name}: {output:?}");
        assert_eq!(output.code, 0, "{name}: {output:?}");
    }
}

#[test]
fn a_second_build_keeps_a_relocated_closure_and_another_engine_does_not() {
    let Some(mut deploy) = Deploy::by_path("static") else {
        return;
    };
    deploy.set("NIX_ENGINE", "relocate");
    built(&deploy);
    deploy.requests();
    let (image, _) = built(&deploy);
    assert_eq!(image.changed_layers(), [] as [&str; 0]);
    assert_eq!(deploy.requests(), [] as [&str; 0]);
    deploy.set("NIX_ENGINE", "auto");
    let (image, _) = built(&deploy);
    assert_eq!(image.changed_layers(), [] as [&str; 0]);
    deploy.unset("NIX_ENGINE");
    let (image, _) = built(&deploy);
    // A program that refers to nothing is the same bytes, so the export finds its layer unchanged.
    assert_eq!(image.changed_layers(), ["closure", "proot"]);
}

/// A store path with a tool, and with everything that names it in a way that cannot be rewritten.
fn stubborn() -> Option<(Deploy, Made)> {
    let mut deploy = Deploy::new("static")?;
    let tool = deploy.fixtures.apps["static"].store_path.clone();
    let made = made(&fixtures()?, "stubborn", &[&tool], |out| {
        let text = format!("tool={tool}/bin/myapp\n");
        let hash = &tool["/nix/store/".len()..][..32];
        fs::create_dir_all(out.join("share")).unwrap();
        let write =
            |name: &str, bytes: &[u8]| fs::write(out.join("share").join(name), bytes).unwrap();
        write("plain", text.as_bytes());
        write("bare", hash.as_bytes());
        let table = [b"SQLite format 3\0".as_slice(), text.as_bytes()].concat();
        write("table.sqlite", &table);
        let unknown = [b"\x9d\0\xfe".as_slice(), text.as_bytes()].concat();
        write("unknown", &unknown);
        write("looks-packed", format!("BZh {text}").as_bytes());
        write(
            "broken.zip",
            &[b"PK\x03\x04".as_slice(), &[0xff; 100]].concat(),
        );
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        write("wide", &wide);
        write("packed.zst", &zstd::encode_all(text.as_bytes(), 1).unwrap());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        write("packed.gz", &gzip.finish().unwrap());
        write(
            "SHA256SUMS",
            format!("{}  plain\n", "0".repeat(64)).as_bytes(),
        );
    });
    deploy
        .set(
            "NIX_EXTRA_BINARY_CACHE",
            &format!("{} {}", made.cache.url(), deploy.cache.url()),
        )
        .set("NIX_STORE_PATH", &made.store_path);
    Some((deploy, made))
}

/// The files of that which prevent a relocation.
const VOUCHED: &str =
    "*/share/bare */share/looks-packed */share/wide *.zst */SHA256SUMS *.sqlite */share/unknown";

#[test]
fn whatever_cannot_be_rewritten_is_named_by_file() {
    let Some((mut deploy, made)) = stubborn() else {
        return;
    };
    deploy.set("NIX_ENGINE", "relocate");
    let outcome = deploy.build();
    assert!(!outcome.success());
    let log = strip_ansi(&outcome.log);
    let (_, message) = log.split_once("! The closure cannot").unwrap();
    let message = message.replace(&made.base_name, "<stubborn>");
    insta::assert_snapshot!("stubborn_files", message);
    let left = fs::read_dir(&outcome.layers).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");

    deploy.set("NIX_RELOCATE_IGNORE", VOUCHED);
    let (_, log) = built(&deploy);
    assert!(log.contains("Relocated: 4 references in 4 files"), "{log}");
}

#[test]
fn auto_takes_a_closure_as_it_is_where_files_prevent_a_relocation() {
    let Some((mut deploy, made)) = stubborn() else {
        return;
    };
    deploy.set("NIX_ENGINE", "auto");
    let (image, log) = built(&deploy);
    let log = log
        .replace(&made.base_name, "<stubborn>")
        .replace(made.cache.url().trim_end_matches('/'), "http://made");
    insta::assert_snapshot!("auto_build", log);
    let seen = Path::new("share/packed.gz");
    assert!(store_path(&image, &made.base_name).join(seen).exists());
    let output = shell(
        Launch::new(&image, &deploy.fixtures.rootfs),
        &format!("cat {}/share/plain", made.store_path),
    );
    assert!(output.stdout.starts_with("tool=/nix/store/"), "{output:?}");
    // Nothing is rewritten in what is not known.
    let unknown = fs::read(store_path(&image, &made.base_name).join("share/unknown")).unwrap();
    assert!(unknown.starts_with(b"\x9d\0\xfetool=/nix/store/"));

    deploy.requests();
    let (image, _) = built(&deploy);
    assert_eq!(image.changed_layers(), [] as [&str; 0]);
}

#[test]
fn the_doctor_reads_a_relocated_image_and_names_what_is_not_as_it_was_rewritten() {
    let Some((mut deploy, made)) = stubborn() else {
        return;
    };
    deploy
        .set("NIX_ENGINE", "relocate")
        .set("NIX_RELOCATE_IGNORE", VOUCHED);
    let (image, _) = built(&deploy);
    let doctor = |words: &[&str]| {
        let launch = Launch::new(&image, &deploy.fixtures.rootfs);
        let words = [&["nix-hydra", "doctor"], words].concat();
        let output = launch.command(words).run().unwrap();
        let checks = output.stdout.split("\n\n").nth(2).unwrap_or_default();
        let checks = checks.replace(&made.base_name[17..], "-<stubborn>");
        let lines = checks.lines().map(str::trim_end);
        let lines = lines.skip_while(|line| !line.contains("references"));
        let lines = lines.take_while(|line| !line.contains("  engine  "));
        (output.code, lines.collect::<Vec<_>>().join("\n"))
    };
    let well = doctor(&["--thorough"]);
    // As another build left them.
    let share = store_path(&image, &made.base_name).join("share");
    let reference = format!("{}/bin/app\n", made.store_path);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(reference.as_bytes()).unwrap();
    for (name, bytes) in [
        ("plain", reference.into_bytes()),
        ("packed.gz", gzip.finish().unwrap()),
    ] {
        fs::remove_file(share.join(name)).unwrap();
        fs::write(share.join(name), bytes).unwrap();
    }
    let damaged = doctor(&["--thorough"]);
    assert_eq!((well.0, damaged.0), (0, 1), "{}\n{}", well.1, damaged.1);
    insta::assert_snapshot!("thorough", format!("{}\n\n{}", well.1, damaged.1));
    // Sizes and names alone say nothing of it.
    assert_eq!(doctor(&[]), (0, String::new()));
    let json = deploy.run(&image, ["nix-hydra", "doctor", "--json", "--thorough"]);
    assert_eq!(json.code, 1, "{json:?}");
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["checks"][1]["name"], "references");
}

#[test]
fn the_doctor_reads_nothing_where_nothing_was_rewritten() {
    let Some(deploy) = Deploy::new("static") else {
        return;
    };
    let (image, _) = built(&deploy);
    let output = deploy.run(&image, ["nix-hydra", "doctor", "--thorough"]);
    let said = "nothing to look for: the closure is not relocated";
    assert!(output.stdout.contains(said), "{output:?}");
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn with_debug_the_build_says_how_many_files_of_which_format_it_rewrote() {
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    deploy
        .set("NIX_ENGINE", "relocate")
        .set("NIX_DEBUG", "true");
    let formats = |log: &str| {
        let (_, after) = log.split_once("Files and links with store paths").unwrap();
        let lines = after.lines().skip(1);
        let lines = lines.map_while(|line| line.trim().strip_prefix("- ")?.split_once("  "));
        let parsed = lines.map(|(count, format)| (format.to_string(), count.parse().unwrap()));
        parsed.collect::<std::collections::BTreeMap<String, usize>>()
    };
    let (_, log) = built(&deploy);
    let found = formats(&log);
    let (_, extent) = log.split_once(" references in ").unwrap();
    let (files, _) = extent.split_once(" files").unwrap();
    assert_eq!(
        found.values().sum::<usize>(),
        files.parse::<usize>().unwrap(),
        "{log}"
    );
    for format in ["ELF", "Python bytecode", "link", "text"] {
        assert!(found.contains_key(format), "{log}");
    }
    // Another build keeps the layers, and what is known of them.
    let (_, again) = built(&deploy);
    assert!(again.contains("Using the previous image's"), "{again}");
    assert_eq!(formats(&again), found);
}

#[test]
fn that_it_could_be_relocated_is_said_once_and_only_where_proot_would_run_the_app() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let said = "Could run with no engine, faster than under PRoot: set NIX_ENGINE=relocate";
    let (_, log) = built(&deploy);
    assert!(!log.contains("no engine"), "{log}");
    deploy.forbid(Forbidden::UserNamespaces);
    // Nothing changed, so nothing is new.
    let (_, log) = built(&deploy);
    assert!(!log.contains("no engine"), "{log}");
    let mut fresh = Deploy::new("static").unwrap();
    fresh.forbid(Forbidden::UserNamespaces);
    let (_, log) = built(&fresh);
    assert_eq!(log.matches(said).count(), 1, "{log}");
    fresh.set("NIX_ENGINE", "proot");
    let (_, log) = built(&fresh);
    assert!(!log.contains("Could run"), "{log}");
}
